"""Submit, status, cancel, counts: the queue as an ingress sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import pytest
from redis.asyncio import Redis

from relay.broker.queue import PIECE_BYTES, JobStatus
from relay.core.errors import NotFound, TooManyRequests, Unavailable
from relay.core.frame import END, Cursor
from relay.core.job import CANCELLED, DONE, ENDED, FAILED, QUEUED, STATUS, STREAMING
from tests.broker.system import (
    ALL_STATES,
    REQUEST,
    RUNNING,
    TENANT,
    Broker,
    Worker,
    dump,
    flushed,
    frames_of,
    make_job,
    state_of,
    usage_records,
)
from tests.support.chaos import ChaosProxy
from tests.support.processes import free_port

# --- submit


async def test_an_accepted_job_is_stored_whole(broker: Broker, redis: Redis) -> None:
    job = await broker.submit()
    status = await broker.queue.status(job.id, TENANT)
    assert (status.job, status.state, status.status) == (job, QUEUED, "queued")
    assert (status.generation, status.sequence, status.calls) == (0, 0, 0)
    assert await redis.hvals(broker.keys.body(job.id)) == [REQUEST.decode()]
    assert await redis.lrange(broker.rq.queue, 0, -1) == [job.id]


async def test_the_answer_counts_the_jobs_ahead(broker: Broker) -> None:
    assert [(await broker.queue.submit(make_job(), REQUEST)).ahead for _ in range(3)] == [0, 1, 2]


async def test_a_large_body_is_kept_in_pieces_byte_for_byte(broker: Broker, worker: Worker) -> None:
    body = bytes(range(256)) * (3 * PIECE_BYTES // 256) + b"the rest"
    job = await broker.submit(body)
    assert job.body_pieces == 4
    lease = await worker.claim()
    pieces = await worker.leases.body(lease)
    assert b"".join(pieces) == body
    assert max(map(len, pieces)) == PIECE_BYTES


async def test_submitting_a_large_body_again_does_not_store_it_twice(broker: Broker, worker: Worker) -> None:
    body = b"x" * (PIECE_BYTES + 1)
    job = make_job(body)
    await broker.queue.submit(job, body)
    await broker.queue.submit(job, body)
    lease = await worker.claim()
    assert b"".join(await worker.leases.body(lease)) == body
    assert await worker.leases.claim([], 10) == []


async def test_everything_a_waiting_job_has_expires_with_it(broker: Broker, redis: Redis) -> None:
    short, large = await broker.submit(), await broker.submit(b"x" * (2 * PIECE_BYTES))
    for job in (short, large):
        for name in (broker.keys.job(job.id), broker.keys.body(job.id), broker.rq.job(job.id)):
            assert 0 < await redis.ttl(name) <= broker.limits.pending_ttl_s


async def test_a_full_queue_takes_nothing_and_keeps_nothing(broker: Broker, redis: Redis) -> None:
    small = broker.with_limits(queue_limit=2)
    await small.submit()
    await small.submit()
    before = await dump(redis)
    for body in (REQUEST, b"x" * (2 * PIECE_BYTES)):
        with pytest.raises(TooManyRequests, match="2 jobs wait") as refusal:
            await small.submit(body)
        assert refusal.value.retry_after_s
        assert await dump(redis) == before


async def test_the_limit_holds_when_many_come_at_once(broker: Broker, redis: Redis) -> None:
    small = broker.with_limits(queue_limit=5)
    answers = await asyncio.gather(*[small.submit() for _ in range(20)], return_exceptions=True)
    assert sum(isinstance(answer, TooManyRequests) for answer in answers) == 15
    assert await redis.llen(broker.rq.queue) == 5


async def test_there_is_room_again_when_a_job_was_taken(broker: Broker, worker: Worker) -> None:
    small = broker.with_limits(queue_limit=1)
    await small.submit()
    await worker.claim()
    await small.submit()


# --- status


async def test_the_status_follows_the_job(broker: Broker, worker: Worker, redis: Redis) -> None:
    async def now() -> JobStatus:
        return await broker.queue.status(job.id, TENANT)

    job = await broker.submit()
    lease = await worker.claim()
    claimed = await now()
    assert (claimed.status, claimed.calls, claimed.generation) == ("in_progress", 0, lease.generation)
    assert (claimed.worker, claimed.worker_pid) == ("host-4711-ab12cd", 4711)
    assert claimed.claimed_ms and not claimed.dispatched_ms

    await worker.dispatch(lease)
    outlet = worker.outlet(lease)
    await worker.stream(outlet, 2)
    streaming = await now()
    assert streaming.sequence == 2
    assert streaming.dispatched_ms and streaming.first_ms
    assert claimed.claimed_ms <= streaming.dispatched_ms <= streaming.first_ms
    assert not streaming.ended

    await worker.finish(outlet)
    ended = await now()
    assert (ended.state, ended.status, ended.ended) == (DONE, "completed", True)
    assert (ended.error, ended.message, ended.http_status, ended.usage_kind) == (None, None, 200, "final")
    assert ended.ended_ms and ended.ended_ms >= streaming.first_ms


async def test_a_failure_tells_why(broker: Broker, worker: Worker) -> None:
    job, _ = await broker.in_state(FAILED, worker)
    status = await broker.queue.status(job.id, TENANT)
    assert (status.status, status.error, status.message) == ("failed", "overloaded_error", "so it is")


@pytest.mark.parametrize("name", ["", "a-worker", "host-x-1", "my-host-12x-ab"])
async def test_a_worker_with_a_name_of_its_own_shows_no_pid(broker: Broker, name: str) -> None:
    job, _ = await broker.in_state(RUNNING[0], broker.worker(name or "w"))
    assert (await broker.queue.status(job.id, TENANT)).worker_pid is None


async def test_another_tenants_job_is_no_job(broker: Broker, worker: Worker, redis: Redis) -> None:
    job, _ = await broker.in_state(STREAMING, worker)
    before = await dump(redis)
    for ask in (broker.queue.status, broker.queue.cancel):
        errors = []
        for job_id, tenant in ((job.id, "rival"), (job.id, ""), (make_job().id, TENANT)):
            with pytest.raises(NotFound) as refusal:
                await ask(job_id, tenant)
            errors.append(refusal.value.message.replace(job_id, "…"))
        assert len(set(errors)) == 1
    assert await dump(redis) == before


# --- cancel


async def test_a_waiting_job_is_cancelled_at_once(broker: Broker, worker: Worker, redis: Redis) -> None:
    job, other = await broker.submit(), await broker.submit()
    status = await broker.queue.cancel(job.id, TENANT)
    assert (status.state, status.error) == (CANCELLED, "cancelled")
    [end] = await frames_of(redis, broker.keys, job)
    assert (end.kind, end.cursor) == (END, Cursor(status.generation, 1))
    assert orjson.loads(end.data) == {
        "state": "cancelled",
        "error": {"code": "cancelled", "message": status.message},
    }
    assert not await redis.exists(broker.keys.body(job.id))
    assert [lease.job for lease in await worker.leases.claim([], 10)] == [other]
    assert await usage_records(redis, broker.keys) == []


@pytest.mark.parametrize("state", RUNNING)
async def test_the_worker_of_a_running_job_is_told(broker: Broker, worker: Worker, redis: Redis, state: str) -> None:
    job, lease = await broker.in_state(state, worker)
    assert lease
    pubsub = redis.pubsub()
    await pubsub.subscribe(f"rq:pubsub:{worker.name}")
    await pubsub.get_message(timeout=5)

    status = await broker.queue.cancel(job.id, TENANT)

    assert status.state == state
    message = await pubsub.get_message(timeout=5)
    assert message and orjson.loads(message["data"]) == {"command": "stop-job", "job_id": job.id}
    assert await worker.leases.heartbeat([lease]) == [-5]
    await pubsub.aclose()


@pytest.mark.parametrize("state", sorted(ENDED))
async def test_what_has_ended_stays_as_it_ended(broker: Broker, worker: Worker, redis: Redis, state: str) -> None:
    job, _ = await broker.in_state(state, worker)
    before = await dump(redis)
    assert (await broker.queue.cancel(job.id, TENANT)).state == state
    assert await dump(redis) == before


@pytest.mark.parametrize("state", ALL_STATES)
async def test_cancelling_again_changes_nothing(broker: Broker, worker: Worker, redis: Redis, state: str) -> None:
    job, _ = await broker.in_state(state, worker)
    first = await broker.queue.cancel(job.id, TENANT)
    before = await dump(redis)
    assert await broker.queue.cancel(job.id, TENANT) == first
    assert await dump(redis) == before


async def test_a_cancelled_job_that_was_queued_for_the_second_time_keeps_its_order(
    broker: Broker, worker: Worker, redis: Redis
) -> None:
    """Its log may hold the head of a lost attempt: the end must come behind it."""
    job = await broker.submit()
    lease = await worker.start()
    outlet = worker.outlet(lease)
    outlet.head(200, [])
    await flushed(outlet)
    await worker.leases.release([lease])
    assert await state_of(redis, broker.keys, job) == QUEUED

    await broker.queue.cancel(job.id, TENANT)

    head, end = await frames_of(redis, broker.keys, job)
    assert (head.kind, end.kind) == ("h", END)
    assert end.cursor > head.cursor


async def test_a_job_cancelled_between_pop_and_claim_is_not_run(broker: Broker, worker: Worker, redis: Redis) -> None:
    job = await broker.submit()
    popped = await worker.leases.pop(1)
    await broker.queue.cancel(job.id, TENANT)
    assert popped == job.id
    assert await worker.leases.claim([popped], 0) == []
    assert await state_of(redis, broker.keys, job) == CANCELLED
    assert await redis.hget(broker.rq.job(job.id), "status") == "canceled"
    assert await redis.llen(broker.rq.intermediate) == 0


# --- counts


async def test_counts_are_those_of_redis(broker: Broker, worker: Worker) -> None:
    for state in (QUEUED, *RUNNING, DONE, CANCELLED):
        await broker.in_state(state, worker)
        if state == QUEUED:  # the claims that follow take from the head
            await broker.submit()
            await worker.claim()
    assert await broker.queue.counts() == {"queued": 1, "running": 4, "usage_records": 1}


async def test_every_state_has_a_public_word_in_the_status(broker: Broker, worker: Worker) -> None:
    for state in reversed(ALL_STATES):  # queued last, or the next claim would take that one
        job, _ = await broker.in_state(state, worker)
        assert (await broker.queue.status(job.id, TENANT)).status == STATUS[state]


# --- when Redis is not well


@asynccontextmanager
async def memory_full(redis: Redis) -> AsyncIterator[None]:
    """As full as a Redis gets that evicts nothing."""
    await redis.config_set("maxmemory", 1)
    try:
        yield
    finally:
        await redis.config_set("maxmemory", 0)


@pytest.mark.parametrize("body", [REQUEST, b"x" * (2 * PIECE_BYTES)], ids=["short", "large"])
async def test_a_full_redis_takes_no_new_job(broker: Broker, redis: Redis, body: bytes) -> None:
    before = await dump(redis)
    async with memory_full(redis):
        with pytest.raises(Unavailable, match="out of memory") as refusal:
            await broker.submit(body)
    assert refusal.value.retry_after_s
    assert await dump(redis) == before


async def test_a_full_redis_still_lets_its_jobs_run_to_their_end(broker: Broker, worker: Worker, redis: Redis) -> None:
    waiting, cancelled = await broker.submit(), await broker.submit()
    await worker.register()
    async with memory_full(redis):
        assert await worker.leases.pop(1) is None  # Redis refuses BLMOVE; claim takes from the queue by itself
        lease = await worker.start()
        outlet = worker.outlet(lease)
        await worker.stream(outlet, 3)
        assert await worker.leases.heartbeat([lease]) == [0]
        assert await worker.finish(outlet) == 1
        assert (await broker.queue.cancel(cancelled.id, TENANT)).state == CANCELLED
        assert await worker.leases.expire() == []
        assert await worker.leases.unstick() == []
    assert await state_of(redis, broker.keys, waiting) == DONE
    assert [frame.kind for frame in await frames_of(redis, broker.keys, waiting)] == ["h", "e", "e", "e", END]
    assert worker.refusals.codes == []


async def test_a_redis_that_is_gone_is_said_to_be(broker: Broker) -> None:
    lost = Broker(f"redis://127.0.0.1:{free_port()}/0")
    job = make_job()
    answers = await asyncio.gather(
        lost.queue.submit(job, REQUEST),
        lost.queue.status(job.id, TENANT),
        lost.queue.cancel(job.id, TENANT),
        lost.queue.counts(),
        lost.queue.ping(),
        return_exceptions=True,
    )
    lost.close()
    for answer in answers:
        assert isinstance(answer, Unavailable)
        assert (answer.message, answer.retry_after_s) == ("Redis cannot be reached.", 2)


@pytest.mark.parametrize("fault", ["lose_reply", "lose_req"])
async def test_a_blink_of_redis_is_not_noticed_at_the_door(broker: Broker, redis: Redis, fault: str) -> None:
    async with ChaosProxy(int(broker.url.rsplit(":", 1)[1].split("/")[0])) as proxy:
        shaky = Broker(f"redis://127.0.0.1:{proxy.port}/0")
        await shaky.queue.ping()
        proxy.arm(b"EVALSHA", fault)
        job = await shaky.submit()
        assert await redis.lrange(broker.rq.queue, 0, -1) == [job.id]
        proxy.arm(b"EVALSHA", fault)
        assert (await shaky.queue.cancel(job.id, TENANT)).state == CANCELLED
        assert [frame.kind for frame in await frames_of(redis, broker.keys, job)] == [END]
        shaky.close()
