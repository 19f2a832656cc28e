"""The bill of a provider call, from its usage record.

Two ask for it: the ledger, when it takes a record in, and a worker, when a budget in money has to know at once. Both go
by the same fields of the same record, so they cannot disagree. It believes nothing: a provider chooses some of the
words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson

from relay.core.anthropic import iterations
from relay.core.meter import LONGEST_NAME
from relay.core.pricing import Amounts, Price, PriceTable, Terms, total
from relay.core.usage import Buckets, Usage

# A hundred times the largest context window. Two thousand such calls at the dearest price still fit into 63 bits.
MOST_TOKENS: Final = 10**8

_TOKENS = ("input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "output_tokens")
_NAMES = ("provider", "target", "model", "service_tier")


class Bill(NamedTuple):
    amounts: Amounts
    price: Price


def bill(facts: Mapping[str, Any], tokens: Buckets, prices: PriceTable) -> Bill | None:
    """``facts``: fields of the record, None or empty where nothing is known.  None: nobody knows the price."""
    raw = _Raw(facts["usage_first"], facts["usage_last"])
    terms = Terms(facts["service_tier"], raw.word("speed"), raw.word("inference_geo"))
    provider, at_ms, model = facts["provider"], facts["started_ms"], facts["target"] or facts["model"]
    price = prices.find(provider, model, at_ms, terms)
    if price is None:
        return None
    amounts = price.amounts(tokens)
    if passes := raw.passes():
        # Billed pass by pass, each at its model; the call's own counts leave some of them out.
        if sum(sum(used) for _, used in passes) > MOST_TOKENS:
            return None
        found = [(prices.find(provider, name or model, at_ms, terms), used) for name, used in passes]
        bills = [price.amounts(used) for price, used in found if price]
        if len(bills) < len(passes):
            return None
        amounts = total(bills)
    return Bill(amounts._replace(fees=amounts.fees + price.search_fee * raw.searches()), price)


def cost(record: Mapping[str, Any], prices: PriceTable) -> int | None:
    """What the call of a record costs, in nano-dollars; None where tokens or price are unknown."""
    counts = [record[name] for name in _TOKENS]
    if any(type(count) is not int or count > MOST_TOKENS for count in counts):
        return None
    facts = {name: str(record[name])[:LONGEST_NAME] or None for name in _NAMES}
    raw = {name: record[name] for name in ("usage_first", "usage_last", "started_ms")}
    found = bill(facts | raw, Buckets(*counts), prices)
    return found.amounts.cost if found else None


class _Raw:
    """The provider's own usage objects, for what no field of the record says. A null in the last says nothing."""

    __slots__ = ("_first", "_last")

    def __init__(self, first: str | None, last: str | None) -> None:
        self._last = _object(last)
        self._first = self._last if first == last else _object(first)

    def __getitem__(self, name: str) -> Any:
        value = self._last.get(name)
        return self._first.get(name) if value is None else value

    def word(self, name: str) -> str | None:
        value = self[name]
        return value if isinstance(value, str) else None

    def searches(self) -> int:
        tools = self["server_tool_use"]
        count = tools.get("web_search_requests") if isinstance(tools, dict) else None
        return count if type(count) is int and 0 <= count <= MOST_TOKENS else 0

    def passes(self) -> list[tuple[str | None, Buckets]]:
        """Model and tokens of each pass of a call that made several."""
        if not (said := self["iterations"]):
            return []
        return [(each.model, each.usage.buckets) for each in iterations(Usage(last_raw={"iterations": said}))]


def _object(text: str | None) -> dict[str, Any]:
    try:
        said = orjson.loads(text) if text else {}
    except orjson.JSONDecodeError:
        return {}
    return said if isinstance(said, dict) else {}
