"""What one request orders from the sandbox: how long an answer, how fast, and which misbehaviour.

Three places are heard, the later wins: ``SANDBOX(fault=error,after=3)`` in the last user text, the same list behind
an ``@`` in the model name (``claude-sonnet-4-6@fault=stall``), and an ``x-sandbox`` header.  Text and model name are
there because gateways drop headers.  Pure; an order that is not understood is refused with the list of what is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from relay.sandbox.refusal import Refusal

STATUS_FAULTS: Final = ("400", "401", "403", "404", "413", "429", "500", "503", "504", "529")
FAULTS: Final = (
    *STATUS_FAULTS,
    "quota",  # a 429 that must not be retried
    "502",  # an HTML page, as edges send
    "error_first",  # 200, and an error event before anything else
    "error",  # an error event after some text
    "stall",  # nothing more is sent, the connection stays open
    "truncate",  # a well-formed end of the body without the terminal event
    "cut",  # the connection closes in the middle of an event
    "garbage",  # bytes that are no UTF-8 and no event
    "bad_json",  # an event whose data is no JSON
    "huge",  # an event of `mb` megabytes
    "slow",  # byte by byte, `byte_ms` apart
    "json_200",  # 200 with an error as JSON body
    "empty_200",  # 200 with no body
)

# Bounds keep a typing error from filling memory or holding a connection for a day.
_EVENTS_MAX: Final = 100_000
_WAIT_MS_MAX: Final = 600_000
_HUGE_MB_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Order:
    """``None`` means the default: the server's speed, the answer's natural length, every call."""

    fault: str | None = None
    after: int = 3  # pieces of the answer before the fault bites
    times: int | None = None  # only the first so many calls with the same body misbehave
    retry_after: int | None = None  # seconds, on 429, 503 and 529
    mb: int = 1
    byte_ms: float = 1
    events: int | None = None  # pieces of text
    gap_ms: float | None = None  # between pieces
    first_ms: float = 0  # before anything
    tool: tuple[str, ...] = ()  # tools to call, `+` between them


def split_model(model: str) -> tuple[str, str]:
    """A model name without its order, and the order.  ``claude-opus-4-6@20260205`` is a name through and through."""
    match = re.fullmatch(r"(.+?)@(\w+=.*)", model)
    return (match[1], match[2]) if match else (model, "")


# No repetition before the name and no bracket inside: linear in the text, which may be 30 MB of anything.
_MARKER = re.compile(r"SANDBOX\(([^()]*)\)")


def split_text(text: str) -> tuple[str, str]:
    """A user text without its markers, and what they order."""
    if "SANDBOX(" not in text:
        return text, ""
    return _MARKER.sub("", text).strip(), ",".join(_MARKER.findall(text))


def parse(*orders: str) -> Order:
    """``name=value`` lists, joined; of a name given twice the last counts."""
    values: dict[str, Any] = {}
    for item in ",".join(orders).split(","):
        if not item.strip():
            continue
        name, _, value = (part.strip() for part in item.partition("="))
        read = _OPTIONS.get(name)
        if read is None:
            raise Refusal(400, f"sandbox: unknown option {name!r}; known: {', '.join(_OPTIONS)}")
        try:
            values |= read(value)
        except ValueError as error:
            raise Refusal(400, f"sandbox: {name}={value}: {error}") from error
    return Order(**values)


def _fault(value: str) -> str:
    if value not in FAULTS:
        raise ValueError(f"unknown fault; known: {', '.join(FAULTS)}")
    return value


def _whole(highest: int, lowest: int = 0) -> Callable[[str], int]:
    return lambda value: int(_between(lowest, int(value), highest))


def _wait(value: str) -> float:
    return _between(0, float(value), _WAIT_MS_MAX)


def _gap(events_per_s: str) -> float:
    return 1000 / _between(1, float(events_per_s), 1_000_000)


def _between(lowest: float, value: float, highest: float) -> float:
    if not lowest <= value <= highest:
        raise ValueError(f"must be from {lowest} to {highest}")
    return value


def _tools(value: str) -> tuple[str, ...]:
    return tuple(name for name in value.split("+") if name)


def _option(field: str, read: Callable[[str], object]) -> Callable[[str], Mapping[str, object]]:
    return lambda value: {field: read(value)}


_OPTIONS: Final[dict[str, Callable[[str], Mapping[str, object]]]] = {
    "fault": _option("fault", _fault),
    "after": _option("after", _whole(_EVENTS_MAX)),
    "times": _option("times", _whole(_EVENTS_MAX)),
    "retry_after": _option("retry_after", _whole(10**9)),
    "mb": _option("mb", _whole(_HUGE_MB_MAX, lowest=1)),
    "byte_ms": _option("byte_ms", _wait),
    "events": _option("events", _whole(_EVENTS_MAX)),
    "gap_ms": _option("gap_ms", _wait),
    "events_per_s": _option("gap_ms", _gap),
    "first_ms": _option("first_ms", _wait),
    "tool": _option("tool", _tools),
}
