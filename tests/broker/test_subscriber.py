"""Frames in: whoever comes, whenever, sees every event once, whatever pub/sub has lost."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from relay.broker.connections import address
from relay.broker.publisher import End, Outlet
from relay.broker.subscriber import PAGE_FRAMES, Reader, Subscriber
from relay.core.errors import Gone, Interrupted, JobLost, Unavailable
from relay.core.frame import BODY, END, EVENTS, HEAD, START, Cursor, Frame, encode
from relay.core.job import Job
from tests.broker.system import (
    REQUEST,
    TENANT,
    Broker,
    Worker,
    event,
    flushed,
    let_lease_lapse,
    make_job,
    record_of,
)
from tests.support.chaos import ChaosProxy
from tests.support.processes import free_port
from tests.support.wait import wait_until

PATIENCE_S = 15.0
FOR_EVER_S = 3600.0


@asynccontextmanager
async def subscribing(broker: Broker, url: str = "", **times: float) -> AsyncIterator[Subscriber]:
    subscriber = Subscriber(address(url or broker.url), broker.link, broker.keys, **times)
    await subscriber.start()
    yield subscriber
    subscriber.close()


@pytest.fixture
async def subscriber(broker: Broker) -> AsyncIterator[Subscriber]:
    async with subscribing(broker) as subscriber:
        yield subscriber


async def read(reader: Reader) -> list[Frame]:
    async with asyncio.timeout(PATIENCE_S):
        return await reader.read()


async def rest(reader: Reader) -> list[Frame]:
    """Everything to the end."""
    frames: list[Frame] = []
    while not frames or frames[-1].kind != END:
        frames += await read(reader)
    return frames


async def up_to(reader: Reader, sequence: int) -> list[Frame]:
    """Everything up to this event."""
    frames: list[Frame] = []
    while not frames or frames[-1].sequence < sequence:
        frames += await read(reader)
    return frames


def told(frames: list[Frame]) -> bytes:
    """What a client is told; the frames must follow each other without hole or repeat."""
    for earlier, later in pairwise([frame for frame in frames if frame.kind != HEAD]):
        assert later.follows == earlier.sequence, (earlier, later)
    return b"".join(frame.data for frame in frames if frame.kind == EVENTS)


def events(first: int, last: int) -> bytes:
    return b"".join(event(number) for number in range(first, last + 1))


async def send(outlet: Outlet, *counts: int) -> None:
    """Frames of so many events each, after what was sent."""
    for count in counts:
        first = outlet.sequence + 1
        outlet.events(events(first, first + count - 1), count)
        await flushed(outlet)


async def started(broker: Broker, worker: Worker) -> tuple[Job, Outlet]:
    """A job whose head is out."""
    job = await broker.submit()
    outlet = worker.outlet(await worker.start())
    outlet.head(200, [])
    await flushed(outlet)
    return job, outlet


async def ended(broker: Broker, worker: Worker, *counts: int) -> tuple[Job, Outlet]:
    job, outlet = await started(broker, worker)
    await send(outlet, *counts)
    await worker.finish(outlet)
    return job, outlet


async def heard_live(
    broker: Broker, worker: Worker, subscriber: Subscriber, readers: int = 1
) -> tuple[Outlet, list[Reader]]:
    """A job and readers that have heard its head live, and look into the log for good reason only."""
    job = make_job()
    there = [await subscriber.open(job.id, fresh=True) for _ in range(readers)]
    await broker.queue.submit(job, REQUEST)
    outlet = worker.outlet(await worker.start())
    outlet.head(200, [])
    for reader in there:
        [head] = await read(reader)
        assert head.kind == HEAD
    return outlet, there


async def calls_of(redis: Redis, command: str) -> int:
    stats = await redis.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {}).get("calls", 0))


# --- live and late


async def test_a_fresh_reader_hears_everything_live(
    broker: Broker, worker: Worker, subscriber: Subscriber, redis: Redis
) -> None:
    job = make_job()
    reads = await calls_of(redis, "xrange")
    reader = await subscriber.open(job.id, fresh=True)
    await broker.queue.submit(job, REQUEST)
    outlet = worker.outlet(await worker.start())
    await worker.stream(outlet, 5)
    await worker.finish(outlet)
    frames = await rest(reader)
    assert [frame.kind for frame in frames] == [HEAD, *[EVENTS] * 5, END]
    assert told(frames) == events(1, 5)
    assert await calls_of(redis, "xrange") == reads


async def test_a_late_reader_gets_the_log_and_then_goes_on_live(
    broker: Broker, worker: Worker, subscriber: Subscriber
) -> None:
    job, outlet = await started(broker, worker)
    await send(outlet, 2, 1)
    reader = await subscriber.open(job.id)
    seen = await up_to(reader, 3)
    await send(outlet, 1, 3)
    await worker.finish(outlet)
    frames = seen + await rest(reader)
    assert frames[0].kind == HEAD
    assert told(frames) == events(1, 7)


async def test_a_reader_of_an_ended_job_gets_it_whole(broker: Broker, worker: Worker, subscriber: Subscriber) -> None:
    counts = [1] * (2 * PAGE_FRAMES + 3)
    job, _ = await ended(broker, worker, *counts)
    frames = await rest(await subscriber.open(job.id))
    assert told(frames) == events(1, len(counts))


async def test_a_reader_that_was_there_before_the_job_reads_an_answer_that_is_no_stream(
    broker: Broker, worker: Worker, subscriber: Subscriber
) -> None:
    job = await broker.submit()
    early = await subscriber.open(job.id)
    lease = await worker.start()
    outlet = worker.outlet(lease)
    await worker.publisher.finish(outlet, End("done", status=200), record_of(lease), b'{"status":200}', b"x" * 600_000)
    late = await subscriber.open(job.id)
    for reader in (early, late):
        frames = await rest(reader)
        assert [frame.kind for frame in frames] == [HEAD, BODY, BODY, BODY, END]
        assert b"".join(frame.data for frame in frames if frame.kind == BODY) == b"x" * 600_000


async def test_two_readers_get_the_same_bytes(broker: Broker, worker: Worker, subscriber: Subscriber) -> None:
    job, outlet = await started(broker, worker)
    first = await subscriber.open(job.id)
    await send(outlet, 3)
    second = await subscriber.open(job.id)
    both = [asyncio.ensure_future(rest(reader)) for reader in (first, second)]
    await send(outlet, 1, 2, 1)
    await worker.finish(outlet)
    one, two = await asyncio.gather(*both)
    assert told(one) == told(two) == events(1, 7)


async def test_many_readers_of_many_jobs_share_one_connection(
    broker: Broker, worker: Worker, subscriber: Subscriber, redis: Redis
) -> None:
    jobs = [await started(broker, worker) for _ in range(20)]
    readers = await asyncio.gather(*[subscriber.open(job.id) for job, _ in jobs for _ in range(10)])
    assert subscriber.open_readers == 200
    reading = [asyncio.ensure_future(rest(reader)) for reader in readers]
    for _, outlet in jobs:
        await send(outlet, 2, 1)
        await worker.finish(outlet)
    assert {told(frames) for frames in await asyncio.gather(*reading)} == {events(1, 3)}
    assert len(await redis.client_list(_type="pubsub")) == 1
    for reader in readers:
        reader.close()
    assert subscriber.open_readers == 0


@given(
    steps=st.lists(
        st.one_of(
            st.integers(1, 3).map(lambda count: ("send", count)),
            st.integers(0, 8).map(lambda behind: ("attach", behind)),
            st.integers(0, 3).map(lambda turns: ("wait", turns)),
        ),
        max_size=16,
    )
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_interleaving_of_events_and_readers_shows_each_event_once(
    broker: Broker, worker: Worker, subscriber: Subscriber, steps: list[tuple[str, int]]
) -> None:
    job = await broker.submit()
    outlet = worker.outlet(await worker.start())
    outlet.head(200, [])
    generation, total = outlet.lease.generation, 0
    readers: list[tuple[int, asyncio.Task[list[Frame]]]] = []

    async def attach(cursor: Cursor) -> list[Frame]:
        reader = await subscriber.open(job.id, cursor)
        try:
            return await rest(reader)
        finally:
            reader.close()

    for step, number in steps:
        if step == "send":
            outlet.events(events(total + 1, total + number), number)
            total += number
        elif step == "attach":
            seen = min(number, outlet.sequence)  # a client has seen no more than was sent
            cursor = Cursor(generation, seen) if seen else START
            readers.append((seen, asyncio.ensure_future(attach(cursor))))
        else:
            for _ in range(number):
                await asyncio.sleep(0.0005)
    assert await worker.finish(outlet) == 1
    readers.append((0, asyncio.ensure_future(attach(START))))

    for seen, reading in readers:
        frames = await reading
        assert told(frames) == events(seen + 1, total)
        assert [frame.kind for frame in frames].count(END) == 1
        assert (frames[0].kind == HEAD) == (seen == 0)


# --- coming back


@pytest.mark.parametrize("running", [True, False], ids=["running", "ended"])
async def test_a_reader_comes_back_at_any_event_even_inside_a_frame(
    broker: Broker, worker: Worker, subscriber: Subscriber, running: bool
) -> None:
    job, outlet = await started(broker, worker)
    await send(outlet, 1, 4, 2)
    readers = [await subscriber.open(job.id, Cursor(outlet.lease.generation, seen)) for seen in range(8)]
    if running:
        await send(outlet, 3)
    await worker.finish(outlet)
    for seen, reader in enumerate(readers):
        frames = await rest(reader)
        assert told(frames) == events(seen + 1, 10 if running else 7), seen
        assert frames[-1].kind == END


async def test_a_live_frame_is_cut_where_the_reader_has_seen_its_beginning(
    broker: Broker, worker: Worker, subscriber: Subscriber
) -> None:
    job, outlet = await started(broker, worker)
    reader = await subscriber.open(job.id, Cursor(outlet.lease.generation, 2))
    await send(outlet, 5)
    await worker.finish(outlet)
    assert told(await rest(reader)) == events(3, 5)


async def test_an_ended_job_that_was_read_to_its_end_ends_again(
    broker: Broker, worker: Worker, subscriber: Subscriber
) -> None:
    job, _ = await ended(broker, worker, 2)
    frames = await rest(await subscriber.open(job.id))
    [again] = await read(await subscriber.open(job.id, frames[-1].cursor))
    assert again == frames[-1]


async def test_a_read_that_is_given_up_loses_nothing(broker: Broker, worker: Worker, subscriber: Subscriber) -> None:
    job, outlet = await started(broker, worker)
    reader = await subscriber.open(job.id)
    frames: list[Frame] = []

    async def impatient() -> None:
        waits = 0
        while not frames or frames[-1].kind != END:
            waits += 1
            try:
                async with asyncio.timeout(0.0002 * (waits % 5)):
                    frames.extend(await reader.read())
            except TimeoutError:
                await asyncio.sleep(0)

    reading = asyncio.ensure_future(impatient())
    for _ in range(100):
        await send(outlet, 1)
    await worker.finish(outlet)
    async with asyncio.timeout(PATIENCE_S):
        await reading
    assert told(frames) == events(1, 100)
    assert frames[0].kind == HEAD


# --- what pub/sub loses


async def test_a_connection_cut_in_mid_stream_is_healed_from_the_log(
    broker: Broker, worker: Worker, subscriber: Subscriber, redis: Redis
) -> None:
    job, outlet = await started(broker, worker)
    readers = [await subscriber.open(job.id) for _ in range(3)]
    reading = [asyncio.ensure_future(rest(reader)) for reader in readers]
    for _ in range(5):
        await send(outlet, 2, 1)
        assert await redis.client_kill_filter(_type="pubsub") == 1
        await send(outlet, 2, 1)
        await wait_until(lambda: subscriber.wire is not None)
    await worker.finish(outlet)
    for frames in await asyncio.gather(*reading):
        assert told(frames) == events(1, 30)
    assert subscriber.resubscribes >= 1


async def test_what_was_said_while_the_connection_was_cut_is_read_when_it_is_back(
    broker: Broker, worker: Worker
) -> None:
    async with far(broker, silence_s=FOR_EVER_S) as (proxy, subscriber):
        outlet, [reader] = await heard_live(broker, worker, subscriber)
        reading = asyncio.ensure_future(rest(reader))
        proxy.partition()
        await send(outlet, 2, 1)
        await worker.finish(outlet)
        proxy.heal()
        assert told(await reading) == events(1, 3)


async def test_a_hole_is_filled_from_the_log(
    broker: Broker, worker: Worker, subscriber: Subscriber, redis: Redis
) -> None:
    outlet, [reader] = await heard_live(broker, worker, subscriber)
    job = outlet.lease.job
    # Logged, and lost on the way.
    lost = encode(outlet.lease.generation, 1, 1, EVENTS, event(1))
    await redis.xadd(broker.keys.log(job.id), {"f": lost}, id=f"{outlet.lease.generation}-1")
    await redis.hset(broker.keys.job(job.id), "sequence", 1)
    outlet.sequence = 1
    await send(outlet, 2)
    await worker.finish(outlet)
    assert told(await rest(reader)) == events(1, 3)
    assert subscriber.gap_rereads >= 1


async def test_a_lost_last_message_is_found_by_looking_at_the_tail(broker: Broker, worker: Worker) -> None:
    """A connection that went deaf shows no hole: nothing follows what it lost."""
    async with far(broker, silence_s=0.05) as (proxy, subscriber):
        outlet, readers = await heard_live(broker, worker, subscriber, readers=2)
        proxy.deafen()
        await send(outlet, 2, 1)
        await worker.finish(outlet)
        for reader in readers:
            assert told(await rest(reader)) == events(1, 3)
        assert subscriber.tail_rereads >= 1


async def test_a_deaf_connection_is_given_up_when_it_acknowledges_nothing(broker: Broker, worker: Worker) -> None:
    async with far(broker, ack_s=0.1) as (proxy, subscriber):
        job, outlet = await started(broker, worker)
        old = await subscriber.open(job.id)
        await up_to(old, 0)
        proxy.deafen()
        with pytest.raises(Unavailable):
            await subscriber.open(make_job().id)
        new = await subscriber.open(job.id)
        await send(outlet, 2)
        await worker.finish(outlet)
        for reader in (old, new):
            assert told(await rest(reader)) == events(1, 2)


@asynccontextmanager
async def far(broker: Broker, **times: float) -> AsyncIterator[tuple[ChaosProxy, Subscriber]]:
    """A subscriber behind a proxy that hurts; its logs are read past the proxy."""
    async with (
        ChaosProxy(int(broker.url.rsplit(":", 1)[1].split("/")[0])) as proxy,
        subscribing(broker, f"redis://127.0.0.1:{proxy.port}/0", **times) as subscriber,
    ):
        yield proxy, subscriber


async def test_a_reader_outlives_a_redis_that_is_away(broker: Broker, worker: Worker) -> None:
    async with ChaosProxy(int(broker.url.rsplit(":", 1)[1].split("/")[0])) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        away = Subscriber(address(url), broker.open_link("logs", url), broker.keys, silence_s=0.05)
        await away.start()
        job, outlet = await started(broker, worker)
        reader = await away.open(job.id)
        reading = asyncio.ensure_future(rest(reader))
        await send(outlet, 1)
        proxy.partition()
        await send(outlet, 2, 3)
        with pytest.raises(Unavailable, match="cannot be reached"):
            await away.open(job.id)
        assert away.open_readers == 1
        proxy.heal()
        await worker.finish(outlet)
        assert told(await reading) == events(1, 6)
        away.close()


# --- a slow reader


async def test_a_slow_reader_costs_little_memory_and_loses_nothing(
    broker: Broker, worker: Worker, subscriber: Subscriber
) -> None:
    large = b"data: " + b"x" * 32_000 + b"\n\n"
    job, outlet = await started(broker, worker)
    slow = await subscriber.open(job.id)
    seen = await up_to(slow, 0)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(200):
            outlet.events(large, 1)
            await flushed(outlet)
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    await worker.finish(outlet)
    assert held < 1 << 20
    assert told(seen + await rest(slow)) == large * 200


# --- a job begun anew


async def test_a_second_attempt_before_any_output_has_a_head_of_its_own(
    broker: Broker, worker: Worker, subscriber: Subscriber, redis: Redis
) -> None:
    job, _ = await started(broker, worker)
    live = await subscriber.open(job.id)
    [first] = await read(live)
    await let_lease_lapse(redis, broker.keys, job)
    await worker.leases.expire()
    second = worker.outlet(await worker.start())
    await worker.stream(second, 2)
    await worker.finish(second)
    late = await subscriber.open(job.id)
    back = await subscriber.open(job.id, first.cursor)
    for seen, reader in (([first], live), ([], late), ([first], back)):
        frames = seen + await rest(reader)
        assert [frame.kind for frame in frames] == [HEAD, HEAD, EVENTS, EVENTS, END]
        assert frames[0].generation < frames[1].generation == frames[-1].generation
        assert told(frames) == events(1, 2)


async def test_another_answer_is_never_spliced_to_one_that_was_shown(
    broker: Broker, worker: Worker, subscriber: Subscriber, redis: Redis
) -> None:
    job, outlet = await started(broker, worker)
    await send(outlet, 2)
    live = await subscriber.open(job.id)
    shown = await up_to(live, 2)
    await _as_if_redis_had_forgotten(broker, redis, job)
    second = worker.outlet(await worker.start())
    await worker.stream(second, 3)
    back = await subscriber.open(job.id, shown[-1].cursor)
    for reader in (live, back):
        with pytest.raises(Interrupted):
            await rest(reader)


async def _as_if_redis_had_forgotten(broker: Broker, redis: Redis, job: Job) -> None:
    """After a failover the job waits again, and nothing is known of its first claim."""
    at = broker.keys.job(job.id)
    await redis.hset(at, mapping={"state": "queued", "sequence": "0"})
    await redis.hdel(at, "lease", "head")
    await redis.zrem(broker.keys.leases, job.id)
    await redis.lpush(broker.rq.queue, job.id)


@pytest.mark.parametrize("when", ["live", "late"])
async def test_an_end_behind_the_reader_is_an_end_all_the_same(
    broker: Broker, worker: Worker, subscriber: Subscriber, when: str
) -> None:
    """A failover forgot events that this reader was shown; the job ended with fewer."""
    job, outlet = await started(broker, worker)
    await send(outlet, 1)
    shown = Cursor(outlet.lease.generation, 7)
    if when == "live":
        reader = await subscriber.open(job.id, shown)
        reading = asyncio.ensure_future(read(reader))
        await asyncio.sleep(0)
        await worker.finish(outlet)
        [end] = await reading
    else:
        await worker.finish(outlet)
        [end] = await read(await subscriber.open(job.id, shown))
    assert (end.kind, end.sequence) == (END, 2)


# --- a job that is gone


async def test_a_job_that_redis_lost_is_given_up_after_a_while(broker: Broker, worker: Worker, redis: Redis) -> None:
    async with subscribing(broker, silence_s=0.05, lost_after_s=0.2) as subscriber:
        job, _ = await started(broker, worker)
        reader = await subscriber.open(job.id)
        await up_to(reader, 0)
        await redis.delete(broker.keys.job(job.id), broker.keys.log(job.id))
        with pytest.raises(JobLost):
            await read(reader)


async def test_a_job_that_comes_back_in_time_is_not_given_up(broker: Broker, worker: Worker, redis: Redis) -> None:
    async with subscribing(broker, silence_s=0.03, lost_after_s=30) as subscriber:
        job = make_job()
        reader = await subscriber.open(job.id, fresh=True)
        reading = asyncio.ensure_future(rest(reader))
        looks = await calls_of(redis, "hmget")
        await wait_until(lambda: _more(redis, "hmget", looks + 3))
        await broker.queue.submit(job, REQUEST)
        outlet = worker.outlet(await worker.start())
        await worker.stream(outlet, 1)
        await worker.finish(outlet)
        assert told(await reading) == events(1, 1)


async def _more(redis: Redis, command: str, than: int) -> bool:
    return await calls_of(redis, command) > than


@pytest.mark.parametrize("seen", [0, 2])
async def test_an_expired_log_is_gone(
    broker: Broker, worker: Worker, subscriber: Subscriber, redis: Redis, seen: int
) -> None:
    job, outlet = await ended(broker, worker, 3)
    await redis.delete(broker.keys.log(job.id))
    reader = await subscriber.open(job.id, Cursor(outlet.lease.generation, seen) if seen else START)
    with pytest.raises(Gone):
        await read(reader)


# --- coming and going


async def test_a_closed_reader_ends_its_read_and_its_subscription(
    broker: Broker, worker: Worker, subscriber: Subscriber, redis: Redis
) -> None:
    job, outlet = await started(broker, worker)
    stays, leaves = await subscriber.open(job.id), await subscriber.open(job.id)
    await up_to(leaves, 0)
    reading = asyncio.ensure_future(leaves.read())
    await asyncio.sleep(0)
    leaves.close()
    leaves.close()
    with pytest.raises(Unavailable):
        await reading
    with pytest.raises(Unavailable):
        await leaves.read()
    assert await _subscribed(broker, redis, job)
    await send(outlet, 1)
    assert told(await up_to(stays, 1)) == events(1, 1)
    stays.close()
    await wait_until(lambda: _unsubscribed(broker, redis, job))
    assert subscriber.open_readers == 0


async def _subscribed(broker: Broker, redis: Redis, job: Job) -> int:
    [(_, count)] = await redis.pubsub_numsub(broker.keys.live(job.id))
    return int(count)


async def _unsubscribed(broker: Broker, redis: Redis, job: Job) -> bool:
    return not await _subscribed(broker, redis, job)


async def test_readers_may_come_and_go_at_once(
    broker: Broker, worker: Worker, subscriber: Subscriber, redis: Redis
) -> None:
    job, outlet = await started(broker, worker)
    await send(outlet, 2)

    async def visit(turn: int) -> None:
        reader = await subscriber.open(job.id)
        if turn % 3:
            await up_to(reader, 2)
        reader.close()

    await asyncio.gather(*[visit(turn) for turn in range(50)])
    assert subscriber.open_readers == 0
    last = await subscriber.open(job.id)
    await worker.finish(outlet)
    assert told(await rest(last)) == events(1, 2)


async def test_a_visit_that_is_called_off_leaves_nothing(
    broker: Broker, worker: Worker, subscriber: Subscriber, redis: Redis
) -> None:
    job, _ = await started(broker, worker)
    opening: list[asyncio.Task[Any]] = [asyncio.ensure_future(subscriber.open(job.id)) for _ in range(5)]
    await asyncio.sleep(0)
    for each in opening:
        each.cancel()
    await asyncio.gather(*opening, return_exceptions=True)
    assert subscriber.open_readers == 0
    assert not await _subscribed(broker, redis, job)


async def test_a_redis_that_is_not_there_is_said_to_be(broker: Broker) -> None:
    async with subscribing(broker, f"redis://127.0.0.1:{free_port()}/0") as subscriber:
        with pytest.raises(Unavailable) as refusal:
            await subscriber.open(make_job().id)
        assert refusal.value.retry_after_s
        assert subscriber.open_readers == 0


@pytest.mark.parametrize("how", ["finish", "cancel", "expire", "release"])
async def test_every_end_is_heard_at_once(broker: Broker, worker: Worker, redis: Redis, how: str) -> None:
    """Live, that is: nobody waits for the look at the tail."""
    async with subscribing(broker, silence_s=FOR_EVER_S) as subscriber:
        job = make_job()
        reader = await subscriber.open(job.id, fresh=True)
        await broker.queue.submit(job, REQUEST)
        if how == "cancel":
            await broker.queue.cancel(job.id, TENANT)
        else:
            outlet = worker.outlet(await worker.start())
            await worker.stream(outlet, 1)
            if how == "finish":
                await worker.finish(outlet)
            elif how == "release":
                await worker.leases.release([outlet.lease])
            else:
                await let_lease_lapse(redis, broker.keys, job)
                await worker.leases.expire()
        assert (await rest(reader))[-1].kind == END
