"""Streams as they stand in a job's log, and assemblies fed with them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from relay.core.assembly.assembly import Assembly
from relay.core.job import Dialect
from relay.core.sse import Decoder
from tests.support.fixtures import transcripts


class Log(NamedTuple):
    """The finished events of one recorded stream, and what is expected of it."""

    dialect: Dialect
    name: str
    events: list[bytes]
    expected: dict[str, Any]

    @property
    def stream(self) -> bytes:
        return b"".join(self.events)

    def __str__(self) -> str:
        return f"{self.dialect}-{self.name}"


def log_of(stream: bytes) -> list[bytes]:
    """The events that a worker makes of a provider's body."""
    decoder = Decoder()
    return [event.raw for event in [*decoder.feed(stream), *decoder.flush()]]


def logs(dialect: Dialect) -> list[Log]:
    return [Log(dialect, each.name, log_of(each.stream), each.expected) for each in transcripts(dialect)]


MESSAGES = logs("anthropic")
# The Responses API is no surface of the relay's; its events pass through, which has a test of its own.
COMPLETIONS = [log for log in logs("openai") if not log.name.startswith("responses")]
RESPONSES = [log for log in logs("openai") if log.name.startswith("responses")]
LOGS = [*MESSAGES, *COMPLETIONS]


def fed(dialect: Dialect, events: Iterable[bytes]) -> Assembly:
    assembly = Assembly(dialect)
    for event in events:
        assembly.feed(event)
    return assembly


def body_of(dialect: Dialect, events: Iterable[bytes]) -> Any:
    """The body as JSON; None where there is none."""
    body = fed(dialect, events).body()
    return None if body is None else json.loads(body)


def snapshot_of(dialect: Dialect, events: Iterable[bytes]) -> list[bytes]:
    return fed(dialect, events).snapshot()


def payloads(events: Iterable[bytes]) -> list[Any]:
    """The data of finished events; ``[DONE]`` as it is."""
    found = [b"\n".join(line[6:] for line in event.split(b"\n") if line.startswith(b"data: ")) for event in events]
    return [data.decode() if data == b"[DONE]" else json.loads(data) for data in found]


def bare(value: Any) -> Any:
    """Without members that are null: they are as good as absent, but for the content of a message."""
    if isinstance(value, dict):
        return {name: bare(each) for name, each in value.items() if each is not None or name == "content"}
    return [bare(each) for each in value] if isinstance(value, list) else value
