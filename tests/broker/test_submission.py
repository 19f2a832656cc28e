"""Accepting a job: once for each idempotency key, and into an index that never holds much more than there is."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from relay.broker.asking import PIECE_BYTES
from relay.core.errors import TooManyRequests, UnprocessableEntity
from relay.core.idempotency import TTL_S, Once
from relay.core.job import DONE
from tests.broker.system import REQUEST, TENANT, Broker, Worker, make_job

ONCE = Once("a" * 64, "f" * 64)


async def test_of_fifty_submissions_with_one_key_one_is_the_job_of_all(broker: Broker, redis: Redis) -> None:
    accepted = await asyncio.gather(*[broker.queue.submit(make_job(), REQUEST, ONCE) for _ in range(50)])
    assert len({each.job_id for each in accepted}) == 1
    assert sum(each.is_new for each in accepted) == 1
    assert await redis.llen(broker.rq.queue) == 1
    assert await redis.zcard(broker.keys.jobs(TENANT)) == 1


async def test_another_request_with_the_key_is_refused_and_leaves_nothing(broker: Broker, redis: Redis) -> None:
    first = await broker.queue.submit(make_job(), REQUEST, ONCE)
    before = await redis.dbsize()
    body = b"x" * (PIECE_BYTES + 1)
    with pytest.raises(UnprocessableEntity, match=first.job_id):
        await broker.queue.submit(make_job(body), body, ONCE._replace(fingerprint="0" * 64))
    assert await redis.dbsize() == before


async def test_a_key_outlives_the_end_of_its_job_and_goes_after_a_day(
    broker: Broker, worker: Worker, redis: Redis
) -> None:
    first = await broker.queue.submit(make_job(), REQUEST, ONCE)
    lease = await worker.start()
    await worker.finish(worker.outlet(lease), DONE)
    again = await broker.queue.submit(make_job(), REQUEST, ONCE)
    assert (again.job_id, again.is_new) == (first.job_id, False)
    assert TTL_S - 60 < await redis.ttl(broker.keys.idempotency(ONCE.name)) <= TTL_S


async def test_a_key_whose_job_is_gone_is_free(broker: Broker, redis: Redis) -> None:
    first = await broker.queue.submit(make_job(), REQUEST, ONCE)
    await redis.delete(broker.keys.job(first.job_id))
    again = await broker.queue.submit(make_job(), REQUEST, ONCE)
    assert again.is_new
    assert again.job_id != first.job_id


async def test_a_repeated_request_is_not_turned_away_from_a_full_queue(broker: Broker) -> None:
    small = broker.with_limits(queue_limit=1)
    first = await small.queue.submit(make_job(), REQUEST, ONCE)
    with pytest.raises(TooManyRequests):
        await small.submit()
    assert (await small.queue.submit(make_job(), REQUEST, ONCE)).job_id == first.job_id


async def test_a_request_that_was_refused_leaves_its_key_free(broker: Broker) -> None:
    small = broker.with_limits(queue_limit=1)
    blocking = await small.submit()
    with pytest.raises(TooManyRequests):
        await small.queue.submit(make_job(), REQUEST, ONCE)
    await small.queue.cancel(blocking.id, TENANT)
    assert (await small.queue.submit(make_job(), REQUEST, ONCE)).is_new


async def test_ids_of_expired_jobs_leave_the_index_as_new_ones_come(broker: Broker, redis: Redis) -> None:
    index = broker.keys.jobs(TENANT)
    jobs = [await broker.submit() for _ in range(100)]
    await redis.delete(*[broker.keys.job(job.id) for job in jobs[:90]])
    new = [await broker.with_limits(queue_limit=1000, tenant_queue_limit=1000).submit() for _ in range(120)]
    kept = set(await redis.zrange(index, 0, -1))
    living = {job.id for job in [*jobs[90:], *new]}
    assert kept >= living
    assert len(kept - living) < 20  # of ninety; two in the mean


async def test_the_index_of_a_tenant_who_is_gone_goes_too(broker: Broker, redis: Redis) -> None:
    await broker.submit()
    limits = broker.limits
    lives_s = 2 * limits.pending_ttl_s + limits.total_s + limits.dead_ttl_s
    assert lives_s < await redis.ttl(broker.keys.jobs(TENANT)) <= lives_s + 60
