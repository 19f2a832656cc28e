"""The fingerprint of a prompt: what can be kept of it to tell later why a cache did not hit.

The door writes it (``of``) for a request with breakpoints, the usage record carries it, the ledger reads it (``parse``,
``first_difference``).  It holds places, sizes and hashes, and never a text.

    headers:0:<hash> tools.3:8012:<hash> system.0:9120:<hash>:1h settings:9160:<hash> messages.0:9411:<hash> …

An entry is a *boundary*, where a prompt can be cut: ``path:size:hash``, and the ttl if it is a breakpoint.  Boundaries
come as the provider processes them.  Size and hash are of everything up to and including the boundary, so two prompts
with one hash there have one prefix.  ``headers`` stands apart: it is what else decides where a provider looks.

Hashed is JSON as ``spelling.encode`` writes it, the order of members included.  Two things make no difference, as they
make none to a provider: where markers stand, and whether a text is a string or a block of nothing but text.
"""

from __future__ import annotations

import hashlib
from binascii import b2a_base64
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Final, NamedTuple

from relay.core import auto_cache, boundaries
from relay.core.boundaries import Section
from relay.core.cache_control import Breakpoint
from relay.core.job import Dialect
from relay.core.translate.spelling import encode

ENTRIES_MAX: Final = 96
# Kept for their index alone. The rest is for headers, settings, the ends of tools and system, and the five breakpoints
# that ``cache_control.check`` lets through. Whatever its tools, a prompt keeps 31 of its messages: 112 blocks' worth.
_BY_INDEX_MAX: Final = ENTRIES_MAX - 9
_ALLOWED: Final = {"tools": 40, "system": 16}

# No conversation has so many, and each takes a microsecond or two of a process that has streams to serve.
_BLOCKS_MAX: Final = 8_000

# Up to here every boundary is kept, so that the first ones of two prompts answer to each other in their order.
_DENSE: Final = 16
# Which boundaries of a section are kept depends on nothing else, so a prompt that grows keeps those it had.
KEPT: Final = (*range(_DENSE), *range(19, 64, 4), *range(79, 256, 16), *range(319, 64 * _BY_INDEX_MAX, 64))[
    :_BY_INDEX_MAX
]

# Measured: 400 KB take SHA-256 0.25 to 0.39 ms with the processor's own instructions, blake2b 1.1 ms. Of 300 bytes and
# a digest it is 1.2 µs against 1.7.
_DIGEST = hashlib.sha256
_HASH_BYTES: Final = 8
_FOR_URLS: Final = bytes.maketrans(b"+/", b"-_")  # what ``base64`` does, which takes three times longer

_SECTIONS: Final = ("tools", "system", "settings", "messages")

_Json = dict[str, Any]
_Sections = dict[str, Section]  # by name, in processing order, none empty


class Entry(NamedTuple):
    """A boundary.  ``ttl`` is empty unless it is a breakpoint."""

    path: str
    size: int
    hash: str
    ttl: str = ""

    @property
    def section(self) -> str:
        return self.path.partition(".")[0]

    @classmethod
    def decode(cls, text: str) -> Entry:
        path, size, digest, *ttl = text.split(":")
        return cls(path, int(size), digest, *ttl[:1])


class Fingerprint(NamedTuple):
    """``headers`` is their hash; all of it is empty for a call without breakpoints."""

    headers: str
    entries: tuple[Entry, ...]

    @property
    def breakpoints(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.ttl)


def of(
    request: _Json, surface: Dialect, breakpoints: Sequence[Breakpoint], headers: Mapping[str, str], auto: bool
) -> str:
    """The fingerprint of a request that ``peek`` took; empty if nothing of it is to be cached, or it is past measure.

    ``breakpoints`` are those that ``peek`` found, ``headers`` those that go upstream, with names in lower case.
    ``auto``: the relay puts breakpoints into a request that says nothing about caching.
    """
    marks = [(mark.path, mark.ttl) for mark in breakpoints]
    if not marks and auto:
        marks = [(path, "5m") for path in auto_cache.places(request, surface)]
    if not marks or boundaries.count(request) > _BLOCKS_MAX:
        return ""
    sections = {section.name: section for section in boundaries.sections(request, surface) if section.values}
    if not sections:  # an empty request that asks for automatic caching
        return ""
    return " ".join([f"headers:0:{_hash_of_headers(headers)}", *_entries(sections, _ttls(sections, marks))])


def parse(text: str) -> Fingerprint:
    """What ``of`` wrote.  Raises ``ValueError`` for anything else."""
    if not text:
        return Fingerprint("", ())
    headers, *entries = map(Entry.decode, text.split(" "))
    if headers.path != "headers":
        raise ValueError(f"a fingerprint begins with its headers, not with {headers.path!r}")
    return Fingerprint(headers.hash, tuple(entries))


def first_difference(old: Fingerprint, new: Fingerprint) -> Entry | None:
    """The first boundary at which ``new`` is known not to go on as ``old`` did; one of ``old`` if ``new`` lost it.

    None if neither contradicts the other: they are the same prompt, or one of them is the beginning of the other.
    """
    for name in _SECTIONS:
        before, after = ([e for e in each.entries if e.section == name] for each in (old, new))
        if difference := _difference(before, after, may_go_on=name == "messages"):
            return difference
    return None


def _difference(before: list[Entry], after: list[Entry], *, may_go_on: bool) -> Entry | None:
    for old, new in zip_longest(before[:_DENSE], after[:_DENSE]):
        if old is None or new is None:
            return None if may_go_on else new or old
        if old.hash != new.hash:
            return new
    # Behind them each may have kept some that the other has not.
    known = {entry.path: entry.hash for entry in before}
    for new in after[_DENSE:]:
        if known.get(new.path, new.hash) != new.hash:
            return new
    ends = before[-1:] + after[-1:]  # always kept, of tools and of system
    if not may_go_on and len({entry.hash for entry in ends}) > 1:
        return max(ends, key=lambda entry: entry.size)
    return None


def _ttls(sections: _Sections, marks: Sequence[tuple[str, str]]) -> dict[tuple[str, int], str]:
    """The breakpoints by the boundaries they fall on; automatic caching is one at the end."""
    ttls: dict[tuple[str, int], str] = {}
    for path, ttl in marks:
        section = sections[path.partition(".")[0] or next(reversed(sections))]
        ttls.setdefault((section.name, section.index(path) if path else len(section.values) - 1), ttl)
    return ttls


def _entries(sections: _Sections, ttls: Mapping[tuple[str, int], str]) -> Iterator[str]:
    """As text, since making the tuples takes as long as hashing a short prompt."""
    digest, size, left = _DIGEST(), 0, _BY_INDEX_MAX
    for name, section in sections.items():
        digest.update(f"{name}\0".encode())  # a byte that JSON does not have
        last, start = len(section.values) - 1, 0
        by_index = KEPT[: min(left, _ALLOWED.get(name, left), bisect_right(KEPT, last))]
        left -= len(by_index)
        others = [index for at, index in ttls if at == name] + ([last] if name != "messages" else [])
        for index in sorted({*by_index, *others}):
            # In one go up to the next boundary that is kept; what is behind the last one tells nothing.
            text = encode(section.values[start : index + 1])[1:-1]
            digest.update(text)
            digest.update(b",")  # so that it makes no difference where the text was cut
            size += len(text) + 1
            start = index + 1
            ttl = ttls.get((name, index))
            yield f"{section.path(index)}:{size}:{_short(digest.digest())}" + (f":{ttl}" if ttl else "")


def _hash_of_headers(headers: Mapping[str, str]) -> str:
    betas = sorted({beta.strip() for beta in headers.get("anthropic-beta", "").split(",")})
    return _short(_DIGEST(encode([headers.get("anthropic-version", "").strip(), betas])).digest())


def _short(digest: bytes) -> str:
    return b2a_base64(digest[:_HASH_BYTES], newline=False).translate(_FOR_URLS, b"=").decode()
