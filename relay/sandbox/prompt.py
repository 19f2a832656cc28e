"""A prompt as the provider reads it: blocks in order, their size in tokens, and a digest of every prefix.

Pure.  The dialects make blocks; ``cache.py`` looks the prefixes up.  The rule for tokens is ours and deliberately
simple: one for every 4 UTF-8 bytes of a block's canonical content, rounded up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from relay.sandbox.refusal import Refusal

BYTES_PER_TOKEN: Final = 4

# OpenAI's automatic caching counts in steps.  A million tokens is the largest window on sale; what is longer is
# cached up to there, so that one 30 MB body cannot fill the cache with its own steps.
FIRST_STEP_TOKENS: Final = 1024
STEP_TOKENS: Final = 128
LAST_STEP_TOKENS: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Block:
    """One block, and what its meaning hangs on.

    ``place`` is hashed with the content: section, role, and the settings whose change spoils the section.
    ``ttl_s`` is set where a breakpoint stands.  Neighbours of one ``run`` count as one in the lookback.
    """

    place: bytes
    content: bytes
    ttl_s: int | None = None
    run: str | None = None


class Prefix(NamedTuple):
    digest: bytes
    tokens: int


def tokens_of(content: bytes) -> int:
    return max(1, -(-len(content) // BYTES_PER_TOKEN))


def tokens_in(blocks: Sequence[Block]) -> int:
    return sum(tokens_of(block.content) for block in blocks)


def canonical(block: dict[str, Any], *markers: str) -> bytes:
    """A block's content without the ``markers`` that only steer the cache.

    White space and escapes are gone, member order and values stay: two bodies a model would read alike are alike.
    """
    kept = {name: value for name, value in block.items() if name not in markers}
    if kept.keys() == {"type", "text"} and isinstance(kept["text"], str):
        return kept["text"].encode()
    return as_json(kept)


def as_json(value: object) -> bytes:
    """A part of a request as JSON.  orjson reads 1,024 levels and writes 254; what lies between is refused."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError as error:
        raise Refusal(400, f"The request body is nested too deeply: {error}") from error


def block_prefixes(scope: bytes, blocks: Sequence[Block]) -> list[Prefix]:
    """The prefix that ends with each block.  ``scope`` keeps credentials and models apart."""
    running = hashlib.sha256(scope)
    tokens = 0
    prefixes = []
    for block in blocks:
        running.update(b"%d:%d:" % (len(block.place), len(block.content)))
        running.update(block.place)
        running.update(block.content)
        tokens += tokens_of(block.content)
        prefixes.append(Prefix(running.copy().digest(), tokens))
    return prefixes


def step_prefixes(scope: bytes, blocks: Sequence[Block]) -> list[Prefix]:
    """The prefixes of 1024, 1152, 1280, … tokens, wherever in a block they end."""
    running = hashlib.sha256(scope)
    tokens, room = FIRST_STEP_TOKENS, FIRST_STEP_TOKENS * BYTES_PER_TOKEN
    prefixes = []
    for block in blocks:
        running.update(b"%d:" % len(block.place) + block.place)
        for piece in _cut(block.content, room):
            running.update(piece)
            room -= len(piece)
            if room == 0:
                prefixes.append(Prefix(running.copy().digest(), tokens))
                tokens, room = tokens + STEP_TOKENS, STEP_TOKENS * BYTES_PER_TOKEN
                if tokens > LAST_STEP_TOKENS:
                    return prefixes
    return prefixes


def _cut(content: bytes, first: int) -> Iterator[memoryview]:
    """``content`` in pieces that end on step boundaries; the first boundary is ``first`` bytes away."""
    view = memoryview(content)
    start, size = 0, first
    while start < len(view):
        yield view[start : start + size]
        start, size = start + size, STEP_TOKENS * BYTES_PER_TOKEN
