"""The content of calls whose clients asked to have it kept: noted, fetched, found, forgotten.

    pending ──► stored     both bodies are here
       ├──────► too_big    one is larger than ``RELAY_CONTENT_LIMIT_BYTES``: its size is
       ├──────► lost       Redis has one of them no more
       └──────► deleted    somebody asked for it to be forgotten

``note`` writes a row in the transaction that stores the call; ``Contents`` fills it from Redis when the job has ended.
Any number of ledgers may do so: a row that is taken is not due again for a while, and is filled once, whoever is killed
in between. The row goes when its time is over. Headers are no content: nothing here has ever seen one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from sqlalchemy import Connection, Engine, Text, bindparam, delete, insert, or_, select, update

from relay.broker.contents import Body, Content, ContentReader
from relay.core.content import kept_s
from relay.core.errors import Gone
from relay.ledger.database import leave_no_trace, removal, turn
from relay.ledger.record import Row
from relay.ledger.tables import contents

log = logging.getLogger("relay.ledger")

PENDING, STORED, TOO_BIG, LOST, DELETED = "pending", "stored", "too_big", "lost", "deleted"

# Rows taken at a time, and the bodies that are held in memory before they are written.
AT_ONCE: Final = 50
HELD_BYTES: Final = 8 << 20
# Whoever takes a row has so long to fill it; and so soon a job that had not ended is looked at again.
AGAIN_MS: Final = 5_000

_KNOWN = select(contents.c.job).where(contents.c.job.in_(bindparam("jobs", expanding=True)))
# What is filled is due no more. What was deleted meanwhile gets no content, and is looked at again.
_FILL = update(contents).where(
    contents.c.job == bindparam("of_job"),
    contents.c.due_ms.is_not(None),
    or_(contents.c.state != DELETED, bindparam("of_state", type_=Text) == DELETED),
)
_NOTHING: Final = dict.fromkeys(("status", "request_bytes", "response_bytes", "request", "response"))


class Kept(NamedTuple):
    """What is kept of a job. A body that is None is not here, for the reason that ``state`` tells."""

    job: str
    tenant: str
    state: str
    expires_ms: int
    status: int | None
    request_bytes: int | None
    response_bytes: int | None
    request: bytes | None
    response: bytes | None


def note(connection: Connection, rows: Iterable[Row], longest_s: float) -> int:
    """Remember, within the caller's transaction, what these calls ask for; how many jobs are new. Raises nothing."""
    now = now_ms()
    asked: dict[str, Row] = {}
    for row in rows:
        if row["log"] and (seconds := kept_s(row["log"], longest_s)):
            ended_ms = min(row["ended_ms"] or row["started_ms"], now)  # a clock that is ahead must not make it longer
            expires_ms = ended_ms + int(seconds * 1000)
            if expires_ms > now:
                asked[row["job"]] = {
                    **{"job": row["job"], "tenant": row["tenant"], "state": PENDING},
                    **{"expires_ms": expires_ms, "due_ms": now},
                }
    if asked:
        known: Sequence[str] = connection.scalars(_KNOWN, {"jobs": list(asked)}).all()
        for job in known:
            del asked[job]
    if asked:
        connection.execute(insert(contents), list(asked.values()))
    return len(asked)


def find(connection: Connection, job: str, tenant: str | None) -> Kept | None:
    """What is kept of a job; no tenant: an operator asks. None also when its time is over, or it was deleted."""
    wanted = select(*(contents.c[name] for name in Kept._fields)).where(
        contents.c.job == job, contents.c.expires_ms > now_ms(), contents.c.state != DELETED
    )
    if tenant is not None:
        wanted = wanted.where(contents.c.tenant == tenant)
    row = connection.execute(wanted).one_or_none()
    return None if row is None else Kept(**row._asdict())


def erase(engine: Engine, job: str, tenant: str | None) -> bool:
    """Forget the content of a job; whether there was any. The row stays, so that a late record brings nothing back; if
    it was pending it stays due, so that what Redis has kept of the request for us goes, too.
    """
    wanted = update(contents).where(contents.c.job == job, contents.c.state != DELETED)
    if tenant is not None:
        wanted = wanted.where(contents.c.tenant == tenant)
    with removal(engine) as connection:
        return connection.execute(wanted.values(state=DELETED, **_NOTHING)).rowcount > 0


class Contents:
    """Fills what is pending and removes what is over. The ledger calls both again and again.

    Both raise what Redis and the database do; nothing is lost then.
    """

    def __init__(self, engine: Engine, reader: ContentReader) -> None:
        self._engine = engine
        self._reader = reader
        self._leaves_traces = False

    def fill(self) -> int:
        """See to rows that are due; how many were."""
        filled: list[Row] = []
        held_bytes, ours_until_ms, taken = 0, now_ms() + AGAIN_MS, self._take()
        for job, tenant, state in taken:
            if now_ms() > ours_until_ms:
                break  # answers of many MiB; what is left is due again
            if (row := self._row(job, tenant, state)) is None:
                continue
            filled.append(row)
            held_bytes += len(row["request"] or b"") + len(row["response"] or b"")
            if held_bytes >= HELD_BYTES:
                self._write(filled)
                filled, held_bytes = [], 0
        self._write(filled)
        return len(taken)

    def remove(self) -> int:
        """Remove rows whose time is over; how many there were."""
        over = select(contents.c.job).where(contents.c.expires_ms <= now_ms()).limit(AT_ONCE)
        with self._engine.connect() as connection:
            jobs: Sequence[str] = connection.scalars(over).all()
        if jobs:
            with turn(self._engine) as connection:
                connection.execute(delete(contents).where(contents.c.job.in_(jobs)))
            self._leaves_traces = True
        if self._leaves_traces and len(jobs) < AT_ONCE:  # once for all of them; again, should somebody be reading
            self._leaves_traces = not leave_no_trace(self._engine)
        return len(jobs)

    def _take(self) -> Sequence[tuple[str, str, str]]:
        """Rows that are due: job, tenant and state. For a while they are ours."""
        now = now_ms()
        due = select(contents.c.job, contents.c.tenant, contents.c.state).where(contents.c.due_ms <= now)
        with turn(self._engine) as connection:
            found = connection.execute(due.order_by(contents.c.due_ms).limit(AT_ONCE))
            taken = [(row.job, row.tenant, row.state) for row in found]
            ours = contents.c.job.in_([job for job, _, _ in taken])
            if taken:
                connection.execute(update(contents).where(ours).values(due_ms=now + AGAIN_MS))
        return taken

    def _row(self, job: str, tenant: str, state: str) -> Row | None:
        """What a row becomes; None: nothing yet."""
        try:
            content = self._reader.read(job)
        except Gone as error:
            log.info("the content of job %s is lost: %s", job, error.message)
            return _row(job, DELETED if state == DELETED else LOST, Content.nothing(tenant))
        if content is None:
            return None
        if state == DELETED:
            return _row(job, DELETED, Content.nothing(tenant))
        if content.tenant != tenant:  # a record that somebody made up must not show another's job
            return _row(job, LOST, Content.nothing(tenant))
        too_big = any(body and body.data is None for body in (content.request, content.response))
        return _row(job, LOST if not content.whole else TOO_BIG if too_big else STORED, content)

    def _write(self, rows: Sequence[Row]) -> None:
        if rows:
            with turn(self._engine) as connection:
                connection.execute(_FILL, rows)
        for row in rows:
            self._reader.let_go(row["of_job"])


def _row(job: str, state: str, content: Content) -> Row:
    facts: Row = {"of_job": job, "of_state": state, "state": state, "due_ms": None, "status": content.status}
    return facts | _body("request", content.request) | _body("response", content.response)


def _body(name: str, body: Body | None) -> Row:
    return {f"{name}_bytes": body and body.size, name: body and body.data}


def now_ms() -> int:
    return time.time_ns() // 1_000_000
