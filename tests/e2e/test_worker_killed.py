"""A worker killed with -9 at every stage of a job (W01–W05 of the fault plan): the job's state decides what follows.

Claimed only: a short delay. Called, nothing shown: one more attempt. Something shown: an explicit error, and no second
call. Ended: nothing at all. And the relay goes on serving.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from redis.asyncio import Redis

from relay.broker import scripts
from tests.support.badprovider import BadProvider
from tests.support.chaos import ChaosProxy
from tests.support.oracles import KEYS, check_calls, check_log, check_order, check_usage, end_of
from tests.support.processes import Process, RedisServer
from tests.support.relay import Relay, message
from tests.support.sse import SseEvent
from tests.support.wait import wait_until

# From the death of a worker to the word to its clients: the lease (2 s here), a reaper's second, and what a busy
# machine adds.
SETTLED_S = 12


@pytest.fixture
async def proxy(own_redis: RedisServer) -> AsyncIterator[ChaosProxy]:
    async with ChaosProxy(own_redis.port) as proxy:
        proxy.set(hold_s=60)
        yield proxy


async def victim(mortal: Relay, proxy: ChaosProxy, **environment: str) -> Process:
    """A worker that reaches Redis through the proxy."""
    return await mortal.add_worker(RELAY_REDIS_URL=f"redis://127.0.0.1:{proxy.port}/0", **environment)


class Client:
    """One streaming request: its events so far, and all of them when it is over."""

    def __init__(self, relay: Relay, model: str) -> None:
        self.events: list[SseEvent] = []
        self.job_id = ""
        self._done = asyncio.create_task(self._read(relay, model))

    async def _read(self, relay: Relay, model: str) -> None:
        async with await relay.stream(message(model, stream=True)) as reader:
            self.job_id = reader.job_id
            async for event in reader:
                self.events.append(event)

    async def has_seen(self, events: int) -> None:
        await wait_until(lambda: len(self.events) == events)

    async def over(self) -> list[SseEvent]:
        await asyncio.wait_for(self._done, SETTLED_S)
        return self.events

    async def leave(self) -> None:
        self._done.cancel()
        await asyncio.gather(self._done, return_exceptions=True)


Begin = Callable[[str], Client]


@pytest.fixture
async def client(mortal: Relay) -> AsyncIterator[Begin]:
    """Begins a request for a model."""
    async with AsyncExitStack() as stack:

        def begin(model: str) -> Client:
            client = Client(mortal, model)
            stack.push_async_callback(client.leave)
            return client

        yield begin


@asynccontextmanager
async def serving_again(mortal: Relay) -> AsyncIterator[None]:
    """A healthy worker takes over; in the end it serves a new request as if nothing had been."""
    await mortal.add_worker()
    yield
    answered = await mortal.post("/v1/messages", message("claude-x@"))
    assert answered.status == 200


async def test_killed_after_the_claim_the_job_runs_elsewhere(
    mortal: Relay, proxy: ChaosProxy, upstream: BadProvider, own: Redis, client: Begin
) -> None:
    clients = [client("claude-x@") for _ in range(3)]
    await wait_until(lambda: queued(own, 3))
    proxy.arm(scripts.DISPATCH.sha, "hold")
    worker = await victim(mortal, proxy)
    await wait_until(lambda: proxy.counts["hold"] == 1)
    await wait_until(lambda: running(own, 3))
    await worker.kill()
    async with serving_again(mortal):
        for each in clients:
            events = await each.over()
            assert end_of(events) == "done"
            assert check_order(events) == 20
            check_calls(upstream.ledger, each.job_id, 1)
            await check_usage(own, upstream.ledger, each.job_id, ["final"])


async def test_killed_after_the_call_but_before_any_output_it_is_called_once_more(
    mortal: Relay, proxy: ChaosProxy, upstream: BadProvider, own: Redis, client: Begin
) -> None:
    clients = [client("claude-x@gate_headers") for _ in range(3)]
    worker = await victim(mortal, proxy)
    await wait_until(lambda: len(upstream.calls) == 3)
    await worker.kill()
    upstream.gate.set()
    async with serving_again(mortal):
        for each in clients:
            events = await each.over()
            assert end_of(events) == "done"
            assert check_order(events) == 20
            check_calls(upstream.ledger, each.job_id, 2)
            await check_usage(own, upstream.ledger, each.job_id, ["unknown", "final"])
            await check_log(own, each.job_id, events)


async def test_killed_after_output_it_ends_in_an_error_and_is_never_called_again(
    mortal: Relay, proxy: ChaosProxy, upstream: BadProvider, own: Redis, client: Begin
) -> None:
    shown = [1, 2, 5, 10, 19]
    worker = await victim(mortal, proxy)
    clients = [client(f"claude-x@gate:{count}") for count in shown]
    before_text = 2  # message_start and content_block_start
    for each, count in zip(clients, shown, strict=True):
        await each.has_seen(before_text + count)
    await worker.kill()
    async with serving_again(mortal):
        for each, count in zip(clients, shown, strict=True):
            events = await each.over()
            assert end_of(events) == "interrupted"
            assert check_order(events[:-1]) == count
            check_calls(upstream.ledger, each.job_id, 1)
            await check_usage(own, upstream.ledger, each.job_id, ["partial"])
            await check_log(own, each.job_id, events)


async def test_killed_between_the_last_event_and_the_end_it_is_not_taken_for_done(
    mortal: Relay, proxy: ChaosProxy, upstream: BadProvider, own: Redis, client: Begin
) -> None:
    proxy.arm(scripts.FINISH.sha, "hold", times=3)
    workers = await asyncio.gather(*[victim(mortal, proxy, RELAY_CONCURRENCY="1") for _ in range(3)])
    clients = [client("claude-x@") for _ in range(3)]
    await wait_until(lambda: proxy.counts["hold"] == 3)
    await asyncio.gather(*[worker.kill() for worker in workers])
    async with serving_again(mortal):
        for each in clients:
            events = await each.over()
            assert end_of(events) == "interrupted"
            assert check_order(events[:-1]) > 0
            check_calls(upstream.ledger, each.job_id, 1)
            await check_usage(own, upstream.ledger, each.job_id, ["partial"])
            await check_log(own, each.job_id, events)


async def test_killed_after_the_end_with_its_reply_lost_it_is_done(
    mortal: Relay, proxy: ChaosProxy, upstream: BadProvider, own: Redis, client: Begin
) -> None:
    await own.script_load(scripts.FINISH.source)  # or the first call by hash would only learn that it is unknown
    proxy.arm(scripts.FINISH.sha, "lose_reply", times=3)
    workers = await asyncio.gather(*[victim(mortal, proxy, RELAY_CONCURRENCY="1") for _ in range(3)])
    clients = [client("claude-x@") for _ in range(3)]
    await wait_until(lambda: proxy.counts["lose_reply"] == 3)
    await asyncio.gather(*[worker.kill() for worker in workers])
    async with serving_again(mortal):
        for each in clients:
            events = await each.over()
            assert end_of(events) == "done"
            assert check_order(events) == 20
            check_calls(upstream.ledger, each.job_id, 1)
            await check_usage(own, upstream.ledger, each.job_id, ["final"])
            await check_log(own, each.job_id, events)


async def queued(own: Redis, count: int) -> bool:
    return int(await own.llen("rq:queue:relay")) == count


async def running(own: Redis, count: int) -> bool:
    """So many jobs have an owner."""
    return int(await own.zcard(KEYS.leases)) == count
