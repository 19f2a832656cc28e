"""Calls and sums as the usage API shows them: numbers as they are, money in nano-dollars, times as RFC 3339.

Money is integers, and its names end in ``_nano_usd``: 10⁹ of them are a dollar. What nobody reported or no price table
knows is null, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, Final, Literal

import orjson
from pydantic import BaseModel, Field

from relay.ledger.queries import STEPS, SUMS
from relay.ledger.tables import DERIVED, DIMENSIONS, DURATIONS, MONEY, TOKENS

UNIT: Final = "_nano_usd"
AMOUNTS: Final = (*MONEY, *DERIVED)

# A call's members, in the order they are shown and exported.
CALL: Final = (
    *("call", "job", "attempt", "started", "ended", *DIMENSIONS, "cache_reason_at", "user", "stream", "status"),
    *("kind", "error"),
    *("stop_reason", "service_tier", *DURATIONS, *TOKENS, *(f"{name}{UNIT}" for name in AMOUNTS)),
    *("price_source", "price_since", "cache_control", "cache_note", "metadata", "log", "content"),
    *("usage_first", "usage_last"),
)
_TIMES: Final = {"started": "started_ms", "ended": "ended_ms"}
_JSON: Final = ("metadata", "usage_first", "usage_last")
_OF_CALL: Final = itemgetter(*(_TIMES.get(name) or name.removesuffix(UNIT) for name in CALL))


class CallList(BaseModel):
    """A page of calls, newest first. The members of a call are those of the usage stream, and what it cost.

    `content` says what became of its content where it was to be kept: `pending`, `stored`, `too_big`, `lost` or
    `deleted`; null before and after that.
    """

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]
    has_more: bool
    next_cursor: str | None = Field(description="What to pass as `cursor` for the next page.")


class SumList(BaseModel):
    """Sums over calls: a row for each group. `unreported` calls have no token counts, `unpriced` ones no price.

    In a timeline `cache_reasons` counts the calls that the prompt cache did not serve, by reason.
    """

    object: Literal["list"] = "list"
    by: list[str]
    data: list[dict[str, Any]]


def call_view(row: Mapping[str, Any]) -> dict[str, Any]:
    # A million times for an export: hence no function call for each of the members.
    view = dict(zip(CALL, _OF_CALL(row), strict=True))
    for name in _TIMES:
        view[name] = moment(view[name])
    for name in _JSON:
        view[name] = parsed(view[name])
    view["stream"] = bool(view["stream"])
    return view


def sums_view(sums: Mapping[str, Any], by: list[str]) -> dict[str, Any]:
    """A group: what it is of, then what it adds up to."""
    groups = {name: moment(sums[name]) if name in STEPS else sums[name] for name in by}
    return groups | {f"{name}{UNIT}" if name in AMOUNTS else name: sums[name] for name in SUMS}


def parsed(text: str | None) -> Any:
    """JSON as what it is; the text itself where it was cut off."""
    if not text:
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def moment(unix_ms: int | None) -> str | None:
    if unix_ms is None:
        return None
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
