"""The queue as its clients see it: submit a job, ask for its state, cancel it, count what waits.

Called by the ingress and the command line; the workers' side is ``leases`` and ``publisher``.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import orjson
from rq.command import PUBSUB_CHANNEL_TEMPLATE

from relay.broker import rq_records, scripts
from relay.broker.asking import PIECE_BYTES, Asking
from relay.broker.budgets import refusal, standings_of
from relay.broker.connections import Link
from relay.broker.keys import Keys
from relay.broker.rq_records import RqNames
from relay.core import idempotency
from relay.core.budget import KEY, Standing
from relay.core.errors import Gone, NotFound, TooManyRequests, UnprocessableEntity
from relay.core.idempotency import Once
from relay.core.job import ENDED, QUEUED, STATUS, Job
from relay.core.webhook import Delivery

# Up to here a body travels inside the scripts; above, the copies Lua makes cost more than commands of their own.
INLINE_BYTES = 16 << 10
# Pieces whose job never arrives (its client left in between) go after so long.
ORPHAN_TTL_S = 300

# What expires is settled a moment later, by whoever looks next; its record must still be there.
SETTLED_WITHIN_S = 600

CANCELLED_MESSAGE = "The job was cancelled."


class Limits(Protocol):
    """The settings the broker goes by."""

    @property
    def queue(self) -> str: ...
    @property
    def queue_limit(self) -> int: ...
    @property
    def tenant_queue_limit(self) -> int: ...
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


_NEW = {"state": QUEUED, "generation": "0", "sequence": "0"}


class Accepted(NamedTuple):
    """What became of a submission: a new job, or the one that the same request has already."""

    job_id: str
    ahead: int  # jobs in the queue before it
    is_new: bool
    past: tuple[Standing, ...] = ()  # soft bounds of budgets that are passed


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
    delivery: Delivery | None  # of the webhook

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
    def of_new(cls, job: Job) -> JobStatus:
        """Of a job that was accepted this moment."""
        return cls.decode({**{name: str(value) for name, value in job.encode().items()}, **_NEW})

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
            delivery=Delivery.decode(stored),
        )


def fields(flat: list[bytes]) -> dict[str, str]:
    """A Redis hash as it comes over the wire, as text."""
    texts = [item.decode() for item in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))


class Queue:
    """Raises ``Unavailable`` when Redis cannot be asked; every call may be repeated."""

    def __init__(self, link: Link, keys: Keys, limits: Limits) -> None:
        self._ask = Asking(link)
        self._keys = keys
        self._limits = limits
        self._rq = RqNames(limits.queue)

    async def submit(self, job: Job, body: bytes, once: Once | None = None) -> Accepted:
        """Accept a job, wholly or not at all; with a key (``once``) that an earlier job has, that one is the answer.

        Raises ``TooManyRequests`` when the queue is full, ``BudgetExceeded`` when a budget is used up,
        ``UnprocessableEntity`` when the key is another request's, and ``Unavailable`` when Redis is gone or out of
        memory.
        """
        if job.body_pieces:
            await self._ask.store(self._keys.body(job.id), body, ORPHAN_TTL_S)
        verdict, told, *passed = await self._ask.run(scripts.SUBMIT, *self._submission(job, body, once))
        past = standings_of(passed)
        if verdict in (0, 1):
            return Accepted(job.id, told, is_new=True, past=past)
        if job.body_pieces:
            await self._ask.execute("DEL", self._keys.body(job.id))
        if verdict == -1:
            raise TooManyRequests(
                f"The queue is full: {told} jobs wait, the limit is {self._limits.queue_limit}.", retry_after_s=5
            )
        if verdict == -3:
            limit = self._limits.tenant_queue_limit
            raise TooManyRequests(f"{told} jobs of yours wait, the limit is {limit}.", retry_after_s=5)
        if verdict == -6:
            raise refusal(past)
        if verdict == -2:
            raise UnprocessableEntity(
                f"This {idempotency.HEADER} belongs to another request, that of job {told.decode()}.",
                param=idempotency.HEADER,
            )
        return Accepted(told.decode(), 0, is_new=False)

    def _submission(self, job: Job, body: bytes, once: Once | None) -> tuple[list[str], list[Any]]:
        """The keys and arguments of the script."""
        limits, keys, rq = self._limits, self._keys, self._rq
        facts = [item for pair in job.encode().items() for item in pair]
        record = rq_records.job_record(
            job.id, limits.queue, int(limits.total_s), int(limits.result_ttl_s), int(limits.dead_ttl_s)
        )
        names = [keys.job(job.id), keys.body(job.id), rq.job(job.id), rq.queue, rq.queues]
        names += [keys.jobs(job.tenant), keys.timers, keys.budgets]
        names += [keys.idempotency(once.name)] if once else []
        delay_ms = max(0, job.run_at_ms - job.created_ms)
        waits_ms = int(limits.pending_ttl_s * 1000) + delay_ms
        if job.expires_at_ms:
            waits_ms = max(waits_ms, job.expires_at_ms - job.created_ms + SETTLED_WITHIN_S * 1000)
        lives_ms = waits_ms + int(
            (limits.pending_ttl_s + limits.total_s + max(limits.result_ttl_s, limits.dead_ttl_s)) * 1000
        )
        args: list[Any] = [
            *(limits.queue_limit, waits_ms, job.id, b"" if job.body_pieces else body, keys.job(""), lives_ms),
            *(once.fingerprint if once else "", idempotency.TTL_S * 1000, job.run_at_ms, job.expires_at_ms),
            *(job.tenant, limits.tenant_queue_limit, job.lane, KEY + job.key_id),
            *(len(facts), *facts, *record),
        ]
        return names, args

    async def status(self, job_id: str, tenant: str | None) -> JobStatus:
        """Where a job stands; no tenant: an operator asks.  Raises ``NotFound``, for another's job as for none."""
        flat = await self._ask.execute("HGETALL", self._keys.job(job_id))
        stored = fields(flat)
        if not stored or (tenant is not None and stored["tenant"] != tenant):
            raise NotFound(f"No job with the id {job_id!r}.")
        return JobStatus.decode(stored)

    async def cancel(self, job_id: str, tenant: str) -> JobStatus:
        """Cancel a job: at once while it waits, else its worker is told. Asking again changes nothing."""
        limits, keys = self._limits, self._keys
        now, now_s = rq_records.timestamps()
        names = [keys.job(job_id), self._rq.job(job_id), self._rq.queue, self._rq.canceled, keys.timers]
        args = [job_id, tenant, int(limits.log_ttl_s * 1000), int(limits.result_ttl_s), now, now_s, CANCELLED_MESSAGE]
        answer = await self._ask.run(scripts.CANCEL, names, args)
        if not answer:
            raise NotFound(f"No job with the id {job_id!r}.")
        if answer[1]:
            # RQ's own command, so that whoever sends it is obeyed alike. Should it be lost, the flag is not.
            command = orjson.dumps({"command": "stop-job", "job_id": job_id})
            await self._ask.execute("PUBLISH", PUBSUB_CHANNEL_TEMPLATE % answer[1].decode(), command)
        return await self.status(job_id, tenant)

    async def body(self, job: Job) -> bytes:
        """The request's bytes, as long as they are kept.  Raises ``Gone``."""
        body = await self._ask.load(self._keys.body(job.id), max(1, job.body_pieces))
        if len(body) != job.body_bytes:
            raise Gone("The request of this job is not kept any more.")
        return body

    async def counts(self) -> dict[str, int]:
        """How many jobs wait and run, how many usage records are kept."""
        called_up, waiting, running, usage = await asyncio.gather(
            self._ask.execute("LLEN", self._rq.queue),
            self._ask.execute("HGET", self._keys.waiting, ""),
            self._ask.execute("ZCARD", self._keys.leases),
            self._ask.execute("XLEN", self._keys.usage),
        )
        return {QUEUED: called_up + int(waiting or 0), "running": running, "usage_records": usage}

    async def worker_stats(self) -> dict[str, dict[str, float]]:
        """The counters each living worker keeps, by worker name."""
        members = await self._ask.execute("SMEMBERS", self._rq.workers)
        names = [member.decode().removeprefix(self._rq.worker_prefix) for member in members]
        stats = await asyncio.gather(*[self._ask.execute("HGETALL", self._keys.worker(name)) for name in names])
        return {
            name: {counter: float(value) for counter, value in fields(flat).items()}
            for name, flat in zip(names, stats, strict=True)
            if flat
        }

    async def ping(self) -> None:
        await self._ask.execute("PING")


def pieces_of(body_bytes: int) -> int:
    """In how many pieces a body of this size is stored; 0: it travels with its job."""
    return -(-body_bytes // PIECE_BYTES) if body_bytes > INLINE_BYTES else 0
