"""Budgets of API keys and tenants, and what was spent of them, in Redis: so all processes agree at once.

``relay budgets`` and the console set them. Calls are let in by ``submit.lua`` and counted by the scripts that write
usage records; what both do is in ``budgets.lua``. A call is counted when it ends, so what is under way when a hard
bound is reached is what it can be overspent by. Only calls that begin under a budget are counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from relay.broker.asking import Asking
from relay.broker.connections import Link
from relay.broker.keys import Keys
from relay.core.budget import Bound, Budget, Period, Standing, Unit, name_of
from relay.core.errors import BudgetExceeded

log = logging.getLogger("relay.budgets")

_PERIODS: tuple[Period, ...] = ("day", "month")


class Account(NamedTuple):
    """A budget and how it stands."""

    holder: str  # key:<id> or tenant:<name>
    budget: Budget
    standings: tuple[Standing, ...]  # one for each bound
    unpriced: int  # calls of this month whose price nobody knows


class Budgets:
    """Of one partition.  Raises ``Unavailable`` when Redis cannot be asked."""

    def __init__(self, link: Link, keys: Keys) -> None:
        self._ask = Asking(link)
        self._keys = keys

    async def set(self, holder: str, budget: Budget) -> None:
        """In the place of the one before; what was spent stays spent."""
        await self._ask.execute("HSET", self._keys.budgets, holder, budget.encode())

    async def remove(self, holder: str) -> bool:
        """Whether there was one."""
        return bool(await self._ask.execute("HDEL", self._keys.budgets, holder))

    async def all(self) -> Mapping[str, Budget]:
        flat = [item.decode() for item in await self._ask.execute("HGETALL", self._keys.budgets)]
        stored = dict(zip(flat[::2], flat[1::2], strict=True))
        return {holder: Budget.decode(stored[holder]) for holder in sorted(stored)}

    async def accounts(self) -> list[Account]:
        """Every budget as it stands now, by Redis' clock."""
        budgets, (seconds, micros) = await asyncio.gather(self.all(), self._ask.execute("TIME"))
        at_ms = int(seconds) * 1000 + int(micros) // 1000
        return list(await asyncio.gather(*[self._account(*each, at_ms) for each in budgets.items()]))

    async def _account(self, holder: str, budget: Budget, at_ms: int) -> Account:
        names = [self._keys.spent(name_of(period, at_ms), holder) for period in _PERIODS]
        asked = [self._ask.execute("HMGET", name, "money", "tokens", "unpriced") for name in names]
        day, month = [[int(value or 0) for value in values] for values in await asyncio.gather(*asked)]
        found: dict[tuple[Period, Unit], int] = {
            **{("day", "money"): day[0], ("day", "tokens"): day[1]},
            **{("month", "money"): month[0], ("month", "tokens"): month[1]},
        }
        standings = [Standing(holder, bound, found[bound.period, bound.unit], at_ms) for bound in budget.bounds]
        return Account(holder, budget, tuple(standings), unpriced=month[2])


def standings_of(told: Sequence[Any]) -> tuple[Standing, ...]:
    """The bounds that ``submit.lua`` says are passed.  The first time each is, the log says so."""
    if not told:
        return ()
    at_ms = int(told[0])
    standings = []
    for holder, period, unit, soft, hard, spent, is_first in told[1:]:
        bound = Bound(period.decode(), unit.decode(), int(soft), int(hard))
        standing = Standing(holder.decode(), bound, int(spent), at_ms)
        if is_first:
            log.warning("budget: %s%s", standing.words, ", and gets no more calls" if standing.is_over else "")
        standings.append(standing)
    return tuple(standings)


def refusal(standings: Sequence[Standing]) -> BudgetExceeded:
    """For a call that is not let in: of the bounds that are reached, the one that lasts longest."""
    last = max((standing for standing in standings if standing.is_over), key=lambda standing: standing.end_ms)
    return BudgetExceeded(last.refusal, retry_after_s=last.left_s)
