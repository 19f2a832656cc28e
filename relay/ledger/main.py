"""The ledger process: ``relay ledger``. From the usage stream into the database, until it is asked to stop.

Any number of them share the work. One that is killed loses nothing, as a record is let go of only when it is stored,
and one that waits, for Redis or the database, goes on where it was. Nothing else in the relay waits for a ledger.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError

from relay import process
from relay.broker.connections import RedisError
from relay.broker.contents import ContentReader
from relay.broker.keys import Keys
from relay.broker.usage_reader import Entry, UsageReader
from relay.core.pricing import PriceTable
from relay.ledger.contents import AT_ONCE, Contents
from relay.ledger.database import migrate, open_engine, url_of
from relay.ledger.store import Store
from relay.prices import own_prices
from relay.settings import Settings

log = logging.getLogger("relay.ledger")

# Records a transaction. Half as many were as fast; the call ids of ten times as many would not fit into one statement.
BATCH = 2000
# How long one read waits for records; also how long a stop may have to wait.
_WAIT_S = 0.5
# Between two transactions while records trickle in: each is a write to the disk, and nobody reads a bill in real time.
_PACE_S = 0.1
_TRIM_EVERY_S = 10.0
# Content is asked for at once where this process has just noted some; what is left of others, and of jobs that had not
# ended, is looked for now and then. Records go first: between two batches of them it gets so much time.
_CONTENT_EVERY_S, _CONTENT_S = 1.0, 0.25
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0

# What a database says that cannot be reached, or cannot do it now.
AWAY = (OperationalError, InterfaceError)

T = TypeVar("T")


def run(settings: Settings) -> None:
    """Store records until SIGTERM or SIGINT. Raises ``SettingsError``."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    keys = Keys(settings.partition)
    engine = open_engine(url_of(settings))
    prices = PriceTable(own_prices(settings.prices))
    store = Store(
        engine,
        prices,
        keys.usage,
        content_ttl_s=settings.content_ttl_s,
        fingerprint_ttl_s=settings.fingerprint_ttl_s,
    )
    reader = UsageReader(settings.redis_url, keys, keep_s=settings.usage_ttl_s)
    content_reader = ContentReader(settings.redis_url, keys, settings.content_limit_bytes)
    ledger = Ledger(reader, store, Contents(engine, content_reader), stop)
    try:
        with contextlib.suppress(*AWAY):  # waited for below, and no reason to keep a `relay up` from starting
            migrate(engine)
        process.settle()
        sys.stdout.write(f"ready ledger {engine.url.render_as_string(hide_password=True)}\n")
        sys.stdout.flush()
        ledger.insist(lambda: migrate(engine))
        ledger.run()
    finally:
        reader.close()
        content_reader.close()
        engine.dispose()


class Ledger:
    """Moves records from the reader to the store, and content after them."""

    def __init__(self, reader: UsageReader, store: Store, contents: Contents, stop: threading.Event) -> None:
        self._reader = reader
        self._store = store
        self._contents = contents
        self._stop = stop
        self._trim_at = 0.0
        self._contents_at = 0.0

    def run(self) -> None:
        while not self._stop.is_set():
            if self._turn() < BATCH:
                self._stop.wait(_PACE_S)
        self._turn()  # what came last: of a relay that stops as a whole, the ledger stops after the workers

    def _turn(self) -> int:
        """Take what has come, or wait a little for it; how many records."""
        entries = self.insist(lambda: self._reader.read(BATCH, _WAIT_S)) or []
        if entries:
            self._take(entries)
        self._keep_content()
        self._trim()
        return len(entries)

    def _take(self, entries: list[Entry]) -> None:
        """Store, then let go; in this order, so that a death in between stores nothing twice and loses nothing."""
        started = time.monotonic()
        stored = self.insist(lambda: self._store.put(entries))
        if stored is None:
            return  # asked to stop while the database was away; another process, or the next one, gets them
        self.insist(lambda: self._reader.stored(entries))
        if stored.contents:
            self._contents_at = 0.0
        log.debug(
            "%d records: %d calls stored, %d kept aside, %d with content, %.0f ms",
            *(len(entries), *stored, (time.monotonic() - started) * 1000),
        )

    def _keep_content(self) -> None:
        if (now := time.monotonic()) < self._contents_at:
            return
        self._contents_at = now + _CONTENT_EVERY_S
        for step in (self._contents.fill, self._contents.remove):
            while self.insist(step) == AT_ONCE:
                if time.monotonic() > now + _CONTENT_S:
                    self._contents_at = 0.0  # there is more
                    return

    def _trim(self) -> None:
        if time.monotonic() < self._trim_at:
            return
        self.insist(self._reader.trim)
        while self.insist(self._store.forget) and not self._stop.is_set():
            pass
        self._trim_at = time.monotonic() + _TRIM_EVERY_S

    def insist(self, step: Callable[[], T]) -> T | None:
        """The answer of a step that can be repeated, however long Redis or the database is away; None on a stop."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return step()
            except (RedisError, *AWAY) as error:
                # The text of the driver alone: SQLAlchemy's has the statement and its values in it.
                reason = error.orig if isinstance(error, AWAY) else error
                log.warning("waiting %.1f s: %s", pause_s, " ".join(str(reason).split())[:200])
            if self._stop.wait(pause_s):
                return None
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
