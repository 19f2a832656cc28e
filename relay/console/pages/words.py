"""Numbers, times and reasons as people read them; pure, and the filters of the templates.

What nobody knows is said in a word, never as 0. Minus is the real sign, which is as wide as a digit.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

NANO: Final = 10**9
UNKNOWN: Final = "unknown"
NOTHING: Final = "–"


def money(nano_usd: int | None) -> str:
    """Dollars, with as many decimals as it takes to see two digits that are not 0."""
    if nano_usd is None:
        return UNKNOWN
    sign, amount = ("−" if nano_usd < 0 else ""), abs(nano_usd)
    if amount >= 1000 * NANO:
        return f"{sign}${round(amount / NANO):,}"
    if amount == 0 or amount >= NANO // 10:
        return f"{sign}${amount / NANO:.2f}"
    decimals = 11 - len(str(amount))
    return f"{sign}${amount / NANO:.{min(decimals, 9)}f}"


def count(number: float | None) -> str:
    """All digits, in groups of three."""
    return NOTHING if number is None else f"{round(number):,}".replace("-", "−")


def compact(number: int | None) -> str:
    """Three digits: 950, 1.25k, 12.5k, 3.40M."""
    if number is None:
        return UNKNOWN
    if abs(number) < 1000:
        return str(number)
    value, units = number / 1000, list("kMGT")
    while abs(value) >= 999.5 and len(units) > 1:
        value /= 1000
        units.pop(0)
    decimals = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{decimals}f}{units[0]}"


def share(part: float, whole: float) -> str:
    """Percent, with a decimal where it matters."""
    if not whole:
        return NOTHING
    hundredths = 100 * part / whole
    return f"{hundredths:.0f}%" if hundredths >= 99.95 or hundredths == 0 else f"{hundredths:.1f}%"


def percent(part: float, whole: float) -> str:
    """Without decimals, for where there is little room."""
    return f"{100 * part / whole:.0f}%" if whole else NOTHING


def change(now: int, before: int) -> str:
    """Against the period before."""
    if not before:
        return "new" if now else NOTHING
    more = round(100 * (now - before) / abs(before))
    return "no change" if not more else f"{'+' if more > 0 else '−'}{abs(more):,}%"


def duration(ms: float | None) -> str:
    if ms is None:
        return NOTHING
    if ms < 1000:
        return f"{ms:.0f} ms"
    if ms < 60_000:
        return f"{ms / 1000:.1f} s" if ms < 9950 else f"{ms / 1000:.0f} s"
    minutes, seconds = divmod(round(ms / 1000), 60)
    return f"{minutes} min {seconds:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def clock(ms: int | None) -> str:
    return _format(ms, "%H:%M:%S")


def moment(ms: int | None) -> str:
    return _format(ms, "%Y-%m-%d %H:%M:%S")


def iso(ms: int | None) -> str:
    """For the ``datetime`` of a ``time`` element."""
    return _format(ms, "%Y-%m-%dT%H:%M:%SZ")


def date(seconds: int | None) -> str:
    return _format(None if seconds is None else seconds * 1000, "%Y-%m-%d")


def _format(ms: int | None, form: str) -> str:
    return NOTHING if ms is None else datetime.fromtimestamp(ms / 1000, UTC).strftime(form)


# Why there was no cache hit: in short, and what it means or what can be done.
_REASONS: Final = {
    "prefix_changed": ("prefix changed", "What differs from call to call belongs behind the last breakpoint."),
    "first_time": ("first time", "Nothing like it was sent before; the next call can read it."),
    "ttl_expired": (
        "TTL ran out",
        "Two calls lay further apart than it lasts; a breakpoint with a ttl of 1h lasts longer.",
    ),
    "below_minimum": ("too short to be cached", "The model caches longer prompts only."),
    "other_model": ("cached for another model", "Each model has a cache of its own."),
    "other_provider": ("cached at another provider", "Each provider, and each account there, has its own cache."),
    "other_headers": ("cached under other headers", "It was sent with another anthropic-beta or anthropic-version."),
    "not_yet_readable": (
        "not readable yet",
        "It was being written; it can be read once the answer to that call begins.",
    ),
    "beyond_lookback": ("breakpoint too far behind", "A provider looks back 20 blocks; set a breakpoint on the way."),
    "stripped": ("breakpoints stripped", "The provider does not take cache_control."),
    "evicted": ("dropped by the provider", "It should still have been there; providers promise nothing."),
}


def reason(code: str, at: str | None = None) -> str:
    """As in "prefix changed at system.0"."""
    short, _ = _REASONS.get(code, (code.replace("_", " "), ""))
    return f"{short} at {at}" if at and code == "prefix_changed" else short


def advice(code: str) -> str:
    return _REASONS.get(code, ("", ""))[1]


_ALL: Final = (money, count, compact, share, percent, change, duration, clock, moment, iso, date, reason, advice)
FILTERS: Final[dict[str, Callable[..., Any]]] = {each.__name__: each for each in _ALL}
