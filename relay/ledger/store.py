"""Takes entries of the usage stream into the database: each call once, at its highest version, rollups with it.

One transaction a batch, in which no other writer takes part (``database.turn``). An entry that was stored before, by
this process or another, changes nothing. A version 2 replaces its version 1, and what version 1 had added to a rollup
is taken out again. An entry that cannot be read, or that the database refuses, is kept aside in ``rejected``.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from operator import itemgetter
from typing import Any, Final, NamedTuple

import orjson
from sqlalchemy import Connection, Engine, Table, bindparam, insert, select, update
from sqlalchemy.exc import DataError, IntegrityError

from relay.broker.usage_reader import Entry
from relay.core.content import LONGEST_S
from relay.core.pricing import PriceTable
from relay.ledger.contents import note
from relay.ledger.database import many, turn
from relay.ledger.inquiry import explain, forget
from relay.ledger.record import Row, Unreadable, read
from relay.ledger.tables import (
    DAY_HOURS,
    DIMENSIONS,
    DURATIONS,
    HOUR_MS,
    MEASURES,
    MONEY,
    TOKENS,
    calls,
    daily,
    rejected,
    rollups,
)

log = logging.getLogger("relay.ledger")

Group = tuple[Any, ...]  # an hour or a day, and the dimensions

# Of a record that is kept aside. Sound ones have 7,000 characters, and two usage objects of 8,192 at most.
_KEPT_CHARS: Final = 65_536

_SUMMED = (*TOKENS, *MONEY, *DURATIONS)
_SUMMED_OF, _DIMENSIONS_OF = itemgetter(*_SUMMED), itemgetter(*DIMENSIONS)

_OF_KNOWN = ("call", "id", "v", "rollup", "cache", "cache_reason", "cache_reason_at", *_SUMMED)
_KNOWN = select(*(calls.c[name] for name in _OF_KNOWN)).where(calls.c.call.in_(bindparam("names", expanding=True)))
_REPLACE = (
    update(calls)
    .where(calls.c.id == bindparam("of_id"))
    .values(
        {
            column.name: bindparam(f"new_{column.name}")
            for column in calls.c
            if not column.primary_key and column.computed is None
        }
    )
)
# Made once, as ``many`` remembers what it made of them.
_INSERT: Final = {table: insert(table) for table in (calls, rollups, daily)}
_ADD: Final = {
    table: update(table)
    .where(table.c.id == bindparam("of_id"))
    .values({name: table.c[name] + bindparam(f"more_{name}") for name in MEASURES})
    for table in (rollups, daily)
}
_DAYS_OF = select(rollups.c.id, rollups.c.daily).where(rollups.c.id.in_(bindparam("ids", expanding=True)))
_ASIDE = select(rejected.c.entry).where(
    rejected.c.stream == bindparam("of_stream"), rejected.c.entry.in_(bindparam("entries", expanding=True))
)


class Stored(NamedTuple):
    """What a batch has changed; what had been there before is in no count."""

    calls: int = 0
    rejected: int = 0
    contents: int = 0  # jobs whose content is to be kept


class Refused(NamedTuple):
    entry: Entry
    reason: str


class Store:
    """The writing side of the ledger, for one usage stream."""

    def __init__(
        self,
        engine: Engine,
        prices: PriceTable,
        stream: str,
        *,
        content_ttl_s: float = LONGEST_S,
        fingerprint_ttl_s: float = 86_400,
    ) -> None:
        self._engine = engine
        self._prices = prices
        self._stream = stream
        self._content_ttl_s = content_ttl_s
        self._fingerprint_ttl_s = fingerprint_ttl_s

    def put(self, entries: Sequence[Entry]) -> Stored:
        """Store a batch. Raises ``sqlalchemy.exc.OperationalError`` when it cannot be done now; try again then."""
        rows: dict[str, Row] = {}
        refused: list[Refused] = []
        for entry in entries:
            try:
                row = read(entry.fields, self._prices)
            except Unreadable as error:
                refused.append(Refused(entry, str(error)))
                continue
            if (other := rows.get(row["call"])) is None or row["v"] > other["v"]:
                rows[row["call"]] = row
        try:
            return self._write(rows, refused)
        except (DataError, IntegrityError) as error:
            if len(entries) == 1:
                return self._write({}, [Refused(entries[0], f"the database refuses it: {type(error.orig).__name__}")])
        # One of them is to blame; halving finds it, and all the others are stored.
        middle = len(entries) // 2
        first, second = self.put(entries[:middle]), self.put(entries[middle:])
        return Stored(*(a + b for a, b in zip(first, second, strict=True)))

    def forget(self) -> bool:
        """Drop fingerprints that have been kept for long enough; whether there are more of them."""
        with turn(self._engine) as connection:
            return forget(connection, time.time_ns() // 1_000_000)

    def _write(self, rows: Mapping[str, Row], refused: Sequence[Refused]) -> Stored:
        with turn(self._engine) as connection:
            stored = _put_calls(connection, rows, self._fingerprint_ttl_s) if rows else 0
            aside = self._put_aside(connection, refused) if refused else []
            noted = note(connection, rows.values(), self._content_ttl_s)
        for entry, reason in aside:
            log.warning("usage record %s kept aside: %s", entry.id, reason)
        return Stored(stored, len(aside), noted)

    def _put_aside(self, connection: Connection, refused: Sequence[Refused]) -> list[Refused]:
        ids = [entry.id for entry, _ in refused]
        known: set[str] = set(connection.scalars(_ASIDE, {"of_stream": self._stream, "entries": ids}))
        fresh = [each for each in refused if each.entry.id not in known]
        rows = [
            {"stream": self._stream, "entry": entry.id, "reason": reason, "fields": _as_text(entry)}
            for entry, reason in fresh
        ]
        if rows:
            connection.execute(insert(rejected), rows)
        return fresh


def _put_calls(connection: Connection, rows: Mapping[str, Row], fingerprint_ttl_s: float) -> int:
    """Insert what is new, replace what is of a higher version, and put the rollups right."""
    found = connection.execute(_KNOWN, {"names": list(rows)})
    known = {row.call: row._asdict() for row in found}
    fresh = [row for call, row in rows.items() if call not in known]
    newer = [row for call, row in rows.items() if call in known and row["v"] > known[call]["v"]]
    if not fresh and not newer:
        return 0
    explain(connection, fresh, newer, known, fingerprint_ttl_s)
    _assign_rollups(connection, [*fresh, *newer])
    changes: dict[int, list[int]] = defaultdict(lambda: [0] * len(MEASURES))
    for row in (*fresh, *newer):
        _add(changes[row["rollup"]], row, 1)
    if fresh:
        many(connection, _INSERT[calls], fresh)
    for row in newer:
        old = known[row["call"]]
        _add(changes[old["rollup"]], old, -1)
        connection.execute(_REPLACE, {"of_id": old["id"], **{f"new_{name}": value for name, value in row.items()}})
    _change(connection, changes)
    return len(fresh) + len(newer)


def _assign_rollups(connection: Connection, rows: Iterable[Row]) -> None:
    """Give each row the id of its rollup."""
    groups: dict[Group, list[Row]] = defaultdict(list)
    for row in rows:
        groups[(row["started_ms"] // HOUR_MS, *_DIMENSIONS_OF(row))].append(row)
    ids = _ids(connection, rollups, "hour", groups)
    for group, members in groups.items():
        for row in members:
            row["rollup"] = ids[group]


def _ids(connection: Connection, table: Table, period: str, groups: Iterable[Group]) -> dict[Group, int]:
    """The rows of a table of sums, by period and dimensions; those that are not there yet are made."""
    digests = {blake2b(orjson.dumps(group), digest_size=16).hexdigest(): group for group in groups}
    known = select(table.c.digest, table.c.id).where(table.c.digest.in_(bindparam("digests", expanding=True)))

    def look_up(wanted: Iterable[str]) -> dict[Group, int]:
        return {digests[row.digest]: row.id for row in connection.execute(known, {"digests": list(wanted)})}

    ids = look_up(digests)
    missing = {digest: group for digest, group in digests.items() if group not in ids}
    if missing:
        zeros = dict.fromkeys(MEASURES, 0)
        made = [{"digest": digest, **_group(period, group), **zeros} for digest, group in missing.items()]
        if table is rollups:
            days = {group: (group[0] // DAY_HOURS, *group[1:]) for group in missing.values()}
            parents = _ids(connection, daily, "day", set(days.values()))
            for row, group in zip(made, missing.values(), strict=True):
                row["daily"] = parents[days[group]]
        many(connection, _INSERT[table], made)
        ids |= look_up(missing)
    return ids


def _group(period: str, group: Group) -> Row:
    return dict(zip((period, *DIMENSIONS), group, strict=True))


def _change(connection: Connection, changes: Mapping[int, list[int]]) -> None:
    """Add to rollups, and the same to the days they are of."""
    days: dict[int, list[int]] = {}
    for row in connection.execute(_DAYS_OF, {"ids": list(changes)}):
        sums = days.setdefault(row.daily, [0] * len(MEASURES))
        days[row.daily] = [a + b for a, b in zip(sums, changes[row.id], strict=True)]
    for table, more in ((rollups, changes), (daily, days)):
        many(connection, _ADD[table], [{"of_id": id_, **_named(more[id_])} for id_ in more])


def _add(sums: list[int], row: Mapping[str, Any], sign: int) -> None:
    """Add what one call counts for."""
    reported, priced = row["input_tokens"] is not None, row["billed_input"] is not None
    counts = (1, not reported, reported and not priced, row["first_event_ms"] is not None)
    for place, value in enumerate((*counts, *_SUMMED_OF(row))):
        if value:
            sums[place] += sign * value


def _named(sums: Sequence[int]) -> dict[str, int]:
    return {f"more_{name}": value for name, value in zip(MEASURES, sums, strict=True)}


def _as_text(entry: Entry) -> str:
    # JSON writes a NUL as an escape, so that every database takes it.
    return orjson.dumps(entry.fields).decode()[:_KEPT_CHARS]
