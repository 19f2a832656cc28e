"""Jobs and their time: they wait for it, and they are given up after it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from redis.asyncio import Redis

from relay.broker.leases import Lease
from relay.broker.timers import LOOK_S, Timers
from relay.core.errors import TooManyRequests
from relay.core.frame import END
from relay.core.job import CANCELLED, CLAIMED, FAILED, QUEUED, Job
from tests.broker.system import REQUEST, TENANT, Broker, Worker, frames_of, let_lease_lapse, make_job


@pytest.fixture
def timers(broker: Broker) -> Timers:
    return Timers(broker.link, broker.keys, broker.limits)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def submit(broker: Broker, **facts: Any) -> Job:
    return await broker.submit(created_ms=now_ms(), **facts)


async def it_is_time(redis: Redis, broker: Broker, job: Job) -> None:
    """As if the job's time had come just now."""
    past = now_ms() - 1
    for name in ("run_at_ms", "expires_at_ms"):
        if await redis.hexists(broker.keys.job(job.id), name):
            await redis.hset(broker.keys.job(job.id), name, past)
    await redis.zadd(broker.keys.timers, {job.id: past}, xx=True)


async def test_a_job_for_later_waits_outside_the_queue(broker: Broker, worker: Worker, timers: Timers) -> None:
    job = await submit(broker, run_at_ms=now_ms() + 60_000)
    assert 59 < await timers.settle() <= 60
    assert await worker.leases.claim([], 1) == []
    assert (await broker.queue.status(job.id, TENANT)).state == QUEUED


async def test_a_job_whose_time_has_come_is_queued_once(
    broker: Broker, worker: Worker, timers: Timers, redis: Redis
) -> None:
    job = await submit(broker, run_at_ms=now_ms() + 60_000)
    await it_is_time(redis, broker, job)
    assert await timers.settle() == LOOK_S
    await timers.settle()
    assert await redis.lrange(broker.rq.queue, 0, -1) == [job.id]
    assert await redis.hget(broker.rq.job(job.id), "status") == "queued"
    assert (await worker.claim()).job.id == job.id


async def test_a_time_that_has_passed_means_now(broker: Broker, redis: Redis) -> None:
    job = await submit(broker, run_at_ms=now_ms() - 1000)
    assert await redis.lrange(broker.rq.queue, 0, -1) == [job.id]


async def test_jobs_for_later_do_not_shut_the_door_now(broker: Broker) -> None:
    small = broker.with_limits(queue_limit=2)
    for _ in range(2):
        await submit(small, run_at_ms=now_ms() + 60_000)
    with pytest.raises(TooManyRequests):
        await submit(small, run_at_ms=now_ms() + 60_000)
    assert (await small.queue.submit(make_job(), REQUEST)).ahead == 0


async def test_a_job_for_later_lives_until_it_may_run(broker: Broker, redis: Redis) -> None:
    job = await submit(broker, run_at_ms=now_ms() + 5_000_000)
    assert await redis.pttl(broker.keys.job(job.id)) > 5_000_000
    assert await redis.pttl(broker.keys.body(job.id)) > 5_000_000


async def test_a_job_for_later_can_be_cancelled(broker: Broker, timers: Timers, redis: Redis) -> None:
    job = await submit(broker, run_at_ms=now_ms() + 60_000)
    assert (await broker.queue.cancel(job.id, TENANT)).state == CANCELLED
    assert await redis.zcard(broker.keys.timers) == 0


async def test_a_job_that_nobody_took_in_time_has_failed(broker: Broker, timers: Timers, redis: Redis) -> None:
    job = await submit(broker, expires_at_ms=now_ms() + 60_000)
    await it_is_time(redis, broker, job)
    await timers.settle()
    status = await broker.queue.status(job.id, TENANT)
    assert (status.state, status.error) == (FAILED, "expired")
    [end] = await frames_of(redis, broker.keys, job)
    assert (end.kind, b'"expired"' in end.data) == (END, True)
    assert await redis.llen(broker.rq.queue) == 0
    assert await redis.zscore(broker.rq.failed, job.id)
    assert await broker.queue.body(job) == REQUEST  # to be replayed


async def test_a_job_that_comes_too_late_to_a_worker_is_not_run(
    broker: Broker, worker: Worker, timers: Timers, redis: Redis
) -> None:
    job = await submit(broker, expires_at_ms=now_ms() + 60_000)
    await it_is_time(redis, broker, job)
    await redis.delete(broker.keys.timers)  # even if that was forgotten
    assert await worker.leases.claim([], 1) == []
    await timers.settle()
    assert (await broker.queue.status(job.id, TENANT)).error == "expired"


async def test_a_job_that_was_begun_in_time_does_not_expire(
    broker: Broker, worker: Worker, timers: Timers, redis: Redis
) -> None:
    job = await submit(broker, expires_at_ms=now_ms() + 60_000)
    lease: Lease = await worker.claim()
    assert await redis.zcard(broker.keys.timers) == 0
    await redis.hset(broker.keys.job(job.id), "expires_at_ms", now_ms() - 1)
    await let_lease_lapse(redis, broker.keys, job)
    await worker.leases.expire()  # its worker is lost, and it waits once more
    again = await worker.claim()
    assert (again.job.id, again.claims) == (lease.job.id, 2)
    assert (await broker.queue.status(job.id, TENANT)).state == CLAIMED


async def test_a_job_for_later_expires_only_after_its_time(broker: Broker, timers: Timers, redis: Redis) -> None:
    run_at = now_ms() + 1
    job = await submit(broker, run_at_ms=now_ms() + 60_000, expires_at_ms=now_ms() + 120_000)
    await redis.hset(broker.keys.job(job.id), "run_at_ms", run_at)
    await redis.zadd(broker.keys.timers, {job.id: run_at - 10})
    assert 100 < await timers.settle() <= 120
    assert await redis.lrange(broker.rq.queue, 0, -1) == [job.id]


async def test_a_spoilt_record_does_not_keep_others_waiting(broker: Broker, timers: Timers, redis: Redis) -> None:
    spoilt = await submit(broker, expires_at_ms=now_ms() + 60_000)
    good = await submit(broker, expires_at_ms=now_ms() + 60_000)
    for job in (spoilt, good):
        await it_is_time(redis, broker, job)
    await redis.hset(broker.keys.job(spoilt.id), "expires_at_ms", "soon")
    await timers.settle()
    assert (await broker.queue.status(good.id, TENANT)).error == "expired"
    assert await redis.zcard(broker.keys.timers) == 0
