"""Frames out: pacing, batching, and what happens to them when Redis does not answer, or answers no."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from itertools import pairwise

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from relay.broker import scripts
from relay.broker.publisher import BODY_FRAME_BYTES, BUFFER_BYTES, End, Outlet
from relay.broker.scripts import CANCEL_WANTED, HOLE, NOT_OURS, UNKNOWN
from relay.core.frame import BODY, END, EVENTS, HEAD, Frame, split_events
from relay.core.job import CANCELLED, DONE, FAILED
from tests.broker.system import (
    TENANT,
    Broker,
    Worker,
    dump,
    event,
    flushed,
    frames_of,
    let_lease_lapse,
    record_of,
    state_of,
    usage_records,
)
from tests.support.chaos import ChaosProxy
from tests.support.wait import wait_until


async def evals(redis: Redis) -> int:
    """Script calls so far, but those by source."""
    stats = await redis.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {}).get("calls", 0))


async def started(worker: Worker, broker: Broker, count: int) -> list[Outlet]:
    """So many streaming jobs, their heads out."""
    for _ in range(count):
        await broker.submit()
    outlets = [worker.outlet(await worker.start()) for _ in range(count)]
    for outlet in outlets:
        outlet.head(200, [])
    await flushed(*outlets)
    return outlets


def events_of(frames: list[Frame]) -> list[bytes]:
    return [each for frame in frames if frame.kind == EVENTS for each in split_events(frame)]


# --- a stream, from head to end


async def test_a_stream_is_logged_as_it_was_sent(broker: Broker, worker: Worker, redis: Redis) -> None:
    job = await broker.submit()
    outlet = worker.outlet(await worker.start())
    outlet.head(200, [("request-id", "req_1")])
    outlet.events(event(1) + event(2), 2)
    await flushed(outlet)
    outlet.events(event(3), 1)
    assert await worker.finish(outlet) == 1

    generation = outlet.lease.generation
    head, *events, end = await frames_of(redis, broker.keys, job)
    assert head == Frame(generation, 0, 0, HEAD, b'{"status":200,"headers":[["request-id","req_1"]]}')
    assert events == [
        Frame(generation, 2, 2, EVENTS, event(1) + event(2)),
        Frame(generation, 3, 1, EVENTS, event(3)),
    ]
    assert end == Frame(generation, 4, 0, END, b'{"state":"done"}')


async def test_an_entry_of_the_log_is_found_under_the_number_of_its_last_event(
    broker: Broker, worker: Worker, redis: Redis
) -> None:
    job = await broker.submit()
    outlet = worker.outlet(await worker.start())
    await worker.stream(outlet, 2)
    await worker.finish(outlet)
    entries = await redis.xrange(broker.keys.log(job.id))
    assert [entry_id for entry_id, _ in entries] == [f"{outlet.lease.generation}-{n}" for n in range(4)]


async def test_what_is_published_is_what_is_logged(broker: Broker, worker: Worker, redis: Redis) -> None:
    job = await broker.submit()
    pubsub = redis.pubsub()
    await pubsub.subscribe(broker.keys.live(job.id))
    await pubsub.get_message(timeout=5)
    outlet = worker.outlet(await worker.start())
    await worker.stream(outlet, 3)
    await worker.finish(outlet)
    logged = [fields["f"] for _, fields in await redis.xrange(broker.keys.log(job.id))]
    heard = [(await pubsub.get_message(timeout=5))["data"] for _ in logged]
    assert heard == logged
    await pubsub.aclose()


async def test_an_answer_that_is_no_stream_goes_out_with_its_end(broker: Broker, worker: Worker, redis: Redis) -> None:
    job = await broker.submit()
    lease = await worker.start()
    body = bytes(range(256)) * (BODY_FRAME_BYTES // 128)
    calls = await evals(redis)
    end = End(DONE, status=200)
    assert await worker.publisher.finish(worker.outlet(lease), end, record_of(lease), b'{"status":200}', body) == 1
    assert await evals(redis) == calls + 1
    frames = await frames_of(redis, broker.keys, job)
    assert [frame.kind for frame in frames] == [HEAD, BODY, BODY, END]
    assert b"".join(frame.data for frame in frames if frame.kind == BODY) == body


async def test_an_end_says_what_the_client_has_not_seen(broker: Broker, worker: Worker, redis: Redis) -> None:
    for shown, error in ((True, None), (False, {"code": "upstream_timeout", "message": "too long"})):
        job = await broker.submit()
        lease = await worker.claim()
        end = End(FAILED, "upstream_timeout", "too long", shown=shown)
        await worker.publisher.finish(worker.outlet(lease), end, [])
        [frame] = await frames_of(redis, broker.keys, job)
        assert orjson.loads(frame.data).get("error") == error
        status = await broker.queue.status(job.id, TENANT)
        assert (status.error, status.message) == ("upstream_timeout", "too long")


async def test_the_usage_record_is_written_with_the_end(broker: Broker, worker: Worker, redis: Redis) -> None:
    [outlet] = await started(worker, broker, 1)
    record = record_of(outlet.lease)
    assert await usage_records(redis, broker.keys) == []
    await worker.finish(outlet, usage=record)
    [written] = await usage_records(redis, broker.keys)
    assert [item for pair in written.items() for item in pair] == [str(item) for item in record]


@pytest.mark.parametrize("kind", ["final", "partial", "unknown"])
async def test_the_status_says_what_kind_of_record_was_written(broker: Broker, worker: Worker, kind: str) -> None:
    [outlet] = await started(worker, broker, 1)
    await worker.finish(outlet, CANCELLED, record_of(outlet.lease, kind, "cancelled"))
    assert (await broker.queue.status(outlet.lease.job.id, TENANT)).usage_kind == kind


async def test_a_job_that_was_never_called_leaves_no_record(broker: Broker, worker: Worker, redis: Redis) -> None:
    await broker.submit()
    lease = await worker.claim()
    await worker.finish(worker.outlet(lease), FAILED, usage=[])
    assert await usage_records(redis, broker.keys) == []


@pytest.mark.parametrize("state", [DONE, CANCELLED, FAILED])
async def test_everything_an_ended_job_has_expires(broker: Broker, worker: Worker, redis: Redis, state: str) -> None:
    limits = broker.limits
    [outlet] = await started(worker, broker, 1)
    await worker.finish(outlet, state)
    job = outlet.lease.job
    kept_s = limits.dead_ttl_s if state == FAILED else limits.result_ttl_s
    assert 0 < await redis.ttl(broker.keys.log(job.id)) <= limits.log_ttl_s
    assert 0 < await redis.ttl(broker.keys.job(job.id)) <= kept_s
    # A failed job keeps its request, to be looked at and replayed.
    assert await redis.exists(broker.keys.body(job.id)) == (state == FAILED)
    assert await redis.zcard(broker.keys.leases) == 0


# --- pacing


async def test_the_first_flush_does_not_wait(broker: Broker) -> None:
    patient = broker.worker(flush_s=3600)
    await broker.submit()
    outlet = patient.outlet(await patient.start())
    outlet.head(200, [])
    await flushed(outlet)
    assert patient.publisher.flushes == 1


async def test_there_is_at_most_one_flush_per_interval(broker: Broker, redis: Redis) -> None:
    flush_s = 0.02
    paced = broker.worker(flush_s=flush_s)
    outlets = await started(paced, broker, 3)
    clock = asyncio.get_running_loop().time
    calls, began = await evals(redis), clock()
    while clock() - began < 10 * flush_s:
        for outlet in outlets:
            outlet.events(event(outlet.sequence), 1)
        await asyncio.sleep(0.001)
    await flushed(*outlets)
    assert 3 <= await evals(redis) - calls <= (clock() - began) / flush_s + 1


async def test_one_call_carries_the_frames_of_all_jobs(broker: Broker, worker: Worker, redis: Redis) -> None:
    outlets = await started(worker, broker, 20)
    calls = await evals(redis)
    for outlet in outlets:
        outlet.events(event(1), 1)
        outlet.events(event(2), 1)
    await flushed(*outlets)
    assert await evals(redis) == calls + 1
    for outlet in outlets:
        frames = await frames_of(redis, broker.keys, outlet.lease.job)
        assert [frame.events for frame in frames] == [0, 2]


async def test_a_slow_redis_makes_flushes_bigger_and_keeps_one_under_way(broker: Broker, redis: Redis) -> None:
    async with slow_worker(broker) as (proxy, worker):
        outlets = await started(worker, broker, 2)
        calls = await evals(redis)
        proxy.set(hold_s=30)
        proxy.arm(scripts.APPEND.sha, "hold")
        outlets[0].events(event(1), 1)
        await wait_until(lambda: proxy.counts["hold"] == 1)
        for number in range(2, 30):
            for outlet in outlets:
                outlet.events(event(number), 1)
            await asyncio.sleep(0)
        assert await evals(redis) == calls  # nothing overtakes what is held
        proxy.release()
        await flushed(*outlets)
        assert await evals(redis) == calls + 2
        assert [frame.events for frame in await frames_of(redis, broker.keys, outlets[0].lease.job)] == [0, 1, 28]


# --- lost replies, lost requests


@asynccontextmanager
async def slow_worker(broker: Broker):
    """A worker behind a proxy that hurts."""
    async with ChaosProxy(int(broker.url.rsplit(":", 1)[1].split("/")[0])) as proxy:
        worker = broker.worker("host-1-far", url=f"redis://127.0.0.1:{proxy.port}/0")
        yield proxy, worker
        worker.link.close()


@pytest.mark.parametrize("fault", ["lose_reply", "lose_req"])
async def test_what_was_lost_is_sent_again_and_logged_once(broker: Broker, redis: Redis, fault: str) -> None:
    async with slow_worker(broker) as (proxy, worker):
        outlets = await started(worker, broker, 2)
        for number in range(1, 6):
            proxy.arm(scripts.APPEND.sha, fault)
            for outlet in outlets:
                outlet.events(event(number), 1)
            await flushed(*outlets)
        for outlet in outlets:
            proxy.arm(scripts.FINISH.sha, fault)
            assert await worker.finish(outlet) in (0, 1)
        assert proxy.counts[fault] == 7
        for outlet in outlets:
            frames = await frames_of(redis, broker.keys, outlet.lease.job)
            assert events_of(frames) == [event(number) for number in range(1, 6)]
            assert [frame.kind for frame in frames].count(END) == 1
        assert len(await usage_records(redis, broker.keys)) == 2
        assert worker.refusals.codes == []


@pytest.mark.parametrize("fault", ["lose_reply", "lose_req"])
async def test_an_end_does_not_overtake_frames_that_must_be_sent_again(
    broker: Broker, redis: Redis, fault: str
) -> None:
    async with slow_worker(broker) as (proxy, worker):
        [outlet] = await started(worker, broker, 1)
        proxy.arm(scripts.APPEND.sha, fault)
        outlet.events(event(1), 1)
        await wait_until(lambda: outlet.flying)
        assert await worker.finish(outlet) == 1
        assert proxy.counts[fault] == 1
        frames = await frames_of(redis, broker.keys, outlet.lease.job)
        assert [frame.kind for frame in frames] == [HEAD, EVENTS, END]


async def test_a_redis_that_is_away_for_a_while_is_waited_for(broker: Broker, redis: Redis) -> None:
    async with slow_worker(broker) as (proxy, worker):
        [outlet] = await started(worker, broker, 1)
        proxy.partition()
        outlet.events(event(1), 1)
        ending = asyncio.ensure_future(worker.finish(outlet))
        await asyncio.wait([ending], timeout=0.1)
        assert not ending.done()
        proxy.heal()
        assert await ending == 1
        assert events_of(await frames_of(redis, broker.keys, outlet.lease.job)) == [event(1)]


async def test_a_flushed_script_cache_is_no_trouble(broker: Broker, worker: Worker, redis: Redis) -> None:
    [outlet] = await started(worker, broker, 1)
    await redis.script_flush()
    await worker.stream(outlet, 2)
    await redis.script_flush()
    assert await worker.finish(outlet) == 1
    assert len(events_of(await frames_of(redis, broker.keys, outlet.lease.job))) == 2


# --- the end


async def test_the_end_waits_for_what_is_under_way(broker: Broker, redis: Redis) -> None:
    async with slow_worker(broker) as (proxy, worker):
        [outlet] = await started(worker, broker, 1)
        proxy.set(hold_s=30)
        proxy.arm(scripts.APPEND.sha, "hold")
        outlet.events(event(1), 1)
        await wait_until(lambda: proxy.counts["hold"] == 1)
        outlet.events(event(2), 1)
        ending = asyncio.ensure_future(worker.finish(outlet))
        await asyncio.sleep(0)
        proxy.release()
        assert await ending == 1
        frames = await frames_of(redis, broker.keys, outlet.lease.job)
        assert [frame.kind for frame in frames] == [HEAD, EVENTS, EVENTS, END]
        assert events_of(frames) == [event(1), event(2)]


async def test_what_is_ready_leaves_with_the_end_in_one_call(broker: Broker, redis: Redis) -> None:
    paced = broker.worker(flush_s=3600)
    [outlet] = await started(paced, broker, 1)
    calls = await evals(redis)
    outlet.events(event(1), 1)
    assert await paced.finish(outlet) == 1
    assert await evals(redis) == calls + 1
    frames = await frames_of(redis, broker.keys, outlet.lease.job)
    assert [frame.kind for frame in frames] == [HEAD, EVENTS, END]


async def test_nothing_can_follow_an_end(broker: Broker, worker: Worker, redis: Redis) -> None:
    [outlet] = await started(worker, broker, 1)
    await worker.finish(outlet)
    before = await dump(redis)
    outlet.events(event(9), 1)
    await flushed(outlet)
    assert await dump(redis) == before
    assert worker.refusals.codes == [NOT_OURS]


# --- refusals


async def test_a_worker_that_lost_its_job_hears_so_and_writes_nothing(
    broker: Broker, worker: Worker, redis: Redis
) -> None:
    lost, kept = await started(worker, broker, 2)
    await let_lease_lapse(redis, broker.keys, lost.lease.job)
    await broker.worker("reaper-1-000000").leases.expire()
    log = await redis.xrange(broker.keys.log(lost.lease.job.id))

    for outlet in (lost, kept):
        outlet.events(event(1), 1)
    await flushed(lost, kept)

    assert (lost.lost, kept.lost) == (NOT_OURS, 0)
    assert worker.refusals.codes == [NOT_OURS]
    assert worker.publisher.fenced == 1
    assert await redis.xrange(broker.keys.log(lost.lease.job.id)) == log
    assert await worker.finish(lost) == NOT_OURS
    assert await worker.finish(kept) == 1


async def test_an_end_under_a_lost_lease_is_refused(broker: Broker, worker: Worker, redis: Redis) -> None:
    [outlet] = await started(worker, broker, 1)
    await worker.stream(outlet, 1)
    await worker.leases.release([outlet.lease])
    before = await dump(redis)
    assert await worker.finish(outlet) == NOT_OURS
    assert await dump(redis) == before


async def test_a_forgotten_job_is_unknown_and_stays_so(broker: Broker, worker: Worker, redis: Redis) -> None:
    for act in ("events", "finish"):
        [outlet] = await started(worker, broker, 1)
        job = outlet.lease.job
        await redis.delete(broker.keys.job(job.id), broker.keys.log(job.id))
        if act == "finish":
            assert await worker.finish(outlet) == UNKNOWN
        else:
            outlet.events(event(1), 1)
            await flushed(outlet)
            assert outlet.lost == UNKNOWN
        assert not await redis.exists(broker.keys.job(job.id), broker.keys.log(job.id))


async def test_a_hole_is_refused(broker: Broker, worker: Worker, redis: Redis) -> None:
    for act in ("events", "finish"):
        [outlet] = await started(worker, broker, 1)
        await worker.stream(outlet, 2)
        outlet.sequence += 1  # as if Redis had lost one
        before = await dump(redis)
        if act == "finish":
            assert await worker.finish(outlet) == HOLE
        else:
            outlet.events(event(4), 1)
            await flushed(outlet)
            assert outlet.lost == HOLE
        assert await dump(redis) == before


async def test_frames_that_are_logged_already_are_not_logged_again(
    broker: Broker, worker: Worker, redis: Redis
) -> None:
    [outlet] = await started(worker, broker, 1)
    await worker.stream(outlet, 3)
    before = await dump(redis)
    outlet.head(200, [])
    outlet.sequence = 0
    for number in (1, 2, 3):
        outlet.events(event(number), 1)
        await flushed(outlet)
    assert await dump(redis) == before
    assert worker.refusals.codes == []


async def test_a_job_to_be_cancelled_is_told_with_the_answer_to_its_flush(
    broker: Broker, worker: Worker, redis: Redis
) -> None:
    wanted, other = await started(worker, broker, 2)
    await broker.queue.cancel(wanted.lease.job.id, TENANT)
    for outlet in (wanted, other):
        outlet.events(event(1), 1)
    await flushed(wanted, other)
    assert worker.refusals.codes == [CANCEL_WANTED]
    # It is still ours, and what it sent counts.
    assert wanted.lost == 0
    assert len(events_of(await frames_of(redis, broker.keys, wanted.lease.job))) == 1
    assert await worker.finish(wanted, CANCELLED) == 1
    assert await state_of(redis, broker.keys, wanted.lease.job) == CANCELLED


async def test_a_cancellation_is_told_again_when_the_answer_was_lost(broker: Broker, redis: Redis) -> None:
    async with slow_worker(broker) as (proxy, worker):
        [outlet] = await started(worker, broker, 1)
        await broker.queue.cancel(outlet.lease.job.id, TENANT)
        proxy.arm(scripts.APPEND.sha, "lose_reply")
        outlet.events(event(1), 1)
        await flushed(outlet)
        assert worker.refusals.codes == [CANCEL_WANTED]


# --- a bound on what waits


async def test_there_is_room_until_too_much_waits(broker: Broker, redis: Redis) -> None:
    async with slow_worker(broker) as (proxy, worker):
        [outlet] = await started(worker, broker, 1)
        proxy.partition()
        await outlet.room()
        outlet.events(event(1), 1)  # leaves, and is repeated until Redis is back
        await wait_until(lambda: outlet.buffered == 0)
        outlet.events(bytes(BUFFER_BYTES + 1), 1)
        waiting = asyncio.ensure_future(outlet.room())
        await asyncio.wait([waiting], timeout=0.05)
        assert not waiting.done()
        proxy.heal()
        async with asyncio.timeout(10):
            await waiting
        await flushed(outlet)
        await worker.leases.release([outlet.lease])


async def test_who_gives_up_waiting_for_room_disturbs_nobody(broker: Broker, redis: Redis) -> None:
    async with slow_worker(broker) as (proxy, worker):
        large, small = await started(worker, broker, 2)
        proxy.partition()
        large.events(event(1), 1)
        await wait_until(lambda: large.buffered == 0)
        large.events(bytes(BUFFER_BYTES + 1), 1)
        waiting = asyncio.ensure_future(large.room())
        await asyncio.sleep(0)
        waiting.cancel()
        small.events(event(1), 1)
        proxy.heal()
        await flushed(large, small)
        assert await worker.finish(small) == 1
        assert events_of(await frames_of(redis, broker.keys, small.lease.job)) == [event(1)]


async def test_a_lost_job_makes_room_at_once(broker: Broker, worker: Worker, redis: Redis) -> None:
    [outlet] = await started(worker, broker, 1)
    await worker.leases.release([outlet.lease])
    outlet.events(event(1), 1)
    outlet.events(bytes(BUFFER_BYTES), 1)
    async with asyncio.timeout(10):
        await outlet.room()
    await flushed(outlet)
    assert outlet.buffered == 0


# --- any stream


@given(
    sizes=st.lists(st.lists(st.integers(1, 3), min_size=0, max_size=6), min_size=1, max_size=4),
    yields=st.lists(st.integers(0, 3), min_size=1, max_size=8),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_interleaving_of_streams_is_logged_without_hole_or_repeat(
    broker: Broker, redis: Redis, sizes: list[list[int]], yields: list[int]
) -> None:
    worker = broker.worker(flush_s=0.0005)
    await worker.register()
    outlets = await started(worker, broker, len(sizes))

    async def produce(outlet: Outlet, batches: list[int]) -> None:
        number = 0
        for turn, count in enumerate(batches):
            outlet.events(b"".join(event(number + 1 + i) for i in range(count)), count)
            number += count
            for _ in range(yields[turn % len(yields)]):
                await asyncio.sleep(0)
        assert await worker.finish(outlet) == 1

    await asyncio.gather(*[produce(outlet, batches) for outlet, batches in zip(outlets, sizes, strict=True)])

    for outlet, batches in zip(outlets, sizes, strict=True):
        frames = await frames_of(redis, broker.keys, outlet.lease.job)
        assert events_of(frames) == [event(n) for n in range(1, sum(batches) + 1)]
        assert frames[0].kind == HEAD
        assert frames[-1].kind == END
        assert all(later.follows == earlier.sequence for earlier, later in pairwise(frames))
    worker.link.close()
