"""Whoever waits for a job in the queue is told how many are before it, and how it ends if nobody takes it."""

from __future__ import annotations

import asyncio
import time

from relay.core.job import Job
from tests.broker.system import Broker
from tests.ingress.hand import HandWorker, Work
from tests.support.relay import Relay
from tests.support.wait import wait_until


async def line_of(broker: Broker, count: int) -> list[Job]:
    return [await broker.submit(tenant="default") for _ in range(count)]


async def test_the_stream_of_a_job_that_waits_says_where_it_stands(
    door: Relay, broker: Broker, hand: HandWorker
) -> None:
    *_, job = await line_of(broker, 3)
    async with await door.events(job.id) as reader:
        reading = asyncio.create_task(reader.rest())
        works: list[Work] = []
        for ahead in (2, 1, 0):
            await wait_until(lambda said=f"queued, {ahead} ahead": said in reader.comments, what="its place")
            works.append(await hand.take())
        seen = len(reader.comments)
        await wait_until(lambda: len(reader.comments) > seen, what="a sign of life")
        assert reader.comments[-1] == "keep-alive"
        for work in works:
            await work.head()
            await work.end()
        assert await reading == []


async def test_a_job_whose_time_has_not_come_is_in_no_line(door: Relay, broker: Broker) -> None:
    job = await broker.submit(tenant="default", run_at_ms=2**42)
    async with await door.events(job.id) as reader:
        reading = asyncio.create_task(reader.rest())
        await wait_until(lambda: len(reader.comments) >= 2, what="signs of life")
        assert set(reader.comments) == {"keep-alive"}
        await broker.queue.cancel(job.id, "default")
        assert len(await reading) == 1


async def test_a_job_that_nobody_takes_in_time_says_so_in_its_stream(door: Relay, broker: Broker) -> None:
    job = await broker.submit(tenant="default", expires_at_ms=int(time.time() * 1000) + 200)
    async with await door.events(job.id) as reader:
        [error] = await reader.rest()
    assert error.json["error"]["details"]["error_code"] == "expired"
