"""A request's body as workers have it: in pieces, with the positions that were found in it at the door.

A worker renames the model and hashes prompts by these positions. It never looks at the JSON itself: in 30 MB of small
values that takes seconds, in which no stream of its process would move. ``relay.core.body`` finds the positions, the
job carries them here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from relay.core.document import Span

Part = tuple[str, int, int]  # a section's name, and where the text stands that is taken from it


@dataclass(frozen=True, slots=True)
class Prefix:
    """The prompt up to and including the marked object at ``path``: where in the body its text stands.

    For each of tools, system and messages that is present, in this order and whatever the order in the JSON, a part:
    the section's value, the last one only up to the end of the marked object. The automatic breakpoint, whose path is
    empty, covers everything. In OpenAI's form there is no ``system``.
    """

    path: str
    ttl: str
    parts: tuple[Part, ...]

    @classmethod
    def decode(cls, stored: dict[str, Any]) -> Prefix:
        """From its JSON, which orjson writes as it stands."""
        parts = tuple((name, start, end) for name, start, end in stored["parts"])
        return cls(stored["path"], stored["ttl"], parts)


def replaced(pieces: Sequence[bytes], spans: Sequence[Span], value: bytes) -> list[bytes]:
    """The body with ``value`` in place of each span.  Only pieces that hold some of a span are copied."""
    result, at = [], 0
    for piece in pieces:
        held = [(start - at, end - at) for start, end in spans if start < at + len(piece) and at < end]
        result.append(_spliced(piece, held, value) if held else piece)
        at += len(piece)
    return [piece for piece in result if piece]  # a span may have filled one


def _spliced(piece: bytes, spans: list[Span], value: bytes) -> bytes:
    """The piece that a span begins in gets the value; of one that began before it only the rest is cut away."""
    view, done = memoryview(piece), 0
    texts: list[bytes | memoryview] = []
    for start, end in spans:
        if start >= 0:
            texts += view[done:start], value
        done = end
    return b"".join([*texts, view[done:]])


def moved(prefixes: Sequence[Prefix], spans: Sequence[Span], value_length: int) -> tuple[Prefix, ...]:
    """The prefixes in the body where a value of that length has replaced each span.  No span lies in a prompt."""

    def shifted(part: Part) -> Part:
        name, start, end = part
        by = sum(value_length - (behind - first) for first, behind in spans if behind <= start)
        return name, start + by, end + by

    return tuple(Prefix(prefix.path, prefix.ttl, tuple(map(shifted, prefix.parts))) for prefix in prefixes)


def digests(prefixes: Sequence[Prefix], pieces: Sequence[bytes]) -> str:
    """SHA-256 of each prefix, as the value of a response header: ``system.0=<hex>, messages.2.content.0=<hex>``.

    Hashed is, for each part, the section's name, a NUL, and the raw text as it stands in the body. NUL cannot occur in
    JSON text, so two different prompts never hash the same bytes.
    """
    return ", ".join(f"{prefix.path or 'body'}={_sha256(prefix, pieces)}" for prefix in prefixes)


def _sha256(prefix: Prefix, pieces: Sequence[bytes]) -> str:
    sha256 = hashlib.sha256()
    for name, start, end in prefix.parts:
        sha256.update(f"{name}\0".encode())
        for text in _between(start, end, pieces):
            sha256.update(text)
    return sha256.hexdigest()


def _between(start: int, end: int, pieces: Sequence[bytes]) -> Iterator[memoryview]:
    at = 0
    for piece in pieces:
        if start < at + len(piece) and at < end:
            yield memoryview(piece)[max(start - at, 0) : end - at]
        at += len(piece)
