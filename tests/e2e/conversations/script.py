"""The conversations that every official SDK holds with every provider: ``script.json``, read and checked.

The file says in words of no vendor what is asked and what an application then sees.  ``in_anthropic`` and ``in_openai``
put it into a vendor's words.  A turn that cannot go alike everywhere says under ``differs`` where, why and how it goes
there; nothing is left out.  In texts ``{salt}`` is a new word for each time a conversation is held, so that none reads
what another wrote into a cache, and ``{long}`` a text, salted too, that is long enough to be cached.

A part of a message is a ``text``, an ``image`` (a URL, or the name of a file) or a ``pdf`` with its ``title``; where
``cache`` names a time, it is marked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

Vendor = Literal["anthropic", "openai"]
# Whole, or a stream: read event by event, or by the helper that accumulates it. Of the last turn; what those before it
# answered is needed to go on, so they are accumulated where the last is read by hand.
Way = Literal["whole", "events", "accumulated"]

WAYS: Final[tuple[Way, ...]] = ("whole", "events", "accumulated")
VENDORS: Final[tuple[Vendor, ...]] = ("anthropic", "openai")
MODELS: Final[Mapping[Vendor, str]] = {"anthropic": "claude-sonnet-4-6", "openai": "gpt-5.6-luna"}

_SENTENCES: Final = 200  # some 1,500 tokens; both models cache from 1,024 on


@dataclass(frozen=True, slots=True)
class Pair:
    """Whose surface an SDK speaks, and what speaks the provider behind it."""

    surface: Vendor
    provider: Vendor

    @property
    def model(self) -> str:
        """As the provider knows it."""
        return MODELS[self.provider]

    def __str__(self) -> str:
        return f"{self.surface}-to-{self.provider}"


PAIRS: Final = tuple(Pair(surface, provider) for surface in VENDORS for provider in VENDORS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What an application sees of an answer."""

    stop: Literal["end", "length", "tool", "sequence"] = "end"
    says: str = ""
    calls: Sequence[str] = ()  # the names of the tools, in order
    prompt_at_least: int = 1  # tokens: what was sent did arrive
    writes: Sequence[str] = ()  # the times of what is written into the cache
    reads: bool = False  # what the turn before left in the cache, to the token
    thinks: Literal["", "signed", "unseen"] = ""
    usage: bool = True
    raises: str = ""  # the class of the error, or one it is derived from
    complains: str = ""
    after: str = ""  # the text that was seen before the error


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    user: str | list[dict[str, Any]] = ""
    results: Mapping[str, dict[str, Any]] = field(default_factory=dict)  # of the calls before: a part for each tool
    afresh: bool = False  # with nothing said before
    expect: Expected = Expected()


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    name: str
    turns: Sequence[Turn]
    ways: Sequence[Way] = WAYS
    model: str = ""  # instead of the provider's own
    system: Sequence[dict[str, Any]] = ()
    tools: Sequence[dict[str, Any]] = ()
    choice: str = ""  # none, any, or a tool's name
    one_at_a_time: bool = False
    limit: int = 500
    stop_at: Sequence[str] = ()
    schema: dict[str, Any] | None = None
    effort: str = ""
    thinks: bool = False
    customer: str = ""
    tier: str = ""
    cache: str = ""  # the automatic form
    usage_asked: bool = True

    def schema_of(self, tool: str) -> Any:
        return next(each["schema"] for each in self.tools if each["name"] == tool)


def conversations(pair: Pair, salt: str = "") -> list[Conversation]:
    """The whole script as it goes between these two."""
    script = json.loads((Path(__file__).parent / "script.json").read_text())
    return [_conversation(each, script, salt, pair) for each in script["conversations"]]


def marker(ttl: str) -> dict[str, Any]:
    """The member that says what is to be cached, alike in both vendors' SDKs.  Five minutes are left unsaid."""
    if not ttl:
        return {}
    return {"cache_control": {"type": "ephemeral"} if ttl == "5m" else {"type": "ephemeral", "ttl": ttl}}


def _conversation(told: dict[str, Any], script: dict[str, Any], salt: str, pair: Pair) -> Conversation:
    tools = [script["tools"][tool["name"]] | tool for tool in told.get("tools", ())]
    told = _salted(told | {"tools": tools}, f"{salt}, {told['name']}")
    return Conversation(**told | {"turns": [_turn(turn, script["files"], pair) for turn in told["turns"]]})


def _salted(told: dict[str, Any], salt: str) -> dict[str, Any]:
    long = f"Manual {salt}. " + "Press the green button and wait. " * _SENTENCES
    salted: dict[str, Any] = json.loads(json.dumps(told).replace("{long}", long).replace("{salt}", salt))
    return salted


def _turn(told: dict[str, Any], files: dict[str, str], pair: Pair) -> Turn:
    turn = {name: value for name, value in told.items() if name not in ("expect", "differs")}
    if isinstance(turn.get("user"), list):
        turn["user"] = [_with_its_file(part, files) for part in turn["user"]]
    expect = dict(told.get("expect", {}))
    for difference in told.get("differs", ()):
        assert difference["because"]
        where = Pair(difference.get("surface", pair.surface), difference.get("provider", pair.provider))
        if where == pair:
            expect |= difference["expect"]
    return Turn(**turn, expect=Expected(**expect))


def _with_its_file(part: dict[str, Any], files: dict[str, str]) -> dict[str, Any]:
    """The name of a file gives way to its content; an image may be elsewhere, and then is named by its URL."""
    return {name: files.get(value, value) if name in ("image", "pdf") else value for name, value in part.items()}
