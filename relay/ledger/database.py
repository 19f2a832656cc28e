"""The ledger's database: its address, its connections, and its tables brought up to date.

SQLite in the data directory or PostgreSQL by ``RELAY_LEDGER_URL``. Writers take turns, whatever the number of
processes: SQLite has one writer anyway, and PostgreSQL is told to by a lock that lasts as long as the transaction. So
nobody has to think about two processes that store the same call at once. The lock costs little: all of them would
meet at the rollup of the current hour in any case.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache
from importlib import resources
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Dialect, Engine, Insert, Update, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError

from relay.reference import SettingsError
from relay.settings import Settings

FILE: Final = "ledger.sqlite3"

# One number for all relays of a database; it must be no other program's.
_TURN: Final = 0x72656C6179

# A writer waits for others at most this long before it is told so and tries again. The longest turn seen: 2 s.
_WAIT_S: Final = 30
# And so long for readers to leave the journal, so that it can be emptied.
_TRACE_MS: Final = 1000

_POSTGRESQL = "postgresql+psycopg"
_PYSQLITE = "sqlite+pysqlite"
_MODE = "sqlite_begin"


def url_of(settings: Settings) -> URL:
    """Where the ledger is. Raises ``SettingsError``, which does not show the address: it may hold a password."""
    if not settings.ledger_url:
        return URL.create(_PYSQLITE, database=str(settings.data_dir / FILE))
    try:
        url = make_url(settings.ledger_url)
    except ArgumentError:
        raise SettingsError("RELAY_LEDGER_URL: is no database URL (the value is not shown)") from None
    driver = {"sqlite": _PYSQLITE, "postgresql": _POSTGRESQL, "postgres": _POSTGRESQL}.get(url.get_backend_name())
    if driver is None or not url.database:
        raise SettingsError("RELAY_LEDGER_URL: must be postgresql://…/database or sqlite:///path")
    return url.set(drivername=driver)


def open_engine(url: URL) -> Engine:
    """Connections to the database; nothing is connected yet."""
    if url.get_backend_name() == "sqlite":
        Path(url.database or "").parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        engine = create_engine(url, connect_args={"timeout": _WAIT_S})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    options = f"-c lock_timeout={_WAIT_S}s -c idle_in_transaction_session_timeout={2 * _WAIT_S}s"
    connect = {"connect_timeout": 10, "options": options}
    return create_engine(url, paramstyle="format", pool_pre_ping=True, connect_args=connect)


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # Transactions begin when we say so: the driver would leave table changes out of them.
    connection.isolation_level = None
    _write_ahead(connection)
    # A record is taken from Redis once this database has it, so it must be on the disk by then.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    # What is deleted is overwritten (``removal``). Some builds of SQLite do so anyway, others leave it in free pages.
    connection.execute("PRAGMA secure_delete=ON")
    connection.execute("PRAGMA cache_size=-65536")  # 64 MiB; the indexes of a million calls have 150


def _write_ahead(connection: Any) -> None:
    """Readers do not wait for the writer then. Kept in the file, so that only the first connection ever changes it.

    That one change is refused at once, whatever the timeout, when another process is about to make it as well.
    """
    until = time.monotonic() + _WAIT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get(_MODE, '')}")


@contextmanager
def turn(engine: Engine) -> Iterator[Connection]:
    """A transaction that no other writer is in."""
    # SQLite's plain BEGIN locks nothing before the first write, and a lock asked for that late may be refused.
    with engine.connect().execution_options(**{_MODE: "IMMEDIATE"}) as connection, connection.begin():
        if engine.dialect.name != "sqlite":
            connection.execute(text("SELECT pg_advisory_xact_lock(:turn)"), {"turn": _TURN})
        yield connection


@contextmanager
def removal(engine: Engine) -> Iterator[Connection]:
    """A turn that leaves nothing of what it deletes in SQLite's files; on PostgreSQL vacuum sees to that."""
    with turn(engine) as connection:
        yield connection
    leave_no_trace(engine)


def leave_no_trace(engine: Engine) -> bool:
    """Empty SQLite's journal, which still has what was deleted. False: somebody reads from it; try again later."""
    if engine.dialect.name != "sqlite":
        return True
    with closing(engine.raw_connection()) as connected:  # no transaction: the journal is emptied between them
        cursor = connected.cursor()
        cursor.execute(f"PRAGMA busy_timeout={_TRACE_MS}")  # nobody can write meanwhile
        [is_busy, *_] = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        cursor.execute(f"PRAGMA busy_timeout={_WAIT_S * 1000}")
        return not is_busy


def many(connection: Connection, statement: Insert | Update, rows: Sequence[Mapping[str, Any]]) -> None:
    """Execute it for every row, in the driver: SQLAlchemy's own way looks at each value of each, for 20 µs a row."""
    text_, values = _compiled(statement, connection.dialect, tuple(rows[0]))
    connection.exec_driver_sql(text_, list(map(values, rows)))


@lru_cache(maxsize=64)
def _compiled(statement: Insert | Update, dialect: Dialect, names: tuple[str, ...]) -> tuple[str, Callable[[Any], Any]]:
    """Its text, and what takes the values out of a row.  2 ms, as long as the statement takes for 80 rows."""
    compiled = statement.compile(dialect=dialect, column_keys=list(names))
    assert compiled.positiontup
    return str(compiled), itemgetter(*compiled.positiontup)


def migrate(engine: Engine) -> None:
    """Bring the tables up to date. Several processes may do so at once. Raises ``SettingsError``."""
    config = Config()
    config.set_main_option("script_location", str(resources.files("relay.ledger") / "migrations"))
    with turn(engine) as connection:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise SettingsError(f"the ledger's database cannot be used by this version of the relay: {error}") from None
