"""From an entry of the usage stream to a row of ``calls``, priced; or the reason why it cannot be one.

Believes nothing: whoever can write to Redis can write a record, and a provider chooses some of its words. A number that
is none is an ``Unreadable``; a text is cut to what an index takes. Fields it does not know are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from relay.core.anthropic import iterations
from relay.core.meter import LONGEST_NAME
from relay.core.pricing import PriceTable, Terms, total
from relay.core.usage import Buckets, Usage
from relay.ledger.tables import DIMENSIONS, DURATIONS, MONEY, TOKENS

Fields = Mapping[str, str]
Row = dict[str, Any]

# A hundred times the largest context window. Two thousand such calls at the dearest price still fit into 63 bits.
MOST_TOKENS: Final = 10**8
MOST: Final = 2**53
LONGEST_MS: Final = 10**10  # four months
# 2100-01-01. A record from then is a mistake, and would be the newest of all for a long time.
LATEST_MS: Final = 4_102_444_800_000

# What the stream bounds itself (raw usage) or the ingress will (metadata), with some room.
LONGEST_TEXT: Final = 16_384

_REQUIRED = ("call", "job", "tenant", "provider", "kind", "outcome")
_OPTIONAL = ("error", "stop_reason", "service_tier", "user", "cache_note")
_TEXTS = ("cache_control", "usage_first", "usage_last", "metadata")
_MOST = {
    **dict.fromkeys(("generation", "ended_ms"), MOST),
    **dict.fromkeys(("v", "attempt", "stream", "status"), 2**31),
    **dict.fromkeys(DURATIONS, LONGEST_MS),
    **dict.fromkeys(TOKENS, MOST_TOKENS),
    "started_ms": LATEST_MS,
}

_NAMES = tuple(dict.fromkeys((*_REQUIRED, *DIMENSIONS)))

# The cache results, told by the tokens: read and written alike is a prefix that grew.
HIT, PARTIAL, WRITE, NONE, UNKNOWN = "hit", "partial", "write", "none", "unknown"


class Unreadable(Exception):
    """Why a record can be no row; names the field, and shows nothing of its value."""


def read(fields: Fields, prices: PriceTable) -> Row:
    """The row. Raises ``Unreadable``."""
    # Ten thousand times a second at best: hence no function call for each of the fields.
    get = fields.get
    row: Row = {name: get(name, "")[:LONGEST_NAME] for name in _NAMES}
    for name in _OPTIONAL:
        row[name] = get(name, "")[:LONGEST_NAME] or None
    for name in _TEXTS:
        row[name] = get(name, "")[:LONGEST_TEXT] or None
    for name, most in _MOST.items():
        digits = get(name)
        if not digits:
            row[name] = None
        elif digits.isdecimal() and digits.isascii() and len(digits) < 17 and (number := int(digits)) <= most:
            row[name] = number
        else:  # int alone would take "1_000" and " 7 " as well
            raise Unreadable(f"{name} is no number it can be")
    for name in (*_REQUIRED, "v", "started_ms"):
        if not row[name] and row[name] != 0:
            raise Unreadable(f"{name} is missing")
    if "\0" in "".join(fields.values()):
        _replace_nul(row)
    tokens = _buckets(row)
    row["cache"] = _cache_result(tokens)
    row.update(_money(row, tokens, prices))
    return row


def _replace_nul(row: Row) -> None:
    """PostgreSQL takes no NUL in a text."""
    for name, value in row.items():
        if isinstance(value, str):
            row[name] = value.replace("\0", "\ufffd")


def _buckets(row: Row) -> Buckets | None:
    """The tokens, if they were reported. They come together or not at all."""
    found = [row[name] for name in TOKENS[:5]]
    if all(count is None for count in found):
        return None
    if None in found:
        raise Unreadable("some tokens are there and some are missing")
    return Buckets(*found)


def _cache_result(tokens: Buckets | None) -> str:
    if tokens is None:
        return UNKNOWN
    written = tokens.cache_write_5m + tokens.cache_write_1h
    if tokens.cache_read:
        return PARTIAL if written else HIT
    return WRITE if written else NONE


# -- money ---------------------------------------------------------------------------------------------------------


_NO_MONEY: Final[Row] = dict.fromkeys((*MONEY, "price_source", "price_since"))


def _money(row: Row, tokens: Buckets | None, prices: PriceTable) -> Row:
    """The columns of money; all None when tokens or price are unknown."""
    if tokens is None:
        return _NO_MONEY
    raw = _Raw(row["usage_first"], row["usage_last"])
    terms = Terms(row["service_tier"], raw.word("speed"), raw.word("inference_geo"))
    model = row["target"] or row["model"]
    price = prices.find(row["provider"], model, row["started_ms"], terms)
    if price is None:
        return _NO_MONEY
    amounts = price.amounts(tokens)
    if passes := raw.passes():
        # Billed pass by pass, each at its model; the call's own counts leave some of them out.
        if sum(sum(used) for _, used in passes) > MOST_TOKENS:
            return _NO_MONEY
        found = [(prices.find(row["provider"], name or model, row["started_ms"], terms), used) for name, used in passes]
        bills = [price.amounts(used) for price, used in found if price]
        if len(bills) < len(passes):
            return _NO_MONEY
        amounts = total(bills)
    return {
        "billed_input": amounts.billed_input,
        "read_savings": amounts.read_savings,
        "write_premium": amounts.write_premium,
        "output_cost": amounts.output,
        "fees": amounts.fees + price.search_fee * raw.searches(),
        "price_source": price.source,
        "price_since": price.since and price.since.isoformat(),
    }


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
