"""A ledger that is older than this relay: its tables are brought up to date with all that is in them."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from importlib import resources
from pathlib import Path
from typing import Any

import orjson
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, MetaData, Table, func, insert, select, text

from relay.core.pricing import PriceTable
from relay.ledger.database import migrate, open_engine, turn, url_of
from relay.ledger.store import Store
from relay.ledger.tables import DIMENSIONS, HOUR_MS, calls, daily, rollups
from relay.settings import load
from tests.ledger.prompts import call, request
from tests.ledger.records import NO_TOKENS, STARTED_MS, check_sums, entry, stored_calls

ADDED = ("cache_reason",)
PERIODS = {daily: "day", rollups: "hour", calls: ""}


@pytest.fixture
def old_engine(ledger_url: str, tmp_path: Path) -> Iterator[Engine]:
    """A database as the first relay made it, with the calls of two days in it."""
    engine = open_engine(url_of(load({"ledger_url": ledger_url})))
    config = Config()
    config.set_main_option("script_location", str(resources.files("relay.ledger") / "migrations"))
    with turn(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    for table, rows in _rows_of_today(tmp_path).items():
        _insert_as_before(engine, table, rows)
    yield engine
    engine.dispose()


def _rows_of_today(directory: Path) -> dict[Table, list[dict[str, Any]]]:
    engine = open_engine(url_of(load({"data_dir": str(directory / "today")})))
    migrate(engine)
    hours = [0, 0, 5, 30]
    batch = [entry(n, started_ms=STARTED_MS + hour * HOUR_MS, app=f"a{n % 2}") for n, hour in enumerate(hours)]
    Store(engine, PriceTable(), "stream").put([*batch, entry(9, kind="unknown", outcome="worker_lost", **NO_TOKENS)])
    with engine.connect() as connection:
        found = {table: [dict(row) for row in connection.execute(select(table)).mappings()] for table in PERIODS}
    engine.dispose()
    return found


def _insert_as_before(engine: Engine, table: Table, rows: list[dict[str, Any]]) -> None:
    before = Table(table.name, MetaData(), autoload_with=engine)
    names = [column.name for column in before.c if column.computed is None]
    dimensions = [name for name in DIMENSIONS if name not in ADDED]
    if period := PERIODS[table]:
        for row in rows:
            group = (row[period], *(row[name] for name in dimensions))
            row["digest"] = blake2b(orjson.dumps(group), digest_size=16).hexdigest()
    with engine.begin() as connection:
        connection.execute(insert(before), [{name: row[name] for name in names} for row in rows])
        if engine.dialect.name == "postgresql":  # it does not count up when the numbers are given
            count_on = f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), 1000)"
            connection.execute(text(count_on))


def test_nothing_is_lost_and_the_sums_are_the_same(old_engine: Engine) -> None:
    migrate(old_engine)
    assert [row["cache_reason"] for row in stored_calls(old_engine)] == [""] * 5
    check_sums(old_engine)


def test_what_comes_then_is_added_to_the_sums_there_are(old_engine: Engine) -> None:
    migrate(old_engine)
    before = rows_in(old_engine, rollups)
    stored = Store(old_engine, PriceTable(), "stream").put([entry(10, app="a0"), entry(3, v=2, app="a1")])
    assert stored.calls == 2
    assert rows_in(old_engine, rollups) == before
    check_sums(old_engine)


def test_and_has_its_reason(old_engine: Engine) -> None:
    migrate(old_engine)
    Store(old_engine, PriceTable(), "stream").put([entry(11, **call(request()))])
    assert [row["cache_reason"] for row in stored_calls(old_engine) if row["job"] == "0-job11"] == ["first_time"]
    check_sums(old_engine)


def rows_in(engine: Engine, table: Table) -> int:
    with engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(table)) or 0
