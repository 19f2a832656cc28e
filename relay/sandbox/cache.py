"""The prefix cache: which part of a prompt is read, which is written, for how long.

Pure: it never reads a clock.  ``by_breakpoints`` and ``by_steps`` decide what a request reads and would write; the
caller calls ``PrefixCache.begin`` once the answer has begun, because only then can others read the prefix.  Two
identical requests in parallel therefore both write, as they do at the providers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from relay.sandbox.prompt import Block, Prefix, tokens_in

# About 200 B an entry, so 20 MB when full; the least recently used goes first.  A full 200k-token prompt cached in
# steps makes 1,560 entries: room for sixty of them.
MAX_ENTRIES: Final = 100_000


@dataclass(frozen=True, slots=True)
class Write:
    prefix: Prefix
    ttl_s: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What one request reads and writes, in tokens; ``writes`` are the entries to make, ``written_by_ttl`` the bill."""

    prompt_tokens: int
    at: float
    read_tokens: int = 0
    writes: tuple[Write, ...] = ()
    written_by_ttl: dict[int, int] = field(default_factory=dict)

    @property
    def written_tokens(self) -> int:
        return sum(self.written_by_ttl.values())

    @property
    def uncached_tokens(self) -> int:
        return self.prompt_tokens - self.read_tokens - self.written_tokens


@dataclass(slots=True)
class _Entry:
    ttl_s: int
    expires_at: float


class PrefixCache:
    """Prefixes by digest, each with a lifetime that every read renews."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._max_entries = max_entries
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()

    def read(self, prefix: Prefix, now: float) -> bool:
        """Whether the prefix is cached; if so its lifetime starts anew."""
        entry = self._entries.get(prefix.digest)
        if entry is None:
            return False
        if entry.expires_at <= now:
            del self._entries[prefix.digest]
            return False
        entry.expires_at = now + entry.ttl_s
        self._entries.move_to_end(prefix.digest)
        return True

    def begin(self, plan: Plan) -> None:
        """The answer has begun: what the plan writes can be read.  Lifetimes count from the request, not from here."""
        for write in plan.writes:
            digest, expires_at = write.prefix.digest, plan.at + write.ttl_s
            known = self._entries.get(digest)
            if known is None or known.expires_at < expires_at:
                self._entries[digest] = _Entry(write.ttl_s, expires_at)
            self._entries.move_to_end(digest)
        while len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    def live(self, now: float) -> int:
        return sum(entry.expires_at > now for entry in self._entries.values())


def by_breakpoints(
    cache: PrefixCache,
    blocks: Sequence[Block],
    prefixes: Sequence[Prefix],
    *,
    minimum: int,
    lookback: int | None,
    now: float,
) -> Plan:
    """Read the longest cached prefix in sight of a breakpoint, write from there up to each later breakpoint."""
    marks = [index for index, block in enumerate(blocks) if block.ttl_s is not None]
    hit = _longest_hit(cache, blocks, prefixes, marks, lookback, now)
    read = prefixes[hit].tokens if hit is not None else 0
    if hit is not None:
        for index in marks:  # a longer prefix was read, and with it everything before
            if index < hit:
                cache.read(prefixes[index], now)
    writes = tuple(
        Write(prefixes[index], ttl_s)
        for index in marks
        if (hit is None or index > hit)
        and prefixes[index].tokens >= minimum
        and (ttl_s := blocks[index].ttl_s) is not None
    )
    return Plan(tokens_in(blocks), now, read, writes, _bill(read, writes))


def by_steps(cache: PrefixCache, blocks: Sequence[Block], steps: Sequence[Prefix], *, ttl_s: int, now: float) -> Plan:
    """Read the longest cached step, make entries of the rest.  Writing costs nothing here, so none is billed."""
    hit = next((index for index in range(len(steps) - 1, -1, -1) if cache.read(steps[index], now)), -1)
    for step in steps[: max(hit, 0)]:
        cache.read(step, now)
    read = steps[hit].tokens if hit >= 0 else 0
    return Plan(tokens_in(blocks), now, read, tuple(Write(step, ttl_s) for step in steps[hit + 1 :]))


def _longest_hit(
    cache: PrefixCache,
    blocks: Sequence[Block],
    prefixes: Sequence[Prefix],
    marks: Sequence[int],
    lookback: int | None,
    now: float,
) -> int | None:
    # From the last breakpoint backwards, so the first hit is the longest.
    for mark in reversed(marks):
        for index in _in_sight(blocks, mark, lookback):
            if cache.read(prefixes[index], now):
                return index
    return None


def _in_sight(blocks: Sequence[Block], mark: int, lookback: int | None) -> Iterator[int]:
    """The blocks looked at from a breakpoint, itself first; a run of tool calls or tool results counts as one."""
    positions = 1
    yield mark
    for index in range(mark - 1, -1, -1):
        if blocks[index].run is None or blocks[index].run != blocks[index + 1].run:
            positions += 1
        if lookback is not None and positions > lookback:
            return
        yield index


def _bill(read: int, writes: Sequence[Write]) -> dict[int, int]:
    """Each write pays for what lies between it and the one before, at its own lifetime."""
    billed: dict[int, int] = {}
    paid = read
    for write in writes:
        billed[write.ttl_s] = billed.get(write.ttl_s, 0) + write.prefix.tokens - paid
        paid = write.prefix.tokens
    return billed
