"""The life of jobs under two workers and a reaper, in any order of any calls, against a model that fits on two screens.

After every step Redis must hold what the model says: one owner at a time, at most one end per job and nothing behind
it, one usage record per dispatched generation, the queue in its order, RQ's registry of started jobs, and no key
without an expiry but the named few.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_state_machine
from redis.asyncio import Redis

from relay.broker.leases import Lease
from relay.broker.scripts import CANCEL_WANTED, HOLE, NOT_OURS
from relay.core.errors import NotFound
from relay.core.frame import END, EVENTS, decode
from relay.core.job import CANCELLED, CLAIMED, DISPATCHED, DONE, ENDED, FAILED, QUEUED, STREAMING, Job
from tests.broker.system import RUNNING, TENANT, Broker, Worker, call_of, event, flushed, record_of
from tests.support.leftovers import keys_without_expiry
from tests.support.processes import RedisServer

MAX_CLAIMS = 3
KINDS = ("final", "partial")


@dataclass
class Known:
    """What the model knows of a job."""

    job: Job
    state: str = QUEUED
    lease: str = ""
    attempts: int = 0
    lost_calls: int = 0
    sequence: int = 0
    generation: int = 0
    cancel: bool = False
    usage: dict[int, list[str]] = field(default_factory=dict)  # kinds of the records, by generation

    def settle(self, *, named: bool) -> str:
        """The owner is gone; what becomes of the job."""
        state, self.lease = self.state, ""
        outcome = self._outcome(named)
        if state != CLAIMED:
            self.usage[self.generation] = ["partial" if state == STREAMING else "unknown"]
        if outcome == "queued":
            self.state = QUEUED
        else:
            self.state = CANCELLED if outcome == "cancelled" else FAILED
            self.sequence += 1
        return outcome

    def _outcome(self, named: bool) -> str:
        if self.cancel:
            return "cancelled"
        if self.state == STREAMING:
            return "interrupted"
        if self.state == CLAIMED and named:
            self.attempts -= 1
            return "queued"
        if self.attempts >= MAX_CLAIMS:
            return "worker_lost"
        if self.state == DISPATCHED:
            self.lost_calls += 1
            if self.lost_calls > 1:
                return "worker_lost"
        return "queued"


class Life(RuleBasedStateMachine):
    url = ""

    jobs = Bundle("jobs")
    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        # Hypothesis is not asynchronous, so every step runs to its end on a loop of this machine.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self.known: dict[str, Known] = {}
        self.queue: list[str] = []
        self.popped: list[str] = []
        self._run(self._start())

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(coroutine)

    async def _start(self) -> None:
        self.redis = Redis.from_url(self.url, decode_responses=True)
        await self.redis.flushall()
        self.broker = Broker(self.url)
        self.workers: list[Worker] = [self.broker.worker(f"host-{n}-000000") for n in (1, 2)]
        for worker in self.workers:
            await worker.register()
        self.impatient = self.broker.with_limits(lease_s=0).worker("host-3-000000")

    def teardown(self) -> None:
        self._run(self._stop())
        self._runner.close()

    async def _stop(self) -> None:
        try:
            assert await keys_without_expiry(self.redis) == []
        finally:
            self.broker.close()
            await self.redis.aclose()

    # -- the rules -------------------------------------------------------------------------------------------------

    @rule(target=jobs)
    def submit(self) -> Known:
        job = self._run(self.broker.submit())
        self.queue.append(job.id)
        self.known[job.id] = Known(job)
        return self.known[job.id]

    @rule(known=jobs)
    def submit_again(self, known: Known) -> None:
        assert self._run(self.broker.queue.submit(known.job, b"{}")).ahead == 0

    @rule(known=jobs)
    def requeue_by_hand(self, known: Known) -> None:
        self._run(self.redis.lpush(self.broker.rq.queue, known.job.id))
        self.queue.insert(0, known.job.id)

    @rule(target=leases, who=st.integers(0, 1), more=st.integers(1, 3))
    def claim(self, who: int, more: int) -> Any:
        taken, self.queue = self.queue[:more], self.queue[more:]
        return self._claimed(who, self._run(self.workers[who].leases.claim([], more)), taken)

    @precondition(lambda self: self.queue)
    @rule(target=leases, who=st.integers(0, 1), dies=st.booleans())
    def pop(self, who: int, dies: bool) -> Any:
        job_id = self.queue.pop(0)
        leases = self.workers[who].leases
        assert self._run(leases.pop(1)) == job_id
        self.popped.append(job_id)
        if dies:
            return multiple()
        self.popped.remove(job_id)
        return self._claimed(who, self._run(leases.claim([job_id], 0)), [job_id])

    def _claimed(self, who: int, leases: list[Lease], taken: list[str]) -> Any:
        expected = [known for job_id in dict.fromkeys(taken) if (known := self.known[job_id]).state == QUEUED]
        assert [lease.job for lease in leases] == [known.job for known in expected]
        for known, lease in zip(expected, leases, strict=True):
            assert lease.generation > known.generation
            known.state, known.lease, known.generation = CLAIMED, lease.id, lease.generation
            known.attempts += 1
            known.sequence = 0
            assert lease.claims == known.attempts
        return multiple(*[(who, lease) for lease in leases])

    @rule(who=st.integers(0, 1))
    def unstick(self, who: int) -> None:
        back = [job_id for job_id in self.popped if self.known[job_id].state == QUEUED]
        assert self._run(self.workers[who].leases.unstick()) == []  # all of these are younger than a lease
        found: list[str] = []
        while self._run(self.redis.llen(self.broker.rq.intermediate)):
            found += self._run(self.impatient.leases.unstick())
        assert sorted(found) == sorted(back)
        self.popped.clear()
        for job_id in found:
            self.queue.insert(0, job_id)

    @rule(owned=leases)
    def dispatch(self, owned: tuple[int, Lease]) -> None:
        who, lease = owned
        known = self.known[lease.job.id]
        code = self._run(self.workers[who].dispatch(lease))
        if known.lease != lease.id:
            assert code == NOT_OURS
        elif known.cancel:
            assert code == CANCEL_WANTED
        else:
            assert code == 1
            known.state = DISPATCHED if known.state == CLAIMED else known.state

    @rule(owned=leases, offset=st.sampled_from([0, 0, 0, 0, -1, 1]), count=st.integers(1, 3), head=st.booleans())
    def append(self, owned: tuple[int, Lease], offset: int, count: int, head: bool) -> None:
        who, lease = owned
        known = self.known[lease.job.id]
        ours = known.lease == lease.id
        before = known.sequence + offset
        if before < 0 or (ours and known.state == CLAIMED):
            return  # nobody streams what was not dispatched
        lost = self._run(self._append(self.workers[who], lease, before, count, head or before == 0))
        if not ours:
            assert lost == NOT_OURS
        elif offset > 0:
            assert lost == HOLE
        else:
            assert lost == 0
            if offset == 0:
                known.state, known.sequence = STREAMING, known.sequence + count

    async def _append(self, worker: Worker, lease: Lease, before: int, count: int, head: bool) -> int:
        outlet = worker.outlet(lease)
        outlet.sequence = before
        if head:
            outlet.head(200, [])
        outlet.events(b"".join(event(before + 1 + n) for n in range(count)), count)
        await flushed(outlet)
        return outlet.lost

    @rule(
        owned=leases,
        state=st.sampled_from([DONE, FAILED, CANCELLED]),
        offset=st.sampled_from([0, 0, 0, 1]),
        kind=st.sampled_from(KINDS),
        again=st.booleans(),
    )
    def finish(self, owned: tuple[int, Lease], state: str, offset: int, kind: str, again: bool) -> None:
        who, lease = owned
        known = self.known[lease.job.id]
        ours = known.lease == lease.id
        record = [] if known.state == CLAIMED else record_of(lease, kind)
        worker = self.workers[who]

        def say() -> int:
            outlet = worker.outlet(lease)
            outlet.sequence = known.sequence + offset
            code: int = self._run(worker.finish(outlet, state, record))
            return code

        code = say()
        if not ours:
            # The one who ended it hears that it has; anybody else that it is not theirs.
            assert code in (0, NOT_OURS)
        elif offset:
            assert code == HOLE
        else:
            assert code == 1
            if again:
                assert say() == 0
            if record:
                known.usage[lease.generation] = [kind]
            known.state, known.lease, known.sequence = state, "", known.sequence + 1

    @rule(who=st.integers(0, 1), owned=leases)
    def heartbeat(self, who: int, owned: tuple[int, Lease]) -> None:
        _, lease = owned
        known = self.known[lease.job.id]
        code = NOT_OURS if known.lease != lease.id else CANCEL_WANTED if known.cancel else 0
        assert self._run(self.workers[who].leases.heartbeat([lease])) == [code]

    @rule(who=st.integers(0, 1), known=jobs)
    def lapse(self, who: int, known: Known) -> None:
        running = known.state in RUNNING
        self._run(self.redis.zadd(self.broker.keys.leases, {known.job.id: 1}))
        settled = self._run(self.workers[who].leases.expire())
        if not running:
            assert settled == []
            return
        state = known.state
        outcome = known.settle(named=False)
        assert settled == [(known.job.id, outcome, state)]
        if outcome == "queued":
            self.queue.insert(0, known.job.id)

    @rule(owned=leases)
    def release(self, owned: tuple[int, Lease]) -> None:
        who, lease = owned
        known = self.known[lease.job.id]
        settled = self._run(self.workers[who].leases.release([lease]))
        if known.lease != lease.id:
            assert settled == []
            return
        state = known.state
        outcome = known.settle(named=True)
        assert settled == [(known.job.id, outcome, state)]
        if outcome == "queued":
            self.queue.insert(0, known.job.id)

    @rule(known=jobs, tenant=st.sampled_from([TENANT, TENANT, TENANT, "rival"]))
    def cancel(self, known: Known, tenant: str) -> None:
        try:
            self._run(self.broker.queue.cancel(known.job.id, tenant))
        except NotFound:
            assert tenant == "rival"
            return
        assert tenant == TENANT
        if known.state == QUEUED:
            known.state, known.sequence, known.cancel = CANCELLED, 1, True
            known.generation = -1  # a new one, which no lease has
            if known.job.id in self.queue:
                self.queue.remove(known.job.id)
        elif known.state in RUNNING:
            known.cancel = True

    @rule(owned=leases)
    def report_late(self, owned: tuple[int, Lease]) -> None:
        who, lease = owned
        kinds = self.known[lease.job.id].usage.get(lease.generation, [])
        written = self._run(self.workers[who].leases.late_usage(call_of(lease), record_of(lease, version=2)))
        assert written == (kinds in (["partial"], ["unknown"]))
        if written:
            kinds.append("final")

    # -- what Redis holds ------------------------------------------------------------------------------------------

    @invariant()
    def redis_holds_what_the_model_says(self) -> None:
        self._run(self._compare())

    async def _compare(self) -> None:
        keys, rq = self.broker.keys, self.broker.rq
        ids = list(self.known)
        async with self.redis.pipeline(transaction=False) as pipeline:
            pipeline.lrange(rq.queue, 0, -1)
            pipeline.lrange(rq.intermediate, 0, -1)
            pipeline.zrange(keys.leases, 0, -1)
            pipeline.zrange(rq.started, 0, -1)
            pipeline.xrange(keys.usage)
            for job_id in ids:
                pipeline.hgetall(keys.job(job_id))
                pipeline.xrange(keys.log(job_id))
            queue, popped, leases, started, usage, *jobs = await pipeline.execute()
        running = [known for known in self.known.values() if known.state in RUNNING]
        assert queue == self.queue
        assert popped == self.popped
        assert sorted(leases) == sorted(known.job.id for known in running)
        assert sorted(started) == sorted(f"{known.job.id}:{known.lease}" for known in running)
        self._compare_usage([record for _, record in usage])
        for known, stored, log in zip(self.known.values(), jobs[::2], jobs[1::2], strict=True):
            self._compare_job(known, stored, log)

    def _compare_usage(self, records: list[dict[str, str]]) -> None:
        found: dict[str, list[str]] = {}
        for record in records:
            found.setdefault(record["call"], []).append(record["kind"])
        assert found == {
            f"{known.job.id}:{generation}": kinds
            for known in self.known.values()
            for generation, kinds in known.usage.items()
        }

    def _compare_job(self, known: Known, stored: dict[str, str], log: list[tuple[str, dict[str, str]]]) -> None:
        assert stored["state"] == known.state
        assert stored.get("lease", "") == known.lease
        assert int(stored["attempts"]) == known.attempts
        assert ("cancel" in stored) == known.cancel
        if known.state != QUEUED:
            assert int(stored["sequence"]) == known.sequence
        frames = [decode(fields["f"].encode()) for _, fields in log]
        assert [frame.kind for frame in frames].count(END) == (known.state in ENDED)
        assert known.state not in ENDED or frames[-1].kind == END
        last = [frame for frame in frames if frame.kind == EVENTS]
        # Only one generation ever shows anything, and it shows 1, 2, 3 …
        assert len({frame.generation for frame in last}) <= 1
        assert [frame.follows for frame in last] == [0, *(frame.sequence for frame in last)][: len(last)]


def test_redis_follows_the_model_whatever_happens(redis_server: RedisServer) -> None:
    class Here(Life):
        url = redis_server.url

    limits = settings(max_examples=20, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine(Here, settings=limits)
