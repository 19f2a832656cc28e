"""Budgets: what an API key or a tenant may spend in a day and in a month, in money or in tokens.

A budget is a handful of bounds. Past a soft one calls go on and are told so; at a hard one they are refused until the
period is over. Periods are those of the calendar, in UTC. Everything here is words and arithmetic: ``broker.budgets``
keeps budgets and what was spent, and ``budgets.lua`` decides, with the same calendar.

Tokens are those of all five buckets. A call whose price nobody knows costs no money here, and is counted as such.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, Literal, NamedTuple, cast

import orjson

Period = Literal["day", "month"]
Unit = Literal["money", "tokens"]

KEY, TENANT = "key:", "tenant:"
NANO: Final = 10**9
# A billion dollars in nano-dollars; ten times that does not fit into the 63 bits of a counter in Redis.
MOST: Final = 10**18

HEADER: Final = "x-relay-budget"

_PERIODS: tuple[Period, ...] = ("day", "month")
_UNITS: tuple[Unit, ...] = ("money", "tokens")
_WORDS: dict[Unit, str] = {"money": "USD", "tokens": "tokens"}
_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_TEXT = re.compile(
    r"(?P<soft>soft\s+)?(?P<number>\d{1,3}(?:[,_]\d{3})+|\d{1,19})(?P<fraction>\.\d{1,9})?\s*(?P<factor>[kmb])?\s*"
    r"(?P<unit>USD|tokens?)\s*(?:/|\s(?:a|per)\s)\s*(?P<period>day|month)",
    re.IGNORECASE | re.ASCII,
)
_EXAMPLES = "'20 USD a day', '5M tokens a month' or 'soft 16 USD a day'"


class Bound(NamedTuple):
    """Nano-dollars or tokens in one period; 0: there is no such bound."""

    period: Period
    unit: Unit
    soft: int = 0
    hard: int = 0

    @property
    def words(self) -> str:
        """As ``parse`` takes it."""
        parts = [f"{amount(self.unit, self.hard)} a {self.period}"] if self.hard else []
        return ", ".join([*parts, *([f"soft {amount(self.unit, self.soft)} a {self.period}"] if self.soft else [])])


class Budget(NamedTuple):
    """The bounds of one key or tenant, at most one for each period and unit."""

    bounds: tuple[Bound, ...]

    @property
    def words(self) -> str:
        return ", ".join(bound.words for bound in self.bounds)

    def encode(self) -> str:
        return orjson.dumps([list(bound) for bound in self.bounds]).decode()

    @classmethod
    def decode(cls, stored: str | bytes) -> Budget:
        """What makes no sense, because somebody wrote it by hand, is no bound; the scripts see it alike."""
        try:
            entries = orjson.loads(stored)
        except orjson.JSONDecodeError:
            entries = []
        found = [_bound(entry) for entry in entries] if isinstance(entries, list) else []
        return cls(tuple(filter(None, found)))


def parse(texts: Iterable[str]) -> Budget:
    """From ``20 USD a day``, ``soft 5M tokens a month`` and so on.  Raises ``ValueError`` naming what is wrong."""
    given: dict[tuple[Period, Unit], dict[str, int]] = {}
    for text in texts:
        period, unit, kind, value = _read(text)
        values = given.setdefault((period, unit), {})
        if kind in values:
            raise ValueError(f"{text!r} is the second {kind} bound in {_WORDS[unit]} a {period}")
        values[kind] = value
    found = [(which, given[which]) for which in _ORDER if which in given]
    budget = Budget(tuple(Bound(*which, values.get("soft", 0), values.get("hard", 0)) for which, values in found))
    for bound in budget.bounds:
        if bound.hard and bound.soft >= bound.hard:
            raise ValueError(f"the soft bound must be below the hard one, not {bound.words!r}")
    if not budget.bounds:
        raise ValueError(f"give at least one bound, such as {_EXAMPLES}")
    return budget


_ORDER: Sequence[tuple[Period, Unit]] = [(period, unit) for period in _PERIODS for unit in _UNITS]


def _read(text: str) -> tuple[Period, Unit, str, int]:
    match = _TEXT.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text[:80]!r} is no bound; write {_EXAMPLES}")
    unit: Unit = "money" if match["unit"].lower() == "usd" else "tokens"
    number = Decimal(re.sub("[,_]", "", match["number"]) + (match["fraction"] or ""))
    value = number * _FACTORS[(match["factor"] or "").lower()] * (NANO if unit == "money" else 1)
    if value != int(value) or not 0 < value <= MOST:
        raise ValueError(f"{text[:80]!r} is out of bounds: above 0, whole tokens, and at most {amount(unit, MOST)}")
    return cast(Period, match["period"].lower()), unit, "soft" if match["soft"] else "hard", int(value)


def _bound(entry: object) -> Bound | None:
    match entry:
        case ["day" | "month" as period, "money" | "tokens" as unit, int() as soft, int() as hard]:
            return Bound(period, unit, soft, hard) if max(soft, hard) > 0 else None
    return None


def amount(unit: Unit, value: int) -> str:
    """``20.5 USD``, ``1,000 tokens``, to the last digit."""
    text = _decimal(unit, value, 9, ",")
    return f"{text} {_WORDS[unit]}"


def _decimal(unit: Unit, value: int, places: int, group: str = "") -> str:
    if unit == "tokens":
        return format(value, group)
    whole, _, fraction = format(Decimal(value) / NANO, f"{group}.{places}f").partition(".")
    return f"{whole}.{fraction}".rstrip("0").rstrip(".")


# -- the calendar ----------------------------------------------------------------------------------------------------


def name_of(period: Period, at_ms: int) -> str:
    """``2026-11-22`` or ``2026-11``."""
    return _moment(at_ms).strftime("%Y-%m-%d" if period == "day" else "%Y-%m")


def end_ms(period: Period, at_ms: int) -> int:
    """When the period of this moment is over."""
    midnight = _moment(at_ms).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        end = midnight + timedelta(days=1)
    else:
        end = (midnight.replace(day=1) + timedelta(days=31)).replace(day=1)
    return int(end.timestamp()) * 1000


def _moment(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)


# -- what was spent of it ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Standing:
    """One bound, and how much of it was spent at one moment."""

    holder: str  # key:<id> or tenant:<name>
    bound: Bound
    spent: int
    at_ms: int

    @property
    def is_over(self) -> bool:
        return 0 < self.bound.hard <= self.spent

    @property
    def is_past_soft(self) -> bool:
        return 0 < self.bound.soft <= self.spent

    @property
    def ratio(self) -> float:
        """Of the hard bound; of the soft one where there is no other."""
        return self.spent / (self.bound.hard or self.bound.soft)

    @property
    def end_ms(self) -> int:
        return end_ms(self.bound.period, self.at_ms)

    @property
    def left_s(self) -> int:
        """Seconds to the end of the period, never 0."""
        return -(-(self.end_ms - self.at_ms) // 1000)

    @property
    def words(self) -> str:
        """``tenant acme has spent 20.13 USD of 20 USD a day``, without an end."""
        period, unit, soft, hard = self.bound
        limit = hard if self.is_over or not soft else soft
        spent = amount(unit, self.spent if unit == "tokens" else _cents(self.spent))
        return (
            f"{whose(self.holder)} has spent {spent} of {'its soft ' if limit == soft else ''}"
            f"{amount(unit, limit)} a {period}"
        )

    @property
    def refusal(self) -> str:
        """What a client is told that must wait."""
        resets = _moment(self.end_ms).strftime("%Y-%m-%d %H:%M UTC")
        return f"The budget is used up: {self.words}. It begins anew at {resets}."


def _cents(nano: int) -> int:
    """Enough for whoever thinks in dollars; what is less than ten of them stays as it is."""
    cent = NANO // 100
    return round(nano / cent) * cent if nano >= 10 * cent else nano


def whose(holder: str) -> str:
    kind, _, name = holder.partition(":")
    return f"API key {name}" if kind == "key" else f"tenant {name}"


def header(standings: Iterable[Standing]) -> str:
    """The header of an answer past soft bounds: a list as RFC 9651 has it, an item with parameters for each of them.

    ``tenant;period=day;unit=usd;spent=16.41;soft=16;hard=20;reset=37411``, with the seconds to the end of the period.
    """
    return ", ".join(map(_item, standings))


def _item(standing: Standing) -> str:
    bound = standing.bound
    parts = {
        "period": bound.period,
        "unit": _WORDS[bound.unit].lower(),
        # RFC 9651 has three places behind the point.
        "spent": _decimal(bound.unit, standing.spent, 3),
        "soft": _decimal(bound.unit, bound.soft, 3),
        "hard": _decimal(bound.unit, bound.hard, 3) if bound.hard else "",
        "reset": str(standing.left_s),
    }
    kind = standing.holder.partition(":")[0]
    return ";".join([kind, *(f"{name}={value}" for name, value in parts.items() if value)])
