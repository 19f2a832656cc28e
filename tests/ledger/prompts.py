"""Calls with prompts that are cached, as their records would tell of them: real requests, real fingerprints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from relay.core.cache_control import breakpoints
from relay.core.fingerprint import of
from tests.ledger.records import STARTED_MS

Json = dict[str, Any]
Facts = dict[str, Any]
Cache = Literal["hit", "partial", "write", "none", "unknown"]

# Ten thousand bytes, some 2500 tokens: enough for the model of these tests, which caches from 512 on.
LONG = "You are a careful reader. " * 400


def text(words: str, ttl: str = "") -> Json:
    """A block; with a breakpoint if it has a time."""
    return {"type": "text", "text": words} | ({"cache_control": {"type": "ephemeral", "ttl": ttl}} if ttl else {})


def turns(*said: str, ttl: str = "5m") -> list[Json]:
    """A conversation with a breakpoint at its end."""
    last = len(said) - 1
    return [
        {"role": "assistant" if i % 2 else "user", "content": [text(words, ttl if i == last else "")]}
        for i, words in enumerate(said)
    ]


def request(system: str = LONG, ttl: str = "5m", messages: list[Json] | None = None, **members: Any) -> Json:
    """One with a breakpoint at the end of its system prompt."""
    said = messages or [{"role": "user", "content": "Hello"}]
    return {"model": "m", "max_tokens": 9, "system": [text(system, ttl)], "messages": said, **members}


def call(
    asked: Json, cache: Cache = "write", after_s: float = 0, headers: Mapping[str, str] | None = None, **facts: Any
) -> Facts:
    """The facts of a call that was sent so long after the first, and answered from 0.3 s later on."""
    fingerprint = of(asked, "anthropic", breakpoints(asked, "anthropic"), headers or {}, auto=False)
    started_ms = STARTED_MS + round(after_s * 1000)
    return {
        **{"fingerprint": fingerprint, "started_ms": started_ms, "ended_ms": started_ms + 2900, "first_event_ms": 300},
        **tokens(cache, marked=sum(map(size, (asked["system"], asked.get("tools", []), asked["messages"]))) // 4),
        **facts,
    }


def size(value: Any) -> int:
    return (
        len(value) if isinstance(value, str) else sum(map(size, value.values() if isinstance(value, dict) else value))
    )


def tokens(cache: Cache, marked: int) -> Facts:
    if cache == "unknown":
        return {"input_tokens": "", "output_tokens": ""} | dict.fromkeys(_CACHED, "")
    read = {"hit": marked, "partial": marked // 2}.get(cache, 0)
    written = marked - read if cache in ("partial", "write") else 0
    rest = marked if cache == "none" else 20
    return {"input_tokens": rest, **dict(zip(_CACHED, (read, written, 0), strict=True))}


_CACHED = ("cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens")
