"""From an entry of the usage stream to a row of ``calls``, priced; or the reason why it cannot be one.

Believes nothing: whoever can write to Redis can write a record, and a provider chooses some of its words. A number that
is none is an ``Unreadable``; a text is cut to what an index takes. Fields it does not know are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from relay.core.bill import MOST_TOKENS, bill
from relay.core.meter import LONGEST_NAME
from relay.core.pricing import PriceTable
from relay.core.usage import Buckets
from relay.ledger.tables import DIMENSIONS, DURATIONS, MONEY, TOKENS

Fields = Mapping[str, str]
Row = dict[str, Any]

MOST: Final = 2**53
LONGEST_MS: Final = 10**10  # four months
# 2100-01-01. A record from then is a mistake, and would be the newest of all for a long time.
LATEST_MS: Final = 4_102_444_800_000

# What the stream bounds itself (raw usage) or the ingress will (metadata), with some room.
LONGEST_TEXT: Final = 16_384

_REQUIRED = ("call", "job", "tenant", "provider", "kind", "outcome")
_OPTIONAL = ("error", "stop_reason", "service_tier", "user", "cache_note", "log")
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
    row["cache_reason"], row["cache_reason_at"] = "", None  # found out later, from what is stored
    if fingerprint := get("fingerprint"):
        row["fingerprint"] = fingerprint[:LONGEST_TEXT]  # no column: goes to a table of its own, for a while
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
    found = bill(row, tokens, prices)
    if found is None:
        return _NO_MONEY
    amounts, price = found
    return {
        "billed_input": amounts.billed_input,
        "read_savings": amounts.read_savings,
        "write_premium": amounts.write_premium,
        "output_cost": amounts.output,
        "fees": amounts.fees,
        "price_source": price.source,
        "price_since": price.since and price.since.isoformat(),
    }
