"""What calls cost, for those under a budget in money: worked out as the ledger will, while the record is written.

The price table takes a fifth to half a second to load, so a worker loads it when the first such job comes, in a thread,
while that job's provider is already at work. Until then, and where nobody knows a price, the cost is unknown.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from relay.broker.usage_stream import Call
from relay.core.pricing_overrides import Override

log = logging.getLogger("relay.worker")

# The mark of a job whose cost a budget has to know, as ``budgets.lua`` writes it.
MONEY = "money"

Cost = Callable[[Mapping[Any, Any]], int | None]


class Pricing:
    """One worker's.  ``own``: the operator's own prices."""

    def __init__(self, own: Sequence[Override]) -> None:
        self._own = own
        self._loading: asyncio.Task[None] | None = None
        self._cost: Cost | None = None

    def watch(self, call: Call, budget: str) -> None:
        """Have the call's records say what it costs, if its job's mark asks for that."""
        if budget == MONEY:
            call.price = self._price
            self._loading = self._loading or asyncio.create_task(self._load())

    async def ready(self, call: Call) -> None:
        """Wait until the cost of this call can be told."""
        if call.price and self._loading and self._cost is None:
            await asyncio.shield(self._loading)

    def _price(self, record: Mapping[Any, Any]) -> int | None:
        return self._cost(record) if self._cost else None

    async def _load(self) -> None:
        try:
            self._cost = await asyncio.to_thread(_table, self._own)
        except Exception:
            log.exception("no prices: calls under a budget in money count as unpriced")


def _table(own: Sequence[Override]) -> Cost:
    from relay.core.bill import cost
    from relay.core.pricing import PriceTable

    prices = PriceTable(own)
    prices.find("", "", 0)  # the first look loads the published prices
    return lambda record: cost(record, prices)
