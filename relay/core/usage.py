"""Token counts: one record for every dialect, and the cautious reading of what providers report.

The dialects' meters fill the record; the ledger and the price table read it.  It knows no prices and no dialect, and it
believes nothing: a count that cannot be one (negative, text, a fraction, above 2**53) never raises and never enters a
sum.  It is left out, and the record is marked ``suspect``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# The largest integer every JSON reader keeps exactly.  No context window comes near; above it a number is a mistake.
LARGEST_COUNT = 2**53

# Tiers, regions and speeds are short words; the longest known has 13 letters.  Longer text is cut, not stored.
LONGEST_WORD = 64
# Two counters of server tools are known.
MOST_COUNTERS = 16

_MEMBERS = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_by_ttl",
    "output_tokens",
    "reasoning_tokens",
    "prompt_tokens",
    "total_tokens",
    "server_tool_use",
    "service_tier",
    "final",
)


class Buckets(NamedTuple):
    """The five disjoint buckets that are billed; they add up to ``Usage.total_tokens``."""

    uncached_input: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int
    output: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What one provider call used.  Every token is stored once and the sums are derived, so they cannot disagree.

    ``final``: the provider's closing numbers were seen.  ``suspect``: some number was nonsense or contradicted another.
    ``speed`` and ``inference_geo`` multiply prices; ``first_raw`` and ``last_raw`` are the provider's own objects.
    """

    input_tokens: int = 0  # uncached only
    cache_read_tokens: int = 0
    cache_write_by_ttl: Mapping[str, int] = field(default_factory=dict)  # only entries above 0
    output_tokens: int = 0  # reasoning included
    reasoning_tokens: int | None = None
    server_tool_use: Mapping[str, int] | None = None
    service_tier: str | None = None
    final: bool = False
    suspect: bool = False
    speed: str | None = None
    inference_geo: str | None = None
    first_raw: Mapping[str, Any] | None = None
    last_raw: Mapping[str, Any] | None = None

    @property
    def cache_write_tokens(self) -> int:
        return sum(self.cache_write_by_ttl.values())

    @property
    def prompt_tokens(self) -> int:
        return self.input_tokens + self.cache_read_tokens + self.cache_write_tokens

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens

    @property
    def buckets(self) -> Buckets:
        """The record by price.  OpenAI's times join the nearer one: 30m costs like 5m (1.25), 12h at least like 1h."""
        short = self.cache_write_by_ttl.get("5m", 0) + self.cache_write_by_ttl.get("30m", 0)
        long = self.cache_write_tokens - short
        return Buckets(self.input_tokens, self.cache_read_tokens, short, long, self.output_tokens)

    def as_dict(self) -> dict[str, Any]:
        """The counts alone, without flags, price hints and raw objects."""
        return {name: getattr(self, name) for name in _MEMBERS}


class RawUsage:
    """A provider's usage object, read member by member.

    Null and absent are the same.  A value that cannot be what its name says is passed over and noted in ``doubts``,
    which an object shares with its members.
    """

    __slots__ = ("doubts", "raw")

    def __init__(self, raw: Mapping[str, Any], doubts: list[str] | None = None) -> None:
        self.raw = raw
        self.doubts: list[str] = [] if doubts is None else doubts

    def count(self, *names: str) -> int | None:
        """The first of these members that holds a count."""
        for name in names:
            value = self.raw.get(name)
            # bool is an int to Python, and true is not one token.
            if type(value) is int and 0 <= value <= LARGEST_COUNT:
                return value
            if value is not None:
                self.doubts.append(name)
        return None

    def members(self, *names: str) -> RawUsage:
        """The first of these members that is an object, or an empty one."""
        for name in names:
            value = self.raw.get(name)
            if isinstance(value, dict):
                return RawUsage(value, self.doubts)
            if value is not None:
                self.doubts.append(name)
        return RawUsage({}, self.doubts)

    def entries(self, name: str) -> list[RawUsage]:
        """The objects in a list."""
        value = self.raw.get(name)
        entries = value if isinstance(value, list) else []
        return [RawUsage(entry, self.doubts) for entry in entries if isinstance(entry, dict)]

    def counts(self, names: Mapping[str, str]) -> dict[str, int]:
        """Several members, under the names given for them."""
        return {ours: count for theirs, ours in names.items() if (count := self.count(theirs)) is not None}

    def all_counts(self) -> dict[str, int]:
        """Every member that holds a count, for objects whose members are the provider's to add to."""
        names = [name for name in self.raw if len(name) <= LONGEST_WORD][:MOST_COUNTERS]
        return self.counts({name: name for name in names})

    def word(self, name: str) -> str | None:
        value = self.raw.get(name)
        if isinstance(value, str):
            return value[:LONGEST_WORD]
        if value is not None:
            self.doubts.append(name)
        return None


def ttl_of_markers(marker_ttls: Sequence[str]) -> str:
    """The time of a write that nobody splits: 1h if every breakpoint of the request said so, else the default."""
    return "1h" if marker_ttls and all(ttl == "1h" for ttl in marker_ttls) else "5m"


def share_out(total: int | None, split: Mapping[str, int], rest_ttl: str) -> tuple[dict[str, int], bool]:
    """What was written, by time, adding up to ``total``; and whether ``split`` fits into it.

    The total is believed: what the split leaves over goes to ``rest_ttl``, what it has too much is cut.
    """
    by_ttl = {ttl: count for ttl, count in split.items() if count}
    if total is None:
        return by_ttl, True
    rest = total - sum(by_ttl.values())
    if rest > 0:
        by_ttl[rest_ttl] = by_ttl.get(rest_ttl, 0) + rest
    excess = max(0, -rest)
    for ttl in by_ttl:
        cut = min(excess, by_ttl[ttl])
        by_ttl[ttl] -= cut
        excess -= cut
    return {ttl: count for ttl, count in by_ttl.items() if count}, rest >= 0
