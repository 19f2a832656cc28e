"""Waiting for a job to end: answered at once when it does, and never longer than was asked for."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from tests.broker.system import Broker
from tests.ingress.hand import HandWorker
from tests.support import http
from tests.support.relay import Relay
from tests.support.wait import wait_until


def wait(seconds: int) -> list[tuple[str, str]]:
    return [("prefer", f"wait={seconds}")]


async def listening(broker: Broker, redis: Redis, job_id: str) -> None:
    """Until somebody listens to the job."""

    async def readers() -> bool:
        [(_, count)] = await redis.pubsub_numsub(broker.keys.live(job_id))
        return bool(count)

    await wait_until(readers, what="a reader listens")


@pytest.mark.parametrize("seen", [0, 5], ids=["from the queue on", "from the middle of its stream on"])
async def test_whoever_waits_is_answered_when_the_job_ends(
    door: Relay, broker: Broker, hand: HandWorker, redis: Redis, seen: int
) -> None:
    job = await broker.submit(tenant="default")
    work = None
    if seen:
        work = await hand.take()
        await work.head()
        await work.count_to(seen)
    waiting = asyncio.create_task(door.get(f"/v1/jobs/{job.id}", wait(60)))
    await listening(broker, redis, job.id)
    work = work or await hand.take()
    await work.count_to(seen + 5)
    assert not waiting.done()
    await work.end()
    async with asyncio.timeout(5):
        answer = await waiting
    assert (answer.status, answer.json["status"]) == (200, "completed")
    assert answer.headers.get("preference-applied") == "wait=60"


async def test_whoever_waited_long_enough_is_told_where_the_job_stands(door: Relay, broker: Broker) -> None:
    job = await broker.submit(tenant="default")
    loop = asyncio.get_running_loop()
    began = loop.time()
    answer = await door.get(f"/v1/jobs/{job.id}", wait(1))
    assert (answer.status, answer.json["status"]) == (200, "queued")
    assert 1 <= loop.time() - began < 5


async def test_a_job_that_has_ended_is_not_waited_for(door: Relay, broker: Broker) -> None:
    job = await broker.submit(tenant="default")
    await broker.queue.cancel(job.id, "default")
    answer = await door.get(f"/v1/jobs/{job.id}", wait(60))
    assert answer.json["status"] == "cancelled"
    assert "preference-applied" not in answer.headers


async def test_a_cancellation_ends_the_wait(door: Relay, broker: Broker, redis: Redis) -> None:
    job = await broker.submit(tenant="default")
    waiting = asyncio.create_task(door.get(f"/v1/jobs/{job.id}/result", wait(60)))
    await listening(broker, redis, job.id)
    await broker.queue.cancel(job.id, "default")
    assert (await waiting).status == 499


async def test_a_wait_ends_when_its_client_leaves(door: Relay, broker: Broker, redis: Redis) -> None:
    job = await broker.submit(tenant="default")
    lines = [*door.auth, *wait(60)]
    exchange = await http.Exchange.send(door.port, http.render("GET", f"/v1/jobs/{job.id}", lines))
    await listening(broker, redis, job.id)
    await exchange.close()

    async def nobody() -> bool:
        [(_, count)] = await redis.pubsub_numsub(broker.keys.live(job.id))
        return not count

    await wait_until(nobody, what="nobody listens any more")


async def test_a_wait_ends_when_its_ingress_must_go(door: Relay, broker: Broker, redis: Redis) -> None:
    leaving = await door.add_ingress()
    job = await broker.submit(tenant="default")
    lines = [*door.auth, *wait(60)]
    waiting = asyncio.create_task(http.request(door.at(leaving), "GET", f"/v1/jobs/{job.id}", lines))
    await listening(broker, redis, job.id)
    await door.stop_ingress(leaving)
    assert ((await waiting).status, (await waiting).json["status"]) == (200, "queued")
