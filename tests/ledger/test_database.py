"""Where the ledger is kept, and how its tables come about."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from relay.ledger.database import migrate, open_engine, turn, url_of
from relay.ledger.tables import metadata
from relay.reference import SettingsError
from relay.settings import load


def test_without_a_url_it_is_a_file_in_the_data_directory(tmp_path: Path) -> None:
    url = url_of(load({"data_dir": str(tmp_path)}))
    assert (url.get_backend_name(), url.database) == ("sqlite", str(tmp_path / "ledger.sqlite3"))


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg", "postgresql+asyncpg"])
def test_postgresql_is_spoken_to_by_psycopg_however_it_is_written(scheme: str) -> None:
    url = url_of(load({"ledger_url": f"{scheme}://u:p@host/books"}))
    assert (url.drivername, url.password, url.database) == ("postgresql+psycopg", "p", "books")


@pytest.mark.parametrize(
    "wrong", ["books", "mysql://u:canary@h/d", "postgresql://u:canary@h", "sqlite://", "://canary"]
)
def test_any_other_database_is_a_clear_error_that_shows_no_password(wrong: str) -> None:
    with pytest.raises(SettingsError, match="RELAY_LEDGER_URL") as error:
        url_of(load({"ledger_url": wrong}))
    assert "canary" not in str(error.value)


def test_migrations_make_the_tables_the_code_knows(engine: Engine) -> None:
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        migrate(engine)
        assert set(inspect(connection).get_table_names()) == {*metadata.tables, "alembic_version"}


async def test_several_may_migrate_at_once(ledger_url: str) -> None:
    engines = [open_engine(url_of(load({"ledger_url": ledger_url}))) for _ in range(8)]
    await asyncio.gather(*(asyncio.to_thread(migrate, engine) for engine in engines))
    with engines[0].connect() as connection:
        assert "calls" in inspect(connection).get_table_names()
    for engine in engines:
        engine.dispose()


def test_a_database_of_a_newer_relay_is_left_alone(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SettingsError, match=r"cannot be used by this version of the relay: .*9999"):
        migrate(engine)


async def test_writers_take_turns_and_readers_do_not_wait(engine: Engine) -> None:
    """Each adds one to a number it has read before; without turns some of it would be lost."""
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE counter (n INTEGER)"))
        connection.execute(text("INSERT INTO counter VALUES (0)"))

    def count() -> None:
        for _ in range(20):
            with turn(engine) as connection:
                n = connection.scalar(text("SELECT n FROM counter"))
                with engine.connect() as reader:
                    assert reader.scalar(text("SELECT n FROM counter")) == n
                connection.execute(text("UPDATE counter SET n = :n"), {"n": n + 1})

    await asyncio.gather(*(asyncio.to_thread(count) for _ in range(3)))
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT n FROM counter")) == 60
