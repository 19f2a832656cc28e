"""A tenant's jobs, newest first, page by page.

The ingress calls it. The index holds ids, which are in the order of time; everything else is looked up in the jobs
themselves, so there is one truth about a job. A filter that few jobs pass costs a look at all of them, in bounded
steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from relay.broker import scripts
from relay.broker.asking import Asking
from relay.broker.connections import Link
from relay.broker.keys import Keys
from relay.broker.queue import JobStatus, fields
from relay.core.job import STATUS

# Jobs looked at in one call, which keeps Redis busy for a few milliseconds at most, and calls for one page: beyond
# them the page is cut short.
LOOKS_AT_ONCE = 500
CALLS_MAX = 40


@dataclass(frozen=True, slots=True)
class Filter:
    """What a job must be to be listed; times are Unix milliseconds, the last one is not included."""

    status: str = ""
    model: str = ""
    from_ms: int | None = None
    before_ms: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


class Page(NamedTuple):
    """``last``: behind which job the next page begins."""

    jobs: list[JobStatus]
    last: str
    more: bool


class Listing:
    """The jobs of one partition.  Raises ``Unavailable`` when Redis cannot be asked."""

    def __init__(self, link: Link, keys: Keys) -> None:
        self._ask = Asking(link)
        self._keys = keys

    async def page(self, tenant: str, wanted: Filter, after: str, limit: int) -> Page:
        """At most ``limit`` jobs behind ``after`` ('' begins with the newest)."""
        found: list[JobStatus] = []
        cursor, end = self._bounds(wanted, after)
        states = [state for state, word in STATUS.items() if word == wanted.status]
        criteria = [f",{','.join(states)}," if states else "", wanted.model]
        criteria += [text for pair in wanted.metadata.items() for text in pair]
        for _ in range(CALLS_MAX):
            args = [self._keys.job(""), cursor, end, limit + 1 - len(found), LOOKS_AT_ONCE, *criteria]
            last, *jobs = await self._ask.run(scripts.LIST_JOBS, [self._keys.jobs(tenant)], args)
            found += [JobStatus.decode(fields(flat)) for flat in jobs]
            if len(found) > limit:
                return Page(found[:limit], found[limit - 1].job.id, True)
            if not last:
                return Page(found, found[-1].job.id if found else "", False)
            cursor = f"({last.decode()}"
        return Page(found, cursor[1:], True)

    def _bounds(self, wanted: Filter, after: str) -> tuple[str, str]:
        """Where to begin and to end in the index, as ZRANGE BYLEX has it: an id begins with the time it was made."""
        ids = [self._id_at(wanted.before_ms)] if wanted.before_ms is not None else []
        ids += [after] if after else []
        begin = f"({min(ids)}" if ids else "+"
        return begin, f"[{self._id_at(wanted.from_ms)}" if wanted.from_ms is not None else "-"

    def _id_at(self, time_ms: int) -> str:
        """Less than every id made at or after this time, and greater than every one made before."""
        return f"{self._keys.partition}-{min(max(time_ms, 0), 2**48 - 1):012x}"
