"""Ownership of jobs, the workers' side: pop, claim, dispatch, heartbeat, and settling what dead workers left.

A lease is a generation and a random token; every write of a worker carries it, and a worker whose lease was given away
cannot write a byte. Deadlines are Redis' time. Everything here insists: it repeats until Redis has answered.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from relay.broker import rq_records, scripts
from relay.broker.connections import Link, OutOfMemoryError
from relay.broker.keys import Keys
from relay.broker.queue import CANCELLED_MESSAGE, Limits, fields
from relay.broker.rq_records import EXECUTION_TTL_S, RqNames
from relay.broker.usage_stream import Call, Record
from relay.core.job import Job

WORKER_LOST_MESSAGE = "Every worker that took this job was lost before it answered."
INTERRUPTED_MESSAGE = "The worker of this job was lost in the middle of the answer."
DRAINED_MESSAGE = "The worker of this job was shut down in the middle of the answer."

# One reaper settles at most so many jobs a second; with ten workers that is all of 10,000 orphans in a few seconds.
SETTLE_AT_ONCE = 200

# How long a full Redis is left alone between two pops it refuses: 15 jobs come with each claim, 300 in a second.
FULL_S = 0.05


@dataclass(slots=True, eq=False)
class Lease:
    """One job, owned. ``inline`` is the request's body, if it is a small one."""

    job: Job
    generation: int
    id: str  # "<generation>-<token>"; RQ's id of the execution, too
    claims: int  # of this job so far, this one included
    calls: int  # of the provider, by the workers before
    inline: bytes
    budget: str = ""  # the mark of a job under a budget, as ``budgets.lua`` has it


class Settled(NamedTuple):
    """What became of a job whose worker is gone: ``queued``, ``interrupted``, ``worker_lost`` or ``cancelled``;
    ``unsettled`` when its record makes no sense.
    """

    job_id: str
    outcome: str
    state_before: str


class Leases:
    """``popper`` is a link of its own, since BLMOVE blocks it."""

    def __init__(self, link: Link, popper: Link, keys: Keys, limits: Limits, worker: str) -> None:
        self._link = link
        self._popper = popper
        self._keys = keys
        self._limits = limits
        self._worker = worker
        self._rq = RqNames(limits.queue)
        self._popper_id: int | None = None
        self._job_prefix = keys.job("")

    # -- taking work ---------------------------------------------------------------------------------------------

    async def pop(self, timeout_s: float) -> str | None:
        """Wait for a job id. A full Redis refuses BLMOVE: None soon then, and ``claim(more=…)`` still works.

        Raises ``ConnectionError``. Do not cancel it: call ``stop_popping``, or a popped job waits for the reaper.
        """
        if self._popper_id is None:
            self._popper_id = await self._popper.execute("CLIENT", "ID")
        move = ("BLMOVE", self._rq.queue, self._rq.intermediate, "LEFT", "RIGHT", timeout_s)
        try:
            popped = await self._popper.execute(*move, timeout_s=timeout_s + 5)
        except OutOfMemoryError:
            await asyncio.sleep(min(timeout_s, FULL_S))
            return None
        except Exception:
            self._popper_id = None
            raise
        return popped.decode() if popped else None

    async def stop_popping(self) -> None:
        """End a ``pop`` that waits; one that just got a job still returns it."""
        if self._popper_id is not None:
            await self._link.execute("CLIENT", "UNBLOCK", self._popper_id)

    async def put_back(self, job_id: str) -> None:
        """Return a popped job to the head of the queue. Should we die in between, its second entry is refused later."""
        await self._link.execute("LPUSH", self._rq.queue, job_id)
        await self._link.execute("LREM", self._rq.intermediate, 1, job_id)

    async def claim(self, popped: Sequence[str], more: int) -> list[Lease]:
        """Own these jobs and up to ``more`` of those that wait; what must not run is not in the answer."""
        rq, limits = self._rq, self._limits
        token = secrets.token_hex(16)
        now, now_s = rq_records.timestamps()
        names = [
            *(self._keys.leases, rq.queue, rq.intermediate, rq.started),
            *(rq.worker_executions(self._worker), rq.failed, self._keys.claim(self._worker), self._keys.timers),
        ]
        args: list[Any] = [
            *(self._job_prefix, rq.job_prefix, rq.execution_prefix, rq.executions_prefix),
            *(self._worker, token, int(limits.lease_s * 1000), now, now_s, EXECUTION_TTL_S, more),
            *(int(limits.dead_ttl_s), int((limits.pending_ttl_s + limits.total_s) * 1000), *popped),
        ]
        answer = await self._link.insist(scripts.CLAIM, names, args)
        return [_lease(entry) for entry in answer if len(entry) == 4]

    async def body(self, lease: Lease) -> list[bytes]:
        """The request's bytes; the pieces of a big one are fetched one by one, others' commands in between."""
        key, pieces = self._keys.body(lease.job.id), [lease.inline]
        for number in range(lease.job.body_pieces):
            pieces.append(await self._link.execute("HGET", key, number) or b"")
        return [piece for piece in pieces if piece]

    async def dispatch(self, lease: Lease, draft: Record) -> int:
        """Write ahead that the provider may have been called: 1 go, else a code of ``scripts``."""
        args = [lease.id, orjson.dumps([str(value) for value in draft])]
        return int(await self._link.insist(scripts.DISPATCH, [self._keys.job(lease.job.id)], args))

    async def call_failed(self, lease: Lease, record: Record) -> int:
        """Account for a call that came to nothing, before another one: 1, else a code of ``scripts``."""
        args = [lease.id, self._limits.usage_maxlen, *record]
        names = [self._keys.job(lease.job.id), self._keys.usage]
        return int(await self._link.insist(scripts.CALL_FAILED, names, args))

    async def heartbeat(self, leases: Sequence[Lease]) -> list[int]:
        """Renew them all in one call: 0, or a code of ``scripts``, for each."""
        _, now_s = rq_records.timestamps()
        names = [self._keys.leases, self._rq.started, self._rq.worker_executions(self._worker)]
        args: list[Any] = [
            *(self._job_prefix, int(self._limits.lease_s * 1000)),
            *(self._rq.execution_prefix, self._rq.executions_prefix, now_s, EXECUTION_TTL_S),
        ]
        for lease in leases:
            args += (lease.job.id, lease.id)
        return list(await self._link.insist(scripts.HEARTBEAT, names, args))

    async def readers(self, leases: Sequence[Lease]) -> list[int]:
        """How many readers listen to each job, over all ingress processes."""
        answer = await self._link.execute("PUBSUB", "NUMSUB", *[self._keys.live(lease.job.id) for lease in leases])
        return [int(count) for count in answer[1::2]]

    # -- settling ------------------------------------------------------------------------------------------------

    async def expire(self) -> list[Settled]:
        """Settle the jobs of dead workers."""
        return await self._settle([], INTERRUPTED_MESSAGE)

    async def release(self, leases: Sequence[Lease], message: str = DRAINED_MESSAGE) -> list[Settled]:
        """Settle jobs of our own that we will not finish: as if their lease had run out, but now."""
        named: list[Any] = []
        for lease in leases:
            named += (lease.job.id, lease.id)
        return await self._settle(named, message) if named else []

    async def unstick(self) -> list[str]:
        """Put back what was popped and never claimed."""
        args = [self._job_prefix, int(self._limits.lease_s * 1000), SETTLE_AT_ONCE]
        return [
            item.decode()
            for item in await self._link.run(scripts.UNSTICK, [self._rq.intermediate, self._rq.queue], args)
        ]

    async def call_up(self) -> int:
        """Let those in whose pace allows it now; how many."""
        return int(await self._link.run(scripts.CALL_UP, [self._rq.queue], [self._job_prefix]))

    async def suspended(self) -> bool:
        """Whether an operator ran ``rq suspend``."""
        return bool(await self._link.execute("EXISTS", rq_records.SUSPENDED))

    async def late_usage(self, call: Call, record: Record) -> bool:
        """Report the final usage of a call whose job was given away meanwhile."""
        args = [call.name, self._limits.usage_maxlen, *record]
        names = [self._keys.job(call.job.id), self._keys.usage]
        return bool(await self._link.insist(scripts.LATE_USAGE, names, args))

    async def _settle(self, named: list[Any], interrupted: str) -> list[Settled]:
        rq, limits = self._rq, self._limits
        now, now_s = rq_records.timestamps()
        names = [self._keys.leases, self._keys.usage, rq.queue, rq.started, rq.failed]
        args = [
            *(self._job_prefix, rq.job_prefix, rq.execution_prefix, rq.executions_prefix, rq.worker_prefix),
            *(now, now_s, limits.max_claims, int(limits.log_ttl_s * 1000), int(limits.dead_ttl_s)),
            int(limits.pending_ttl_s * 1000),
            *(limits.usage_maxlen, SETTLE_AT_ONCE, interrupted, WORKER_LOST_MESSAGE, CANCELLED_MESSAGE),
            *named,
        ]
        answer = await self._link.run(scripts.EXPIRE, names, args)
        return [Settled(*[item.decode() for item in entry]) for entry in answer]


def _lease(entry: list[Any]) -> Lease:
    _, generation, flat, inline = entry
    stored = fields(flat)
    return Lease(
        Job.decode(stored),
        int(generation),
        stored["lease"],
        int(stored["attempts"]),
        int(stored.get("calls", 0)),
        inline,
        stored.get("budget", ""),
    )
