"""How long calls take: quantiles, which sums cannot tell. For the console's overview.

Of the newest calls of a period only, so that the question costs the same whatever the period; who asks says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import Connection, select

from relay.ledger.queries import Filter
from relay.ledger.tables import calls

# Enough that five times the calls move a 95th percentile by less than a pixel; 25 ms on SQLite.
MOST_CALLS: Final = 5000


class Quantiles(NamedTuple):
    """In milliseconds; None: nothing was measured."""

    p50: int | None
    p95: int | None


class Latency(NamedTuple):
    """Of how many calls; from acceptance to the end, and from the provider call to its first event."""

    calls: int
    total: Quantiles
    first_event: Quantiles


def latency(connection: Connection, wanted: Filter) -> Latency:
    chosen = select(calls.c.total_ms, calls.c.first_event_ms).where(*wanted.dimensions(calls), *wanted.rows_only())
    if wanted.since_ms is not None:
        chosen = chosen.where(calls.c.started_ms >= wanted.since_ms)
    if wanted.until_ms is not None:
        chosen = chosen.where(calls.c.started_ms < wanted.until_ms)
    newest = chosen.order_by(calls.c.started_ms.desc(), calls.c.id.desc()).limit(MOST_CALLS)
    found = connection.execute(newest).all()
    return Latency(len(found), _quantiles([row[0] for row in found]), _quantiles([row[1] for row in found]))


def _quantiles(measured: Sequence[int | None]) -> Quantiles:
    values = sorted(value for value in measured if value is not None)
    if not values:
        return Quantiles(None, None)
    return Quantiles(_at(values, 50), _at(values, 95))


def _at(values: Sequence[int], percent: int) -> int:
    """The nearest rank: the smallest value that so many percent do not exceed."""
    return values[-(-len(values) * percent // 100) - 1]
