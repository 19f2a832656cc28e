"""SIGTERM to a worker: nothing new is taken, what fits the drain time ends normally, the rest gets an explicit end."""

from __future__ import annotations

import asyncio
import time

from redis.asyncio import Redis

from tests.support.badprovider import BadProvider
from tests.support.oracles import check_calls, check_order, check_usage, end_of
from tests.support.relay import Relay, message
from tests.support.wait import wait_until

DRAIN_S = 2.0  # as the relay of these tests is set
STREAMS = 10


async def test_streams_shorter_than_the_drain_time_end_normally(mortal: Relay, upstream: BadProvider) -> None:
    worker = await mortal.add_worker()
    body = message("claude-x@slow:40", stream=True)  # 20 events in 0.8 s
    readers = await asyncio.gather(*[mortal.stream(body) for _ in range(STREAMS)])
    assert await worker.stop(DRAIN_S) == 0
    for reader in readers:
        async with reader:
            events = await reader.rest()
        assert end_of(events) == "done"
        assert check_order(events) == 20
        check_calls(upstream.ledger, reader.job_id, 1)


async def test_streams_longer_than_the_drain_time_end_in_an_error(
    mortal: Relay, upstream: BadProvider, own: Redis
) -> None:
    worker = await mortal.add_worker()
    readers = await asyncio.gather(*[mortal.stream(message("claude-x@gate:5", stream=True)) for _ in range(STREAMS)])
    began = time.monotonic()
    assert await worker.stop() == 0
    assert DRAIN_S <= time.monotonic() - began < DRAIN_S + 2
    for reader in readers:
        async with reader:
            events = await reader.rest()
        assert end_of(events) == "interrupted"
        assert check_order(events[:-1]) == 5
        await check_usage(own, upstream.ledger, reader.job_id, ["partial"])


async def test_whoever_insists_need_not_wait_for_the_drain(mortal: Relay, upstream: BadProvider) -> None:
    worker = await mortal.add_worker()
    reader = await mortal.stream(message("claude-x@gate:5", stream=True))

    def asked_again() -> bool:
        worker.ask_to_stop()
        return not worker.is_running

    # Signals in one moment count as one: Ctrl-C reaches a whole process group.
    await wait_until(asked_again, DRAIN_S, every_s=0.25)
    async with reader:
        assert end_of(await reader.rest()) == "interrupted"


async def test_a_request_that_waits_is_served_by_the_next_worker(mortal: Relay, upstream: BadProvider) -> None:
    worker = await mortal.add_worker()
    assert await worker.stop() == 0
    waiting = asyncio.create_task(mortal.post("/v1/messages", message("claude-x@")))
    await mortal.add_worker()
    assert (await waiting).status == 200
