"""Questions to the ledger: rows page by page, sums by group, sums over time. For the usage API and the dashboard.

Sums come from whole days, at both ends of a period from whole hours, and for what is left from the rows. A page of
rows is found through the rollups too: they know which hours have rows of, say, one app, so that a rare one is not
searched for in a million others. Nothing here writes, knows HTTP, or decides who may see what: ``Filter.tenant`` is the
caller's to set.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, NamedTuple, cast

from sqlalchemy import ColumnElement, Connection, Select, Table, and_, case, func, or_, select, true, tuple_

from relay.core.errors import InvalidRequest
from relay.ledger.tables import (
    DAY_HOURS,
    DERIVED,
    DIMENSIONS,
    DURATIONS,
    HOUR_MS,
    MEASURES,
    MONEY,
    TOKENS,
    calls,
    contents,
    daily,
    rollups,
)

Step = Literal["hour", "day"]
Sums = dict[str, Any]
Span = tuple[int | None, int | None]  # from and up to but not including; None is without end

STEPS: Final[Mapping[str, int]] = {"hour": 1, "day": DAY_HOURS}
_UNITS: Final = ((daily, "day", DAY_HOURS * HOUR_MS), (rollups, "hour", HOUR_MS))  # each is summed up in the one before
GROUPS: Final = (*STEPS, *DIMENSIONS)
SUMS: Final = (*MEASURES, *DERIVED)

# A year of hours. A chart has a thousand pixels.
MOST_POINTS: Final = 8784
MOST_ROWS: Final = 1000
# Calls sorted for one page: 10 ms. Of more there are so many that the newest are soon met among all others.
MOST_SORTED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Filter:
    """Which calls. ``any_of``: for a dimension, the values it may have. ``since_ms`` is within, ``until_ms`` is not."""

    tenant: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    any_of: Mapping[str, Sequence[str]] = field(default_factory=dict)
    job: str | None = None
    user: str | None = None

    def dimensions(self, table: Any) -> list[ColumnElement[bool]]:
        """What calls and rollups can both tell."""
        chosen = dict(self.any_of) | ({"tenant": [self.tenant]} if self.tenant is not None else {})
        columns = {name: table.c[name] for name in chosen}
        if self.job is not None:
            # A job has few calls, and SQLite would rather look at all of its tenant's: keep it from that index.
            columns = {name: column.concat("") for name, column in columns.items()}
        return [
            columns[name] == values[0] if len(values) == 1 else columns[name].in_(values)
            for name, values in chosen.items()
        ]

    def rows_only(self) -> list[ColumnElement[bool]]:
        """What only a row can tell."""
        found: list[ColumnElement[bool]] = []
        if self.job is not None:
            # A call's id begins with its job's; ";" is the character after ":".
            found.append(and_(calls.c.call >= f"{self.job}:", calls.c.call < f"{self.job};"))
        if self.user is not None:
            found.append(calls.c.user == self.user)
        return found


class Page(NamedTuple):
    """Rows, newest first; ``cursor`` asks for the next page and is None on the last."""

    rows: list[dict[str, Any]]
    cursor: str | None


# -- rows ----------------------------------------------------------------------------------------------------------


def rows(connection: Connection, wanted: Filter, cursor: str | None = None, limit: int = 50) -> Page:
    """A page of calls, each with the state of its ``content``. Raises ``InvalidRequest`` for a cursor that is none."""
    limit = min(limit, MOST_ROWS)
    conditions = [*_period(wanted.since_ms, wanted.until_ms), *wanted.rows_only()]
    last = _decode(cursor) if cursor else None
    if last:
        conditions.append(tuple_(calls.c.started_ms, calls.c.id) < tuple_(*last))
    chosen = select(calls.c.id).where(*conditions)
    in_order = wanted.job is None
    if wanted.any_of and not wanted.rows_only():
        until_ms = min(filter(None, (wanted.until_ms, last and last[0] + 1)), default=None)
        reach = _reach(connection, replace(wanted, until_ms=until_ms), limit)
        if reach is None:
            return Page([], None)
        hours = _units(rollups.c.hour, HOUR_MS, reach.since_ms, until_ms)
        chosen = chosen.join(rollups).where(*wanted.dimensions(rollups), *hours)
        in_order = reach.calls > MOST_SORTED
    else:
        chosen = chosen.where(*wanted.dimensions(calls))
    newest_first = (calls.c.started_ms.desc(), calls.c.id.desc())
    # The ids first: what is sorted should be small. In the order of time they are found among all others; those of a
    # job, or of few rollups, by these, which needs an order that no index has.
    order = newest_first if in_order else ((calls.c.started_ms + 0).desc(), calls.c.id.desc())
    ids = chosen.order_by(*order).limit(limit + 1).subquery()
    whole = select(calls, contents.c.state.label("content")).join(ids, calls.c.id == ids.c.id)
    whole = whole.outerjoin(contents, contents.c.job == calls.c.job)
    found = connection.execute(whole.order_by(*newest_first)).mappings().all()
    page = [dict(row) for row in found[:limit]]
    return Page(page, f"{page[-1]['started_ms']}-{page[-1]['id']}" if len(found) > limit else None)


class Reach(NamedTuple):
    """Since when there are enough calls for a page, and how many these are."""

    since_ms: int
    calls: int


def _reach(connection: Connection, wanted: Filter, limit: int) -> Reach | None:
    """How far back to look; None when there is nothing. The days tell which hours to look through."""
    found: Reach | None = None
    for table, name, size in _UNITS:
        found = _enough(connection, table, table.c[name], size, wanted, limit)
        if found is None:
            return None
        wanted = replace(wanted, since_ms=max(found.since_ms, wanted.since_ms or 0))
    return found


def _enough(
    connection: Connection, table: Table, unit: ColumnElement[int], size: int, wanted: Filter, limit: int
) -> Reach | None:
    """As many hours, or days, as have the calls of a page."""
    units = (
        select(unit.label("number"), func.sum(table.c.calls).label("calls"))
        .where(*wanted.dimensions(table), *_units(unit, size, wanted.since_ms, wanted.until_ms), table.c.calls > 0)
        .group_by(unit)
        .order_by(unit.desc())
    )
    since, first, seen = None, 0, 0
    for row in connection.execute(units.limit(limit + 2)):
        since, seen = int(row.number), seen + int(row.calls)
        first = first or seen  # it may be half read or half asked for, so it does not count
        if seen - first > limit:
            break
    return None if since is None else Reach(since * size, seen)


def _units(
    unit: ColumnElement[int], size: int, since_ms: int | None, until_ms: int | None
) -> list[ColumnElement[bool]]:
    """Hours or days of which some part is in the period."""
    found = [unit >= since_ms // size] if since_ms is not None else []
    return found + ([unit <= until_ms // size] if until_ms is not None else [])


def _decode(cursor: str) -> tuple[int, int]:
    if not re.fullmatch(r"\d{1,16}-\d{1,16}", cursor, re.ASCII):
        raise InvalidRequest(f"{cursor[:60]!r} is no cursor")
    started_ms, id_ = cursor.split("-")
    return int(started_ms), int(id_)


def _period(since_ms: int | None, until_ms: int | None) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if since_ms is not None:
        found.append(calls.c.started_ms >= since_ms)
    if until_ms is not None:
        found.append(calls.c.started_ms < until_ms)
    return found


# -- sums ----------------------------------------------------------------------------------------------------------


def summary(connection: Connection, wanted: Filter, by: Sequence[str] = ()) -> list[Sums]:
    """Sums by group: by time if asked for, then the dearest first. An hour or a day is its first millisecond."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for statement in _statements(wanted, by):
        for row in connection.execute(statement):
            group, sums = tuple(row[: len(by)]), [int(value or 0) for value in row[len(by) :]]
            before = groups.get(group)
            groups[group] = [a + b for a, b in zip(before, sums, strict=True)] if before else sums
    found = [
        {name: _shown(name, value) for name, value in zip(by, group, strict=True)} | dict(zip(SUMS, sums, strict=True))
        for group, sums in groups.items()
        if sums[0]
    ]
    times = [name for name in by if name in STEPS]
    return sorted(found, key=lambda each: (*(each[name] for name in times), -each["cost"], -each["calls"]))


def timeline(connection: Connection, wanted: Filter, step: Step) -> list[Sums]:
    """Sums for every hour or day of the period, empty ones included. Raises ``InvalidRequest`` for too many.

    ``cache_reasons`` in each counts the calls by their reason.
    """
    found: dict[int, Sums] = {}
    for group in summary(connection, wanted, [step, "cache_reason"]):
        point = found.setdefault(group[step], _nothing(step, group[step]))
        point |= {name: point[name] + group[name] for name in SUMS}
        if code := group["cache_reason"]:
            point["cache_reasons"][code] = group["calls"]
    size = STEPS[step] * HOUR_MS
    first = min(found, default=0) if wanted.since_ms is None else wanted.since_ms // size * size
    end = max(found, default=-1) + 1 if wanted.until_ms is None else wanted.until_ms
    if (end - first) // size > MOST_POINTS:
        raise InvalidRequest(f"the period has more than {MOST_POINTS} {step}s")
    return [found.get(at) or _nothing(step, at) for at in range(first, end, size)]


def _nothing(step: Step, at: int) -> Sums:
    return {step: at, **dict.fromkeys(SUMS, 0), "cache_reasons": {}}


def _statements(wanted: Filter, by: Sequence[str]) -> Iterable[Select[Any]]:
    """The selections that together make up the period, with no call in two of them."""
    since, until = wanted.since_ms, wanted.until_ms
    if wanted.rows_only():
        yield _from_calls(wanted, by, _period(since, until))
        return
    # From the largest unit down: each covers what it can of what the one above left at both ends.
    left: list[Span] = [(since, until)]
    for table, column, size in _UNITS:
        if column == "day" and "hour" in by:
            continue
        covered, left = _cover(left, size)
        if covered:
            period = table.c[column]
            groups = [_group(name, table, period, size // HOUR_MS) for name in by]
            units = or_(*(_between(period, first, end) for first, end in covered))
            yield _grouped(groups, [func.sum(table.c[name]) for name in SUMS], [*wanted.dimensions(table), units])
    if left:
        yield _from_calls(wanted, by, [or_(*(and_(*_period(*span)) for span in left))])


def _cover(spans: Iterable[Span], size: int) -> tuple[list[Span], list[Span]]:
    """The whole units of this size in the spans, counted from the epoch, and what is left of the spans around them."""
    covered: list[Span] = []
    left: list[Span] = []
    for since, until in spans:
        first = None if since is None else -(-since // size)
        end = None if until is None else until // size
        if first is not None and end is not None and first >= end:
            left.append((since, until))
            continue
        covered.append((first, end))
        if first is not None and since != first * size:
            left.append((since, first * size))
        if end is not None and until != end * size:
            left.append((end * size, until))
    return covered, left


def _between(column: ColumnElement[int], first: int | None, end: int | None) -> ColumnElement[bool]:
    bounds = [column >= first] if first is not None else []
    bounds += [column < end] if end is not None else []
    return and_(true(), *bounds)


def _from_calls(wanted: Filter, by: Sequence[str], period: list[ColumnElement[bool]]) -> Select[Any]:
    reported, priced = calls.c.input_tokens.is_not(None), calls.c.billed_input.is_not(None)
    counts = {
        "calls": func.count(),
        "unreported": func.sum(case((reported, 0), else_=1)),
        "unpriced": func.sum(case((and_(reported, ~priced), 1), else_=0)),
        "first_events": func.count(calls.c.first_event_ms),
    }
    sums = {name: func.sum(calls.c[name]) for name in (*TOKENS, *MONEY, *DURATIONS, *DERIVED)}
    return _grouped(
        [_group(name, calls, calls.c.started_ms // HOUR_MS, 1) for name in by],
        [(counts | sums)[name] for name in SUMS],
        [*wanted.dimensions(calls), *wanted.rows_only(), *period],
    )


def _group(name: str, table: Any, period: ColumnElement[int], hours: int) -> ColumnElement[Any]:
    """What to group by; ``period`` counts units of so many hours."""
    if name not in STEPS:
        return cast(ColumnElement[Any], table.c[name])
    return period if STEPS[name] == hours else period // (STEPS[name] // hours)


def _grouped(groups: list[ColumnElement[Any]], sums: list[Any], conditions: list[ColumnElement[bool]]) -> Select[Any]:
    named = [group.label(f"group_{number}") for number, group in enumerate(groups)]
    # By name: an expression with a number in it would be another one to PostgreSQL when it is said again.
    return select(*named, *sums).where(*conditions).group_by(*(group.name for group in named))


def _shown(name: str, value: Any) -> Any:
    return value * STEPS[name] * HOUR_MS if name in STEPS else value
