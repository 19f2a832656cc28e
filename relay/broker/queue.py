"""The queue as its clients see it: submit a job, ask for its state, cancel it, count what waits.

Called by the ingress and the command line; the workers' side is ``leases`` and ``publisher``.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
from rq.command import PUBSUB_CHANNEL_TEMPLATE

from relay.broker import rq_records, scripts
from relay.broker.connections import ConnectionError, Link, OutOfMemoryError
from relay.broker.keys import Keys
from relay.broker.rq_records import RqNames
from relay.core.errors import NotFound, TooManyRequests, Unavailable
from relay.core.job import ENDED, QUEUED, STATUS, Job

# A command of a MiB keeps a shared connection and Redis busy for about a millisecond; a 30 MB request sent as one would
# stall every stream for 40.
PIECE_BYTES = 1 << 20
# Up to here a body travels inside the scripts; above, the copies Lua makes cost more than commands of their own.
INLINE_BYTES = 16 << 10
# Pieces whose job never arrives (its client left in between) go after so long.
ORPHAN_TTL_S = 300

# How long a request at the door rides out a blinking Redis before it gets its 503.
PATIENCE_S = 1.0

CANCELLED_MESSAGE = "The job was cancelled."


class Limits(Protocol):
    """The settings the broker goes by."""

    @property
    def queue(self) -> str: ...
    @property
    def queue_limit(self) -> int: ...
    @property
    def pending_ttl_s(self) -> float: ...
    @property
    def log_ttl_s(self) -> float: ...
    @property
    def result_ttl_s(self) -> float: ...
    @property
    def dead_ttl_s(self) -> float: ...
    @property
    def lease_s(self) -> float: ...
    @property
    def total_s(self) -> float: ...
    @property
    def max_claims(self) -> int: ...
    @property
    def usage_maxlen(self) -> int: ...


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job and where it stands.  Times are Unix milliseconds; None: not reached."""

    job: Job
    state: str
    generation: int
    sequence: int
    calls: int
    worker: str
    claimed_ms: int | None
    dispatched_ms: int | None
    first_ms: int | None
    ended_ms: int | None
    error: str | None
    message: str | None
    http_status: int | None
    usage_kind: str | None

    @property
    def status(self) -> str:
        """The public word for the state."""
        return STATUS[self.state]

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def worker_pid(self) -> int | None:
        """Worker names are ``<host>-<pid>-<random>`` unless an operator chose another."""
        parts = self.worker.rsplit("-", 2)
        return int(parts[1]) if len(parts) == 3 and parts[1].isdigit() else None

    @classmethod
    def decode(cls, stored: dict[str, str]) -> JobStatus:
        def number(name: str) -> int | None:
            return int(stored[name]) if stored.get(name) else None

        return cls(
            job=Job.decode(stored),
            state=stored["state"],
            generation=int(stored["generation"]),
            sequence=int(stored["sequence"]),
            calls=int(stored.get("calls", 0)),
            worker=stored.get("worker", ""),
            claimed_ms=number("claimed_ms"),
            dispatched_ms=number("dispatched_ms"),
            first_ms=number("first_ms"),
            ended_ms=number("ended_ms"),
            error=stored.get("error") or None,
            message=stored.get("message") or None,
            http_status=number("status"),
            usage_kind=stored.get("usage_kind"),
        )


def fields(flat: list[bytes]) -> dict[str, str]:
    """A Redis hash as it comes over the wire, as text."""
    texts = [item.decode() for item in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))


class Queue:
    """Raises ``Unavailable`` when Redis cannot be asked; every call may be repeated."""

    def __init__(self, link: Link, keys: Keys, limits: Limits) -> None:
        self._link = link
        self._keys = keys
        self._limits = limits
        self._rq = RqNames(limits.queue)

    async def submit(self, job: Job, body: bytes) -> int:
        """Accept a job, wholly or not at all; the number of jobs ahead of it.

        Raises ``TooManyRequests`` when the queue is full and ``Unavailable`` when Redis is gone or out of memory.
        """
        limits, keys = self._limits, self._keys
        inline = b"" if job.body_pieces else body
        facts = [item for pair in job.encode().items() for item in pair]
        record = rq_records.job_record(
            job.id, limits.queue, int(limits.total_s), int(limits.result_ttl_s), int(limits.dead_ttl_s)
        )
        names = [keys.job(job.id), keys.body(job.id), self._rq.job(job.id), self._rq.queue, self._rq.queues]
        pending_ms = int(limits.pending_ttl_s * 1000)
        args = [limits.queue_limit, pending_ms, job.id, inline, len(facts), *facts, *record]
        if job.body_pieces:
            await self._store(job, body)
        verdict, ahead = await self._ask(scripts.SUBMIT, names, args)
        if verdict < 0:
            await self._execute("DEL", keys.body(job.id))
            raise TooManyRequests(
                f"The queue is full: {ahead} jobs wait, the limit is {limits.queue_limit}.", retry_after_s=5
            )
        return int(ahead)

    async def status(self, job_id: str, tenant: str) -> JobStatus:
        """Where a job stands.  Raises ``NotFound``, for another tenant's job as for none."""
        flat = await self._execute("HGETALL", self._keys.job(job_id))
        stored = fields(flat)
        if stored.get("tenant") != tenant:
            raise NotFound(f"No job with the id {job_id!r}.")
        return JobStatus.decode(stored)

    async def cancel(self, job_id: str, tenant: str) -> JobStatus:
        """Cancel a job: at once while it waits, else its worker is told. Asking again changes nothing."""
        limits, keys = self._limits, self._keys
        now, now_s = rq_records.timestamps()
        names = [keys.job(job_id), self._rq.job(job_id), self._rq.queue, self._rq.canceled]
        args = [job_id, tenant, int(limits.log_ttl_s * 1000), int(limits.result_ttl_s), now, now_s, CANCELLED_MESSAGE]
        answer = await self._ask(scripts.CANCEL, names, args)
        if not answer:
            raise NotFound(f"No job with the id {job_id!r}.")
        if answer[1]:
            # RQ's own command, so that whoever sends it is obeyed alike. Should it be lost, the flag is not.
            command = orjson.dumps({"command": "stop-job", "job_id": job_id})
            await self._execute("PUBLISH", PUBSUB_CHANNEL_TEMPLATE % answer[1].decode(), command)
        return await self.status(job_id, tenant)

    async def counts(self) -> dict[str, int]:
        """How many jobs wait and run, how many usage records are kept."""
        queued, running, usage = await asyncio.gather(
            self._execute("LLEN", self._rq.queue),
            self._execute("ZCARD", self._keys.leases),
            self._execute("XLEN", self._keys.usage),
        )
        return {QUEUED: queued, "running": running, "usage_records": usage}

    async def worker_stats(self) -> dict[str, dict[str, float]]:
        """The counters each living worker keeps, by worker name."""
        members = await self._execute("SMEMBERS", self._rq.workers)
        names = [member.decode().removeprefix(self._rq.worker_prefix) for member in members]
        stats = await asyncio.gather(*[self._execute("HGETALL", self._keys.worker(name)) for name in names])
        return {
            name: {counter: float(value) for counter, value in fields(flat).items()}
            for name, flat in zip(names, stats, strict=True)
            if flat
        }

    async def ping(self) -> None:
        await self._execute("PING")

    async def _store(self, job: Job, body: bytes) -> None:
        """Put the bytes of a big body where its job will look for them, piece by piece, others' commands in between."""
        key = self._keys.body(job.id)
        for number in range(job.body_pieces):
            piece = body[number * PIECE_BYTES : (number + 1) * PIECE_BYTES]
            # Both in one write, so that no piece is left without an end to its life.
            await asyncio.gather(self._execute("HSET", key, number, piece), self._execute("EXPIRE", key, ORPHAN_TTL_S))

    async def _ask(self, script: scripts.Script, keys: list[str], args: list[Any]) -> Any:
        """Run an idempotent script, again while Redis blinks."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + PATIENCE_S
        while True:
            try:
                return await self._link.run(script, keys, args)
            except ConnectionError as error:
                if loop.time() >= give_up:
                    raise _unavailable() from error
                await asyncio.sleep(0.05)
            except OutOfMemoryError as error:
                raise Unavailable("Redis is out of memory and takes no new jobs.", retry_after_s=5) from error

    async def _execute(self, *command: Any) -> Any:
        try:
            return await self._link.execute(*command)
        except ConnectionError as error:
            raise _unavailable() from error
        except OutOfMemoryError as error:
            raise Unavailable("Redis is out of memory and takes no new jobs.", retry_after_s=5) from error


def _unavailable() -> Unavailable:
    return Unavailable("Redis cannot be reached.", retry_after_s=2)


def pieces_of(body_bytes: int) -> int:
    """In how many pieces a body of this size is stored; 0: it travels with its job."""
    return -(-body_bytes // PIECE_BYTES) if body_bytes > INLINE_BYTES else 0
