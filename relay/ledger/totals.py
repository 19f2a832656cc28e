"""Everything the ledger has, added up: the console's figures for Prometheus.

From the sums by day, so that millions of calls are some thousand rows. Knows nothing of metrics.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, func, select

from relay.ledger.tables import daily, rejected

_DIMENSIONS = ("provider", "target", "cache", "cache_reason")
_SUMS = ("calls", "unpriced", "cost", "net_saved")


class Total(NamedTuple):
    """Of the calls that agree in the first four. Money is nano-dollars."""

    provider: str
    target: str
    cache: str
    cache_reason: str
    calls: int
    unpriced: int
    cost: int
    net_saved: int


def totals(connection: Connection, tenant: str | None) -> list[Total]:
    """As of now; of all tenants if none is named."""
    dimensions = [daily.c[name] for name in _DIMENSIONS]
    sums = [func.sum(daily.c[name]) for name in _SUMS]
    question = select(*dimensions, *sums).group_by(*dimensions)
    if tenant is not None:
        question = question.where(daily.c.tenant == tenant)
    return [Total(*row[:4], *map(int, row[4:])) for row in connection.execute(question)]


def rejected_records(connection: Connection) -> int:
    """How many usage records were kept aside, as they could not be read."""
    return int(connection.scalar(select(func.count()).select_from(rejected)) or 0)
