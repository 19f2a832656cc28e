"""Readers come late, leave, return elsewhere, fall behind or lose their connection: each sees every event once."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path

from redis.asyncio import Redis

from tests.support.badprovider import BadProvider
from tests.support.chaos import ChaosProxy
from tests.support.fixtures import transcript
from tests.support.oracles import check_order, end_of
from tests.support.processes import RedisServer
from tests.support.relay import Relay, message
from tests.support.upstream import Call, Script, replay
from tests.support.wait import wait_until

STREAM = transcript("anthropic", "tool-use-parallel").stream
MODEL = "claude-sonnet-4-6"
MIB = 1 << 20
SLOW_READERS = 4
# What one of them may cost the ingress, of 5 MiB that wait for it: a page of the log, decoded and on its way out.
HELD_BYTES = 2 * MIB


def halves(gate: asyncio.Event) -> Script:
    """The recorded stream, its second half held until the gate opens."""
    middle = STREAM.index(b"\n\n", len(STREAM) // 2) + 2

    async def script(call: Call) -> None:
        await call.head()
        await call.chunk(STREAM[:middle])
        await gate.wait()
        await call.chunk(STREAM[middle:])
        await call.finish()

    return script


async def test_a_second_reader_gets_the_whole_stream_from_the_log(relay: Relay, upstream: BadProvider) -> None:
    upstream.script = replay(STREAM)
    async with await relay.stream(message(MODEL, stream=True)) as first:
        native = await first.rest()
    async with await relay.events(first.job_id) as second:
        replayed = await second.rest()
    assert [(event.name, event.data) for event in replayed] == [(event.name, event.data) for event in native]
    assert len({event.id for event in replayed}) == len(replayed)


async def test_two_readers_at_once_get_the_same_bytes(relay: Relay, upstream: BadProvider) -> None:
    gate = asyncio.Event()
    upstream.script = halves(gate)
    async with await relay.stream(message(MODEL, stream=True)) as native:
        await native.next()
        async with await relay.events(native.job_id) as one, await relay.events(native.job_id) as two:
            gate.set()
            seen = await asyncio.gather(one.rest(), two.rest(), native.rest())
    assert seen[0] == seen[1]
    assert native.received == STREAM


async def test_a_reader_that_returns_anywhere_continues_after_the_last_event_it_saw(
    relay: Relay, upstream: BadProvider
) -> None:
    upstream.script = replay(STREAM)
    async with await relay.stream(message(MODEL, stream=True)) as native:
        await native.rest()
    async with await relay.events(native.job_id) as reader:
        events = await reader.rest()
    for seen, last in enumerate(events[:-1], start=1):
        elsewhere = relay.ingresses[seen % 2]
        async with await relay.events(native.job_id, after=last.id, ingress=elsewhere) as again:
            assert await again.rest() == events[seen:], f"after {seen} events"


async def test_when_all_was_seen_there_is_no_content(relay: Relay, upstream: BadProvider) -> None:
    upstream.script = replay(STREAM)
    async with await relay.stream(message(MODEL, stream=True)) as native:
        await native.rest()
    async with await relay.events(native.job_id) as reader:
        last = (await reader.rest())[-1]
    again = await relay.get(f"/v1/jobs/{native.job_id}/stream", [("last-event-id", last.id)])
    assert again.status == 204


async def test_an_ingress_is_killed_and_its_reader_goes_on_at_another(relay: Relay, upstream: BadProvider) -> None:
    doomed, other = await relay.add_ingress(), relay.ingresses[0]
    positions = [1, 2, 7, 15]
    bodies = [message(f"claude-x@gate:{position}", stream=True) for position in positions]
    natives = await asyncio.gather(*[relay.stream(body, ingress=doomed) for body in bodies])
    readers = [await relay.events(native.job_id, ingress=doomed) for native in natives]
    before = [
        await reader.take(position + 2) for reader, position in zip(readers, positions, strict=True)
    ]  # message_start and content_block_start come first
    await doomed.kill()
    upstream.gate.set()
    for seen, native in zip(before, natives, strict=True):
        async with await relay.events(native.job_id, after=seen[-1].id, ingress=other) as reader:
            after = await reader.rest()
        assert end_of([*seen, *after]) == "done"
        assert check_order([*seen, *after]) == 20
    for reader in [*readers, *natives]:
        await reader.close()


async def test_a_cut_pub_sub_connection_goes_unnoticed(relay: Relay, upstream: BadProvider, redis: Redis) -> None:
    events = [b'event: ping\ndata: {"type":"ping","n":%d}\n\n' % n for n in range(60)]

    async def script(call: Call) -> None:
        await call.head()
        for n, event in enumerate(events):
            await call.chunk(event)
            if n % 10 == 5:
                await redis.client_kill_filter(_type="pubsub")
        await call.chunk(STREAM)
        await call.finish()

    upstream.script = script
    async with await relay.stream(message(MODEL, stream=True)) as reader:
        await reader.rest()
    assert reader.received == b"".join(events) + STREAM


async def test_a_lost_last_message_is_found_in_the_log(
    relay: Relay, upstream: BadProvider, redis_server: RedisServer
) -> None:
    async with ChaosProxy(redis_server.port) as proxy:
        ingress = await relay.add_ingress(RELAY_REDIS_URL=f"redis://127.0.0.1:{proxy.port}/0")
        async with await relay.stream(message("claude-x@gate:5", stream=True), ingress=ingress) as reader:
            before = await reader.take(7)
            proxy.deafen("subscriber")
            upstream.gate.set()
            events = before + await reader.rest(8)
        assert proxy.counts["deaf"] == 1
        assert end_of(events) == "done"
        assert check_order(events) == 20
        await relay.stop_ingress(ingress)


async def test_slow_readers_cost_little_memory_and_lose_nothing(relay: Relay, upstream: BadProvider) -> None:
    event = b'event: x\ndata: {"type":"x","pad":"' + b"z" * 160 + b'"}\n\n'
    stream = event * (5 * MIB // len(event)) + STREAM
    upstream.script = replay(stream, cut_at=range(4096, len(stream), 4096), pace_s=0.002)
    body = message(MODEL, stream=True)
    async with await relay.stream(body) as quick:
        await quick.rest()
    before = resident_bytes(relay.ingresses[0].pid)
    slow = await asyncio.gather(*[relay.stream(body, receive_buffer=4096) for _ in range(SLOW_READERS)])
    for reader in slow:
        await over(relay, reader.job_id)
    grown = resident_bytes(relay.ingresses[0].pid) - before
    for reader in slow:
        async with reader:
            await reader.rest(60)
        assert reader.received == stream
    assert grown < SLOW_READERS * HELD_BYTES, f"{grown / SLOW_READERS / MIB:.1f} MiB held for each slow reader"


async def over(relay: Relay, job_id: str) -> None:
    async def is_over() -> bool:
        return bool((await relay.job(job_id))["status"] == "completed")

    await wait_until(is_over, 60)


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
