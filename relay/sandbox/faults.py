"""Misbehaviour: turns the events of a good answer into what a bad provider would send instead.

Pure.  A script is a row of steps for ``delivery.py``: send these bytes after this wait, stall, cut.  A fault bites
before the piece of the answer that follows the ``after`` first ones; the names are listed in ``order.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from relay.sandbox.dialect import Dialect, Event
from relay.sandbox.order import STATUS_FAULTS, Order
from relay.sandbox.refusal import Refusal

_RETRY_AFTER_S: Final = 1
_MESSAGES: Final = {
    400: "messages: refused because the request ordered it",
    401: "invalid x-api-key",
    403: "Your API key does not have permission to use the specified resource.",
    404: "model: not found because the request ordered it",
    413: "Request exceeds the maximum size",
    429: "Number of requests has exceeded your rate limit",
    500: "Internal server error",
    503: "Service unavailable",
    504: "Request timed out",
    529: "Overloaded",
}
# Codes that tell a caller not to try again, each in its dialect.
_QUOTA: Final = {"anthropic": "enforced_spend_limit_reached", "openai": "insufficient_quota"}
OVERLOADED: Final = Refusal(529, _MESSAGES[529])

# Invalid as UTF-8, as an event and as JSON; fixed, so that a failure can be repeated.
_GARBAGE: Final = bytes(range(256)) * 2


@dataclass(frozen=True, slots=True)
class Send:
    """``tokens`` is None for bytes that are no part of the answer: they start no bill and no cache entry."""

    data: bytes
    wait_s: float = 0
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Stall:
    """Nothing more is sent, and the connection stays open."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection is closed without an end of the body."""


Step = Send | Stall | Cut


def refusal(order: Order, dialect: Dialect) -> Refusal | None:
    """The error answer that is ordered instead of any 200."""
    if order.fault in STATUS_FAULTS:
        status = int(order.fault)
        wait = order.retry_after if order.retry_after is not None else _RETRY_AFTER_S
        headers = {"retry-after": str(wait)} if status in (429, 503, 529) else {}
        return Refusal(status, _MESSAGES[status], headers=headers)
    if order.fault == "quota":
        return Refusal(429, "You have reached your spend limit.", code=_QUOTA[dialect.name])
    return None


def stream_steps(events: Sequence[Event], order: Order, dialect: Dialect, gap_ms: float) -> Iterator[Step]:
    """A streamed answer as ordered, misbehaviour included."""
    if order.fault == "slow":
        yield from _slowly(events, order)
        return
    if order.fault == "error_first":
        yield Send(dialect.event(dialect.error(OVERLOADED, None)), order.first_ms / 1000)
        return
    at = len(events) if order.fault is None else _bite(events, order.after)
    yield from _paced(events[:at], gap_ms, order.first_ms)
    if at == len(events):
        return
    yield from _bitten(events[at], order, dialect)
    if order.fault in ("garbage", "bad_json", "huge"):  # the provider goes on as if nothing had happened
        yield from _paced(events[at:], gap_ms, 0)


def body_steps(body: bytes, tokens: int, order: Order, gap_ms: float) -> Iterator[Step]:
    """A JSON answer as ordered.  It takes as long as its stream would have taken."""
    wait_s = (order.first_ms + gap_ms * tokens) / 1000
    half = Send(body[: len(body) // 2], wait_s)
    match order.fault:
        case "stall":
            yield Stall()
        case "cut":
            yield from (half, Cut())
        case "truncate" | "bad_json":
            yield half
        case "garbage":
            yield Send(_GARBAGE, wait_s)
        case "huge":
            yield from (Send(b" " * (order.mb << 20), wait_s), Send(body, 0, tokens))
        case "slow":
            yield from _slowly([Event(body, tokens)], order)
        case _:
            yield Send(body, wait_s, tokens)


def _bite(events: Sequence[Event], after: int) -> int:
    """The index of the event the fault stands before: piece ``after + 1``, or what follows the last piece."""
    pieces = [index for index, event in enumerate(events) if event.tokens]
    if not pieces:
        return len(events) - 1
    return pieces[after] if after < len(pieces) else pieces[-1] + 1


def _bitten(event: Event, order: Order, dialect: Dialect) -> Iterator[Step]:
    match order.fault:
        case "error":
            yield Send(dialect.event(dialect.error(OVERLOADED, None)))
        case "stall":
            yield Stall()
        case "cut":
            yield from (Send(event.raw[: len(event.raw) // 2]), Cut())
        case "garbage":
            yield Send(_GARBAGE)
        case "bad_json":
            yield Send(event.raw.rstrip()[:-2] + b"\n\n")
        case "huge":
            yield Send(dialect.event({"type": "sandbox_padding", "padding": "z" * (order.mb << 20)}))
        case _:
            assert order.fault == "truncate", order.fault


def _paced(events: Sequence[Event], gap_ms: float, first_ms: float) -> Iterator[Send]:
    """The gap stands between pieces; what opens and closes them comes along without one."""
    wait_s = first_ms / 1000
    for event in events:
        yield Send(event.raw, wait_s + (gap_ms / 1000 if event.tokens else 0), event.tokens)
        wait_s = 0


def _slowly(events: Sequence[Event], order: Order) -> Iterator[Send]:
    """Byte by byte; an event counts once its last byte is out."""
    for event in events:
        for at in range(len(event.raw)):
            last = at == len(event.raw) - 1
            yield Send(event.raw[at : at + 1], order.byte_ms / 1000, event.tokens if last else None)


def error_json(dialect: Dialect) -> bytes:
    """The body of ``json_200``: an error behind a status that says all is well."""
    return orjson.dumps(dialect.error(OVERLOADED, None))
