"""Finds out why the cache did not serve the calls of a batch: gathers the facts, has them judged, and keeps them.

``store`` calls it within its transaction, in which nobody else writes. A few statements a batch, and none where no call
has breakpoints. What it keeps is hashes and sizes, for a day or so (``RELAY_FINGERPRINT_TTL_S``).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any, Final

from sqlalchemy import Connection, Insert, Select, Table, bindparam, delete, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from relay.ledger.database import many
from relay.ledger.prefixes import Memory, Prefix, wanted
from relay.ledger.prompt import Prompt, Variant
from relay.ledger.reasons import decide, kin_of
from relay.ledger.record import Row
from relay.ledger.tables import HOUR_MS, fingerprints, prefixes

# Values in one statement: PostgreSQL takes 65,535, SQLite half as many.
_AT_ONCE: Final = 10_000
# Rows of a table dropped in one transaction, so that no other ledger waits long: 0.4 s on a busy disk.
_DROPPED_AT_ONCE: Final = 10_000

_FACTS = ("call", "size", "seen_ms", "writer", "sent_ms", "readable_ms", "until_ms", "ttl_ms")
_PREFIXES: Final[Select[Any]] = select(
    *(prefixes.c[name] for name in ("hash", "tenant", *Variant._fields, *_FACTS))
).where(
    prefixes.c.hash.in_(bindparam("hashes", expanding=True)),
    prefixes.c.tenant.in_(bindparam("tenants", expanding=True)),
)
_FINGERPRINTS: Final[Select[Any]] = select(fingerprints.c.call, fingerprints.c.fingerprint).where(
    fingerprints.c.call.in_(bindparam("calls", expanding=True))
)


def explain(
    connection: Connection, fresh: Sequence[Row], newer: Sequence[Row], known: Mapping[str, Row], keep_s: float
) -> None:
    """Give each row its reason. ``known``: of those that are of a newer version, the row that there is.

    A record in version 2 keeps the reason of its version 1, unless it knows more of what the cache did: what version 1
    was judged by is no longer there, as the call itself has been noted since.
    """
    texts = {row["call"]: text for row in (*fresh, *newer) if (text := row.pop("fingerprint", None))}
    for row in newer:
        if row["cache"] == known[row["call"]]["cache"]:
            for name in ("cache_reason", "cache_reason_at"):
                row[name] = known[row["call"]][name]
            texts.pop(row["call"], None)
    asked = [(row, prompt) for row in (*fresh, *newer) if (prompt := Prompt.of(row, texts.get(row["call"], "")))]
    if not asked:
        return
    asked.sort(key=lambda each: (each[1].started_ms, each[1].call))
    memory = _recall(connection, [prompt for _, prompt in asked])
    earlier = _earlier(connection, memory, [prompt for _, prompt in asked])
    for row, prompt in asked:
        row["cache_reason"], row["cache_reason_at"] = decide(prompt, row["cache_note"], memory, earlier)
        memory.note(prompt)
    _remember(connection, memory, [prompt for _, prompt in asked if prompt.cached], _kept_until_ms(keep_s))


def forget(connection: Connection, now_ms: int) -> bool:
    """Drop what has been kept for long enough, or a good part of it; whether there is more."""
    is_more = False
    for table in (fingerprints, prefixes):
        columns = list(table.primary_key)
        old = select(*columns).where(table.c.kept_until_ms < now_ms).limit(_DROPPED_AT_ONCE)
        dropped = connection.execute(delete(table).where(tuple_(*columns).in_(old))).rowcount
        is_more |= dropped == _DROPPED_AT_ONCE
    return is_more


def _recall(connection: Connection, prompts: Sequence[Prompt]) -> Memory:
    tenants = list({prompt.tenant for prompt in prompts})
    found: list[Any] = []
    for hashes in _portions({hash_ for prompt in prompts for hash_ in wanted(prompt)}):
        found += connection.execute(_PREFIXES, {"hashes": hashes, "tenants": tenants})
    return Memory(((row[0], row[1]), Prefix(Variant(*row[2:5]), *row[5:])) for row in found)


def _earlier(connection: Connection, memory: Memory, prompts: Sequence[Prompt]) -> dict[str, str]:
    """The fingerprints of calls that some of these may have been meant to go on from, some of the same batch."""
    earlier = {prompt.call: prompt.fingerprint for prompt in prompts}
    kin = {found.call for prompt in prompts if prompt.unread and (found := kin_of(prompt, memory))}
    for calls in _portions(kin - earlier.keys()):
        rows: Iterable[Any] = connection.execute(_FINGERPRINTS, {"calls": calls})
        earlier |= {row.call: row.fingerprint for row in rows}
    return earlier


def _remember(connection: Connection, memory: Memory, cached: Iterable[Prompt], kept_until_ms: int) -> None:
    kept = [
        {"call": prompt.call, "fingerprint": prompt.fingerprint, "kept_until_ms": kept_until_ms} for prompt in cached
    ]
    noted = [_row(hash_, tenant, prefix, kept_until_ms) for (hash_, tenant), prefix in memory.changed()]
    for table, rows in ((prefixes, noted), (fingerprints, kept)):
        if rows:
            many(connection, _upsert(table, connection.dialect.name), rows)


def _row(hash_: str, tenant: str, prefix: Prefix, kept_until_ms: int) -> Row:
    # Spelled out, as there are several for each call.
    variant = prefix.variant
    return {
        "hash": hash_,
        "tenant": tenant,
        "variant": variant.digest,
        "provider": variant.provider,
        "target": variant.target,
        "headers": variant.headers,
        "call": prefix.call,
        "size": prefix.size,
        "seen_ms": prefix.seen_ms,
        "writer": prefix.writer,
        "sent_ms": prefix.sent_ms,
        "readable_ms": prefix.readable_ms,
        "until_ms": prefix.until_ms,
        "ttl_ms": prefix.ttl_ms,
        "kept_until_ms": kept_until_ms,
    }


@cache
def _upsert(table: Table, dialect: str) -> Insert:
    """Both databases say it alike; SQLAlchemy has it twice."""
    insertion: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[dialect](table)
    key = list(table.primary_key)
    renewed = {column.name: insertion.excluded[column.name] for column in table.c if not column.primary_key}
    upsert: Insert = insertion.on_conflict_do_update(index_elements=key, set_=renewed)
    return upsert


def _kept_until_ms(keep_s: float) -> int:
    """Counted from now on, so that a ledger that catches up still has what it has just stored; in whole hours, so that
    the index stays as it is when a prefix is met again."""
    return (int((time.time() + keep_s) * 1000) // HOUR_MS + 1) * HOUR_MS


def _portions(values: Iterable[str]) -> Iterator[list[str]]:
    left = iter(values)
    while portion := list(islice(left, _AT_ONCE)):
        yield portion
