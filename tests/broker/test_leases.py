"""Leases: who owns a job, for how long, and what becomes of it when its owner is gone."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import orjson
import pytest
from redis.asyncio import Redis

from relay.broker.leases import INTERRUPTED_MESSAGE, WORKER_LOST_MESSAGE, Lease, Settled
from relay.broker.scripts import CANCEL_WANTED, NOT_OURS, UNKNOWN
from relay.core.frame import END, EVENTS, HEAD, Cursor
from relay.core.job import CANCELLED, CLAIMED, DISPATCHED, DONE, FAILED, QUEUED, STREAMING, Job
from tests.broker.system import (
    ALL_STATES,
    REQUEST,
    RUNNING,
    TENANT,
    Broker,
    Worker,
    call_of,
    draft_of,
    dump,
    flushed,
    frames_of,
    let_lease_lapse,
    make_job,
    record_of,
    state_of,
    usage_records,
)
from tests.support.chaos import ChaosProxy
from tests.support.wait import wait_until


@pytest.fixture
def reaper(broker: Broker) -> Worker:
    """Another worker, which finds what the first one left."""
    return broker.worker("reaper-1-000000")


async def expired(broker: Broker, redis: Redis, reaper: Worker, job: Job) -> Settled:
    """What becomes of this job when its worker is gone."""
    await let_lease_lapse(redis, broker.keys, job)
    [settled] = await reaper.leases.expire()
    assert settled.job_id == job.id
    return settled


async def queue_of(broker: Broker, redis: Redis) -> list[str]:
    ids: list[str] = await redis.lrange(broker.rq.queue, 0, -1)
    return ids


# --- pop and claim


async def test_a_popped_job_is_claimed_and_leaves_the_intermediate_queue(
    broker: Broker, worker: Worker, redis: Redis
) -> None:
    job = await broker.submit()
    popped = await worker.leases.pop(1)
    assert popped == job.id
    assert await redis.lrange(broker.rq.intermediate, 0, -1) == [job.id]
    [lease] = await worker.leases.claim([popped], 0)
    assert (lease.job, lease.claims, lease.inline) == (job, 1, REQUEST)
    assert await redis.llen(broker.rq.intermediate) == 0
    assert await state_of(redis, broker.keys, job) == CLAIMED


async def test_a_pop_that_waits_gets_the_job_that_comes(broker: Broker, worker: Worker) -> None:
    pop = asyncio.ensure_future(worker.leases.pop(5))
    job = await broker.submit()
    assert await pop == job.id


async def test_a_pop_that_waits_can_be_called_back(worker: Worker, redis: Redis) -> None:
    pop = asyncio.ensure_future(worker.leases.pop(30))
    await wait_until(lambda: _blocked(redis))
    await worker.leases.stop_popping()
    assert await pop is None


async def _blocked(redis: Redis) -> bool:
    clients = await redis.info("clients")
    return bool(clients["blocked_clients"])


async def test_a_pop_of_an_empty_queue_comes_back_with_nothing(worker: Worker) -> None:
    assert await worker.leases.pop(0.01) is None


async def test_jobs_are_taken_in_the_order_they_came(broker: Broker, worker: Worker) -> None:
    jobs = [await broker.submit() for _ in range(5)]
    popped = await worker.leases.pop(1)
    assert popped
    first = await worker.leases.claim([popped], 2)
    rest = await worker.leases.claim([], 10)
    assert [lease.job for lease in (*first, *rest)] == jobs


async def test_a_job_has_one_owner(broker: Broker, worker: Worker, reaper: Worker) -> None:
    jobs = [await broker.submit() for _ in range(20)]
    taken = await asyncio.gather(*[each.leases.claim([], 1) for each in (worker, reaper) for _ in range(15)])
    assert sorted(lease.job.id for leases in taken for lease in leases) == sorted(job.id for job in jobs)


async def test_two_who_popped_the_same_job_do_not_both_get_it(broker: Broker, worker: Worker, reaper: Worker) -> None:
    job = await broker.submit()
    popped = await worker.leases.pop(1)
    assert popped == job.id
    assert len(await worker.leases.claim([popped], 0)) == 1
    assert await reaper.leases.claim([popped], 0) == []


async def test_a_job_that_stands_in_the_queue_twice_is_taken_once(broker: Broker, worker: Worker, redis: Redis) -> None:
    """A worker died in ``put_back``, or an operator requeued by hand: never two calls for it."""
    job = await broker.submit()
    await redis.lpush(broker.rq.queue, job.id)
    await redis.rpush(broker.rq.intermediate, job.id)
    assert [lease.job for lease in await worker.leases.claim([job.id], 5)] == [job]
    assert await queue_of(broker, redis) == []


async def test_a_generation_is_the_time_of_redis_and_always_grows(
    broker: Broker, worker: Worker, reaper: Worker, redis: Redis
) -> None:
    seconds, _ = await redis.time()
    job = await broker.submit()
    first = await worker.claim()
    assert 0 <= first.generation // 1000 - seconds <= 60
    # A clock that was set back must not give a number a second time.
    future = first.generation + 10**9
    await redis.hset(broker.keys.job(job.id), "generation", future)
    await expired(broker, redis, reaper, job)
    second = await reaper.claim()
    assert second.generation == future + 1


async def test_a_lost_reply_to_a_claim_costs_neither_the_job_nor_an_attempt(broker: Broker, redis: Redis) -> None:
    jobs = [await broker.submit() for _ in range(3)]
    async with ChaosProxy(_port(broker)) as proxy:
        worker = broker.worker(url=f"redis://127.0.0.1:{proxy.port}/0")
        popped = await worker.leases.pop(1)
        proxy.arm(b"EVALSHA", "lose_reply")
        leases = await worker.leases.claim([popped or ""], 1)
        assert [lease.job for lease in leases] == jobs[:2]
        assert await queue_of(broker, redis) == [jobs[2].id]
        assert {lease.claims for lease in leases} == {1}
        worker.link.close()


def _port(broker: Broker) -> int:
    return int(broker.url.rsplit(":", 1)[1].split("/")[0])


@pytest.mark.parametrize("state", [state for state in ALL_STATES if state != QUEUED])
async def test_an_id_in_the_queue_that_must_not_run_is_not_run(
    broker: Broker, worker: Worker, reaper: Worker, redis: Redis, state: str
) -> None:
    job, _ = await broker.in_state(state, worker)
    at = await redis.hgetall(broker.keys.job(job.id))
    await redis.lpush(broker.rq.queue, job.id)
    assert await reaper.leases.claim([], 1) == []
    assert await redis.hgetall(broker.keys.job(job.id)) == at
    assert await queue_of(broker, redis) == []


async def test_a_job_is_kept_as_long_as_it_may_run_however_long_it_waited(
    broker: Broker, worker: Worker, redis: Redis
) -> None:
    job = await broker.submit()
    for name in (broker.keys.job(job.id), broker.keys.body(job.id), broker.rq.job(job.id)):
        await redis.pexpire(name, 2000)  # it has waited nearly as long as it may
    await worker.claim()
    for name in (broker.keys.job(job.id), broker.keys.body(job.id), broker.rq.job(job.id)):
        assert await redis.ttl(name) >= broker.limits.total_s, name


async def test_a_popped_job_can_be_put_back_at_the_head(broker: Broker, worker: Worker, redis: Redis) -> None:
    first, second = await broker.submit(), await broker.submit()
    popped = await worker.leases.pop(1)
    assert popped == first.id
    await worker.leases.put_back(popped)
    assert await queue_of(broker, redis) == [first.id, second.id]
    assert await redis.llen(broker.rq.intermediate) == 0


# --- popped and never claimed


async def test_a_popped_job_that_nobody_claims_is_queued_again_after_a_while(broker: Broker, redis: Redis) -> None:
    hasty = broker.with_limits(lease_s=0.05)
    worker, reaper = hasty.worker(), hasty.worker("reaper-1-000000")
    job, other = await broker.submit(), await broker.submit()
    assert await worker.leases.pop(1) == job.id

    assert await reaper.leases.unstick() == []  # seen for the first time
    assert await wait_until(reaper.leases.unstick) == [job.id]

    assert await queue_of(broker, redis) == [job.id, other.id]
    assert await redis.llen(broker.rq.intermediate) == 0
    [lease, _] = await reaper.leases.claim([], 2)
    assert (lease.job, lease.claims) == (job, 1)


async def test_a_popped_job_has_all_the_time_of_a_lease(broker: Broker, worker: Worker, reaper: Worker) -> None:
    await broker.submit()
    popped = await worker.leases.pop(1)
    for _ in range(3):
        assert await reaper.leases.unstick() == []
    assert popped
    assert len(await worker.leases.claim([popped], 0)) == 1
    assert await reaper.leases.unstick() == []


async def test_what_is_left_of_an_ended_or_forgotten_job_in_the_intermediate_queue_goes(
    broker: Broker, worker: Worker, redis: Redis
) -> None:
    done, _ = await broker.in_state(DONE, worker)
    await redis.rpush(broker.rq.intermediate, done.id, make_job().id)
    assert await worker.leases.unstick() == []
    assert await redis.llen(broker.rq.intermediate) == 0


# --- dispatch


async def test_a_dispatch_is_marked_before_the_provider_is_called(broker: Broker, worker: Worker, redis: Redis) -> None:
    job = await broker.submit()
    lease = await worker.claim()
    assert await worker.dispatch(lease) == 1
    stored = await redis.hgetall(broker.keys.job(job.id))
    assert stored["state"] == DISPATCHED
    assert orjson.loads(stored["draft"]) == [str(value) for value in draft_of(lease)]


async def test_a_cancelled_job_is_not_dispatched(broker: Broker, worker: Worker, redis: Redis) -> None:
    job = await broker.submit()
    lease = await worker.claim()
    await broker.queue.cancel(job.id, TENANT)
    before = await dump(redis)
    assert await worker.dispatch(lease) == CANCEL_WANTED
    assert await dump(redis) == before


# --- heartbeat


async def test_deadlines_are_in_redis_time(broker: Broker, worker: Worker, redis: Redis) -> None:
    async def deadline() -> float:
        score = await redis.zscore(broker.keys.leases, job.id)
        assert score
        return float(score)

    async def now_ms() -> float:
        seconds, micros = await redis.time()
        return float(seconds * 1000 + micros // 1000)

    job = await broker.submit()
    lease_ms = broker.limits.lease_s * 1000
    before = await now_ms()
    lease = await worker.claim()
    assert before + lease_ms <= await deadline() <= await now_ms() + lease_ms
    await redis.zadd(broker.keys.leases, {job.id: 1})
    before = await now_ms()
    assert await worker.leases.heartbeat([lease]) == [0]
    assert before + lease_ms <= await deadline() <= await now_ms() + lease_ms


async def test_a_heartbeat_answers_for_every_job_by_itself(
    broker: Broker, worker: Worker, reaper: Worker, redis: Redis
) -> None:
    jobs = [await broker.submit() for _ in range(5)]
    mine, given_away, ended, forgotten, cancelled = await worker.leases.claim([], 5)
    await expired(broker, redis, reaper, jobs[1])
    await worker.dispatch(ended)
    await worker.register()
    await worker.finish(worker.outlet(ended))
    await redis.delete(broker.keys.job(jobs[3].id))
    await broker.queue.cancel(jobs[4].id, TENANT)

    codes = await worker.leases.heartbeat([mine, given_away, ended, forgotten, cancelled])

    assert codes == [0, NOT_OURS, NOT_OURS, UNKNOWN, CANCEL_WANTED]


async def test_a_heartbeat_of_an_idle_worker_is_no_trouble(worker: Worker, redis: Redis) -> None:
    assert await worker.leases.heartbeat([]) == []


async def test_only_jobs_with_a_lapsed_lease_are_settled(
    broker: Broker, worker: Worker, reaper: Worker, redis: Redis
) -> None:
    jobs = [await broker.submit() for _ in range(3)]
    await worker.leases.claim([], 3)
    await let_lease_lapse(redis, broker.keys, jobs[1])
    assert [settled.job_id for settled in await reaper.leases.expire()] == [jobs[1].id]
    assert [await state_of(redis, broker.keys, job) for job in jobs] == [CLAIMED, QUEUED, CLAIMED]


async def test_a_lease_lapses_by_itself(broker: Broker) -> None:
    hasty = broker.with_limits(lease_s=0.02)
    job = await broker.submit()
    await hasty.worker().claim()
    reaper = hasty.worker("reaper-1-000000")
    assert await wait_until(reaper.leases.expire) == [Settled(job.id, "queued", CLAIMED)]


# --- a worker is gone


async def test_a_job_lost_before_the_call_is_queued_again_ahead_of_others(
    broker: Broker, worker: Worker, reaper: Worker, redis: Redis
) -> None:
    job = await broker.submit()
    lease = await worker.claim()
    other = await broker.submit()

    assert await expired(broker, redis, reaper, job) == (job.id, "queued", CLAIMED)

    assert await queue_of(broker, redis) == [job.id, other.id]
    second = await reaper.claim()
    assert (second.job, second.claims, second.inline) == (job, 2, REQUEST)
    assert second.generation > lease.generation
    assert await usage_records(redis, broker.keys) == []


async def test_a_job_that_loses_every_worker_is_given_up(broker: Broker, reaper: Worker, redis: Redis) -> None:
    job = await broker.submit()
    outcomes = []
    for attempt in range(1, broker.limits.max_claims + 1):
        lease = await broker.worker(f"host-{attempt}-000000").claim()
        assert lease.claims == attempt
        outcomes.append((await expired(broker, redis, reaper, job)).outcome)
    assert outcomes == ["queued", "queued", "worker_lost"]
    status = await broker.queue.status(job.id, TENANT)
    assert (status.state, status.error, status.message) == (FAILED, "worker_lost", WORKER_LOST_MESSAGE)
    [end] = await frames_of(redis, broker.keys, job)
    assert (end.kind, end.cursor) == (END, Cursor(lease.generation, 1))
    assert await queue_of(broker, redis) == []
    assert await usage_records(redis, broker.keys) == []


async def test_a_job_lost_after_the_call_began_is_tried_once_more_and_no_more(
    broker: Broker, worker: Worker, reaper: Worker, redis: Redis
) -> None:
    job = await broker.submit()
    first = await worker.start()
    assert await expired(broker, redis, reaper, job) == (job.id, "queued", DISPATCHED)
    second = await worker.start()
    assert await expired(broker, redis, reaper, job) == (job.id, "worker_lost", DISPATCHED)

    assert await queue_of(broker, redis) == []
    assert await state_of(redis, broker.keys, job) == FAILED
    records = await usage_records(redis, broker.keys)
    assert [(record["kind"], record["generation"]) for record in records] == [
        ("unknown", str(first.generation)),
        ("unknown", str(second.generation)),
    ]
    assert all(record["output_tokens"] == "" for record in records)


async def test_a_job_lost_in_mid_stream_ends_with_an_error_and_is_never_run_again(
    broker: Broker, worker: Worker, reaper: Worker, redis: Redis
) -> None:
    job, lease = await broker.in_state(STREAMING, worker)
    assert lease

    assert await expired(broker, redis, reaper, job) == (job.id, "interrupted", STREAMING)

    *shown, end = await frames_of(redis, broker.keys, job)
    assert [frame.kind for frame in shown] == [HEAD, EVENTS, EVENTS, EVENTS]
    assert (end.kind, end.cursor) == (END, Cursor(lease.generation, 4))
    assert orjson.loads(end.data) == {
        "state": "failed",
        "error": {"code": "interrupted", "message": INTERRUPTED_MESSAGE},
    }
    assert await queue_of(broker, redis) == []
    assert (await broker.queue.status(job.id, TENANT)).usage_kind == "partial"


async def test_a_record_of_a_broken_call_has_the_numbers_of_the_last_draft(
    broker: Broker, worker: Worker, reaper: Worker, redis: Redis
) -> None:
    job = await broker.submit()
    lease = await worker.start()
    outlet = worker.outlet(lease)
    await worker.stream(outlet, 1)
    draft = dict(zip(*[iter(map(str, draft_of(lease)))] * 2, strict=True)) | {"input_tokens": "42", "status": "200"}
    outlet.usage([item for pair in draft.items() for item in pair])
    await worker.stream(outlet, 1)

    await expired(broker, redis, reaper, job)

    [record] = await usage_records(redis, broker.keys)
    assert draft.items() <= record.items()
    assert (record["kind"], record["outcome"], record["error"]) == ("partial", "interrupted", "interrupted")
    status = await broker.queue.status(job.id, TENANT)
    assert record["ended_ms"] == str(status.ended_ms)
    assert record["total_ms"] == str((status.ended_ms or 0) - job.created_ms)


@pytest.mark.parametrize("state", RUNNING)
async def test_a_job_that_was_to_be_cancelled_ends_cancelled(
    broker: Broker, worker: Worker, reaper: Worker, redis: Redis, state: str
) -> None:
    job, _ = await broker.in_state(state, worker)
    await broker.queue.cancel(job.id, TENANT)
    assert await expired(broker, redis, reaper, job) == (job.id, "cancelled", state)
    assert await state_of(redis, broker.keys, job) == CANCELLED
    assert (await frames_of(redis, broker.keys, job))[-1].kind == END
    assert len(await usage_records(redis, broker.keys)) == (0 if state == CLAIMED else 1)
    assert await queue_of(broker, redis) == []


@pytest.mark.parametrize("state", RUNNING)
async def test_a_job_is_settled_once(broker: Broker, worker: Worker, reaper: Worker, redis: Redis, state: str) -> None:
    job, _ = await broker.in_state(state, worker)
    await expired(broker, redis, reaper, job)
    before = await dump(redis)
    await redis.zadd(broker.keys.leases, {job.id: 1})  # as if a failover had brought its lease back
    assert await reaper.leases.expire() == []
    assert await dump(redis) == before


async def test_a_lease_of_a_job_that_redis_forgot_goes(broker: Broker, worker: Worker, redis: Redis) -> None:
    job, _ = await broker.in_state(STREAMING, worker)
    await redis.delete(broker.keys.job(job.id))
    await let_lease_lapse(redis, broker.keys, job)
    assert await worker.leases.expire() == []
    assert not await redis.exists(broker.keys.leases)


async def test_a_job_that_waits_again_is_kept_as_long_as_one_that_is_new(
    broker: Broker, worker: Worker, reaper: Worker, redis: Redis
) -> None:
    job, _ = await broker.in_state(DISPATCHED, worker)
    names = (broker.keys.job(job.id), broker.keys.body(job.id), broker.rq.job(job.id))
    for name in names:
        await redis.pexpire(name, 2000)
    await expired(broker, redis, reaper, job)
    for name in names:
        assert await redis.ttl(name) > broker.limits.pending_ttl_s / 2, name


# --- a worker that must leave


@pytest.mark.parametrize(
    ("state", "outcome"), [(CLAIMED, "queued"), (DISPATCHED, "queued"), (STREAMING, "interrupted")]
)
async def test_a_worker_that_leaves_settles_its_own(
    broker: Broker, worker: Worker, redis: Redis, state: str, outcome: str
) -> None:
    job, lease = await broker.in_state(state, worker)
    assert lease
    assert await worker.leases.release([lease], "leaving") == [Settled(job.id, outcome, state)]
    assert await redis.zcard(broker.keys.leases) == 0


async def test_a_job_handed_back_before_the_call_has_lost_no_attempt(broker: Broker, redis: Redis) -> None:
    job = await broker.submit()
    for _ in range(broker.limits.max_claims + 2):
        worker = broker.worker()
        lease = await worker.claim()
        assert lease.claims == 1
        assert await worker.leases.release([lease]) == [Settled(job.id, "queued", CLAIMED)]
    assert await queue_of(broker, redis) == [job.id]


async def test_a_job_handed_back_at_its_last_attempt_is_queued_too(
    broker: Broker, worker: Worker, reaper: Worker, redis: Redis
) -> None:
    job = await broker.submit()
    for _ in range(broker.limits.max_claims - 1):
        await worker.claim()
        await expired(broker, redis, reaper, job)
    lease = await worker.claim()
    assert lease.claims == broker.limits.max_claims
    assert await worker.leases.release([lease]) == [Settled(job.id, "queued", CLAIMED)]


async def test_a_release_tells_the_reader_why(broker: Broker, worker: Worker, redis: Redis) -> None:
    job, lease = await broker.in_state(STREAMING, worker)
    assert lease
    await worker.leases.release([lease], "The worker was shut down.")
    end = (await frames_of(redis, broker.keys, job))[-1]
    assert orjson.loads(end.data)["error"] == {"code": "interrupted", "message": "The worker was shut down."}


async def test_nobody_can_release_what_is_not_theirs(broker: Broker, worker: Worker, redis: Redis) -> None:
    _, lease = await broker.in_state(STREAMING, worker)
    assert lease
    before = await dump(redis)
    assert await worker.leases.release([replace(lease, id=f"{lease.generation}-{'0' * 32}")]) == []
    assert await worker.leases.release([]) == []
    assert await dump(redis) == before


# --- the last word on what a call cost


@pytest.mark.parametrize(("state", "kind"), [(DISPATCHED, "unknown"), (STREAMING, "partial")])
async def test_a_worker_that_lost_its_job_reports_the_cost_once(
    broker: Broker, worker: Worker, reaper: Worker, redis: Redis, state: str, kind: str
) -> None:
    job, lease = await broker.in_state(state, worker)
    assert lease
    await expired(broker, redis, reaper, job)
    record = record_of(lease, version=2)
    assert await worker.leases.late_usage(call_of(lease), record)
    assert not await worker.leases.late_usage(call_of(lease), record)
    first, last = await usage_records(redis, broker.keys)
    assert first["call"] == last["call"] == f"{job.id}:{lease.generation}"
    assert [(each["v"], each["kind"]) for each in (first, last)] == [("1", kind), ("2", "final")]


async def test_what_was_reported_finally_is_not_reported_again(broker: Broker, worker: Worker, redis: Redis) -> None:
    _, lease = await broker.in_state(DONE, worker)
    assert lease
    before = await dump(redis)
    assert not await worker.leases.late_usage(call_of(lease), record_of(lease, version=2))
    assert await dump(redis) == before


async def test_a_call_that_never_was_has_no_late_usage(broker: Broker, worker: Worker, redis: Redis) -> None:
    _, lease = await broker.in_state(CLAIMED, worker)
    assert lease
    assert not await worker.leases.late_usage(call_of(lease), record_of(lease, version=2))
    assert await usage_records(redis, broker.keys) == []


# --- readers, suspension


async def test_readers_are_counted_over_all_connections(broker: Broker, worker: Worker, redis: Redis) -> None:
    await broker.submit()
    await broker.submit()
    leases: list[Lease] = await worker.leases.claim([], 2)
    pubsub = redis.pubsub()
    await pubsub.subscribe(broker.keys.live(leases[1].job.id))
    await pubsub.get_message(timeout=5)
    assert await worker.leases.readers(leases) == [0, 1]
    await pubsub.aclose()


async def test_suspension_is_rqs_own(worker: Worker, redis: Redis) -> None:
    assert not await worker.leases.suspended()
    await redis.set("rq:suspended", 1, ex=60)
    assert await worker.leases.suspended()


async def test_a_second_head_follows_when_the_second_attempt_answers(
    broker: Broker, worker: Worker, reaper: Worker, redis: Redis
) -> None:
    job = await broker.submit()
    outlet = worker.outlet(await worker.start())
    outlet.head(200, [])
    await flushed(outlet)
    await expired(broker, redis, reaper, job)
    again = reaper.outlet(await reaper.start())
    await reaper.stream(again, 1)
    assert [frame.kind for frame in await frames_of(redis, broker.keys, job)] == [HEAD, HEAD, EVENTS]
