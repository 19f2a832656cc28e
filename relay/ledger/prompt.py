"""The prompt of a call, as its usage record tells of it: where it could be read from a cache, and how far it was.

Pure. Made of a record's row and fingerprint; ``prefixes`` and ``reasons`` ask it. A provider tells the tokens of the
whole and of what it read and wrote; those of a part are guessed by its bytes.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from relay.core.fingerprint import Entry
from relay.core.minimums import minimum_tokens
from relay.ledger.record import UNKNOWN

# Anthropic's, and what becomes of them at OpenAI.
TTL_MS: Final[Mapping[str, int]] = {"5m": 300_000, "1h": 3_600_000, "30m": 1_800_000, "12h": 43_200_000}

# What a fingerprint looks like. Whoever can write to Redis can write a record, and a hash goes into an index.
_FORM = re.compile(r"headers:0:[\w-]{0,22}(?: [\w.]{1,80}:\d{1,12}:[\w-]{1,22}(?::(?:5m|1h))?){1,128}", re.ASCII)
_CHANGE = re.compile(r"(?:stripped|translated)=([^;,\s]+);ttl=\w+(?:;as=(\w+))?")

# A guess of a part's tokens may be off by so much: tools and texts have another number of them for a byte, and images
# hardly any. Of the second it is only asked whether a whole block more or less was read.
_DOUBT, _SLIGHT_DOUBT = 1.25, 1.1

# As many names as a process may know by heart; each is asked for with every call, and costs 1 to 2 µs to work out.
_NAMES: Final = 4096


class Variant(NamedTuple):
    """Which cache: each account at a provider has one for each model, and some headers divide it further."""

    provider: str
    target: str
    headers: str

    @property
    def digest(self) -> str:
        return _digest(*self)


class Prompt(NamedTuple):
    """A prompt up to its last breakpoint, of those that reached the provider."""

    call: str
    tenant: str
    variant: Variant
    cache: str
    started_ms: int
    heard_ms: int  # the first event of the answer: from then on others can read what it has written
    fingerprint: str
    kind: str  # under which the newest prompt is found that was made for the same purpose
    breakpoints: tuple[Entry, ...]
    cached: tuple[Entry, ...]  # of these, where the provider keeps it now
    anchors: tuple[Entry, ...]  # by which a later prompt is found that begins alike
    unread: tuple[Entry, ...]  # what the provider is not known to have read, the longest first

    @classmethod
    def of(cls, row: Mapping[str, Any], fingerprint: str) -> Prompt | None:
        """None without a fingerprint, and for one that is none."""
        if not _FORM.fullmatch(fingerprint):
            return None
        # Ten thousand times a second at best, and of up to a hundred boundaries: hence none is decoded without need.
        headers, *pieces = fingerprint.split(" ")
        marks = tuple(_arrived(marks_in(pieces), row["cache_control"] or ""))
        end = marks[-1].size if marks else 0
        read, started_ms, first_ms = row["cache_read_tokens"] or 0, row["started_ms"], row["first_event_ms"]
        cached = read + (row["cache_write_5m_tokens"] or 0) + (row["cache_write_1h_tokens"] or 0)
        read_size = _SLIGHT_DOUBT * read * end / cached if cached else 0
        variant = Variant(row["provider"], row["target"] or row["model"], decode(headers).hash)
        anchors = tuple(_anchors(pieces, end))
        if marks and not anchors:
            return None
        if row["cache"] == UNKNOWN:
            kept: tuple[Entry, ...] = ()
        else:
            tokens, size = (cached, end) if cached else ((row["input_tokens"] or 0) / _DOUBT, _size(pieces[-1]))
            minimum = _minimum(variant.target) * size
            kept = tuple([entry for entry in marks if tokens * entry.size >= minimum])
        return cls(
            *(row["call"], row["tenant"], variant, row["cache"], started_ms),
            heard_ms=(row["ended_ms"] or started_ms) if first_ms is None else started_ms + first_ms,
            fingerprint=fingerprint,
            kind="~" + _digest(row["key_id"], row["app"], anchors[0].path if anchors else ""),  # no hash begins so
            breakpoints=marks,
            cached=kept,
            anchors=anchors,
            unread=tuple(_between(pieces, read_size, end)),
        )

    def has(self, entry: Entry) -> bool:
        """Whether it is known to begin like this."""
        return f":{entry.hash}" in self.fingerprint


def marks_in(pieces: Iterable[str]) -> list[Entry]:
    """The breakpoints among the entries of a fingerprint."""
    return [decode(piece) for piece in pieces if piece.count(":") == 3]


def _anchors(pieces: Sequence[str], end: int) -> Iterator[Entry]:
    """The first boundary: a template has its own. The first message: a conversation has its own."""
    # Settings have no text: they are the same in prompts that have nothing to do with each other.
    texts = pieces[1:] if pieces[0].startswith("settings:") else pieces
    message = next((piece for piece in texts if piece.startswith("messages.")), "")
    for piece in dict.fromkeys((*texts[:1], message)):
        if piece and _size(piece) <= end:
            yield decode(piece)


def _between(pieces: Sequence[str], begin: float, end: int) -> Iterator[Entry]:
    for piece in reversed(pieces):
        entry = decode(piece)
        if entry.size <= begin:
            return
        if entry.size <= end:
            yield entry


def _arrived(marks: Sequence[Entry], changes: str) -> Iterable[Entry]:
    """The breakpoints that reached the provider, with the times they have there."""
    became = dict(_CHANGE.findall(changes)) if changes else {}
    if not became:
        return marks
    arrived = []
    for mark in marks:
        names = [name for name in became if _is_at(name, mark.path) or (name == "body" and mark is marks[-1])]
        if not names:
            arrived.append(mark)
        elif ttl := became[names[0]]:
            arrived.append(mark._replace(ttl=ttl if ttl in TTL_MS else mark.ttl))
    return arrived


def _is_at(name: str, path: str) -> bool:
    """A marker may be named by what carries it: a message for its last block, a function for its tool."""
    return name == path or name.startswith(f"{path}.") or path.startswith(f"{name}.")


def _size(piece: str) -> int:
    return int(piece.split(":", 2)[1])


# What the turns of a conversation and the calls of an application have in common is decoded once.
decode = lru_cache(4 * _NAMES)(Entry.decode)
_minimum = lru_cache(_NAMES)(minimum_tokens)


@lru_cache(_NAMES)
def _digest(*names: str) -> str:
    return urlsafe_b64encode(blake2b("\0".join(names).encode(), digest_size=12).digest()).decode()
