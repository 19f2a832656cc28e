"""The ledger as its readers see it: the console, and ``relay usage``.

Questions are functions that take a connection (``queries``, ``latency``); this opens the database, asks them one after
the other or from several threads, and says what went wrong in the relay's own words. It makes the tables if nobody has
yet, so that a console may start before the first ledger.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import DataError, InterfaceError, OperationalError, TimeoutError

from relay.core.errors import InvalidRequest, Unavailable
from relay.ledger.database import migrate, open_engine, url_of
from relay.settings import Settings

__all__ = ["Connection", "Engine", "Question", "Reading", "answers"]

T = TypeVar("T")
Question = Callable[[Connection], T]


def answers(connection: Connection) -> None:
    """Whether the database does."""
    connection.execute(select(1))


def look(settings: Settings) -> str:
    """Where the ledger is and that it answers, making nothing.  Raises ``Unavailable``, ``SettingsError``."""
    url = url_of(settings)
    where = url.render_as_string(hide_password=True)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        return f"{where}, which the first ledger or console will make"
    engine = open_engine(url)
    try:
        with engine.connect() as connection:
            answers(connection)
    except (OperationalError, InterfaceError) as error:
        raise Unavailable(f"{where} cannot be reached.") from error
    finally:
        engine.dispose()
    return where


class Reading:
    """Nothing is connected before the first question."""

    def __init__(self, settings: Settings) -> None:
        self._engine = open_engine(url_of(settings))
        self._preparing = threading.Lock()
        self._prepared = False

    def ask(self, question: Question[T]) -> T:
        """The answer, of one moment. Raises ``Unavailable``, and ``InvalidRequest`` for what no database takes."""

        def asked(engine: Engine) -> T:
            with engine.connect() as connection:
                return question(connection)

        return self.change(asked)

    def change(self, step: Callable[[Engine], T]) -> T:
        """Have a step of the ledger's own taken, such as ``contents.erase``. Raises what ``ask`` raises."""
        try:
            self._prepare()
            return step(self._engine)
        except (OperationalError, InterfaceError, TimeoutError) as error:
            raise Unavailable("The ledger's database cannot be reached.", retry_after_s=2) from error
        except DataError as error:
            raise InvalidRequest("A filter has a value that no database takes.") from error

    def close(self) -> None:
        self._engine.dispose()

    def _prepare(self) -> None:
        if self._prepared:
            return
        with self._preparing:
            if not self._prepared:
                migrate(self._engine)
                self._prepared = True
