"""The doubles themselves: a test that trusts them is worth no more than they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import orjson
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError

from tests.support.badprovider import MODES, BadProvider
from tests.support.chaos import ChaosProxy
from tests.support.http import Truncated, request
from tests.support.leftovers import keys_without_expiry
from tests.support.oracles import check_order, end_of, text_of
from tests.support.processes import RedisServer
from tests.support.relay import message
from tests.support.sse import SseReader, parse
from tests.support.upstream import Call, Upstream, replay, serving
from tests.support.wait import wait_until


async def ask(upstream: Upstream, model: str = "any") -> SseReader:
    return await SseReader.open(upstream.port, "/v1/messages", body=orjson.dumps(message(model, stream=True)))


@pytest.fixture
async def chaos(redis_server: RedisServer) -> AsyncIterator[tuple[ChaosProxy, Redis]]:
    """A proxy before the session's Redis, and a client that goes through it."""
    async with ChaosProxy(redis_server.port) as proxy:
        client = redis_server.client()
        client.connection_pool.connection_kwargs["port"] = proxy.port
        async with client:
            yield proxy, client


async def test_a_recorded_stream_is_replayed_byte_for_byte_however_it_is_cut() -> None:
    stream = b"event: a\ndata: {}\n\ndata: [DONE]\n\n"
    async with serving(Upstream()) as upstream:
        upstream.script = replay(stream, cut_at=[1, 12, 20])
        async with await ask(upstream) as reader:
            events = await reader.rest()
    assert reader.received == stream
    assert [(event.name, event.data) for event in events] == parse(stream) == [("a", "{}"), ("", "[DONE]")]


async def test_a_script_is_cancelled_when_the_client_leaves() -> None:
    async def never_ending(call: Call) -> None:
        await call.head()
        await asyncio.Event().wait()

    async with serving(Upstream()) as upstream:
        upstream.script = never_ending
        reader = await ask(upstream)
        await reader.close()
        await upstream.calls[0].ended.wait()
    assert upstream.calls[0].how == "client_gone"


def test_the_bad_provider_knows_every_mode_of_the_plan() -> None:
    assert len(MODES) == 66


async def test_a_good_answer_of_the_bad_provider_passes_the_oracles(upstream: BadProvider) -> None:
    async with await ask(upstream, "x@") as reader:
        events = await reader.rest()
    assert check_order(events) == 20
    assert end_of(events) == "done"
    await wait_until(lambda: [entry["kind"] for entry in upstream.ledger] == ["call", "end"])
    assert upstream.ledger[1] == {"kind": "end", "call": "c1", "sent": 20, "how": "complete"}


async def test_a_gated_stream_waits_for_the_gate(upstream: BadProvider) -> None:
    async with await ask(upstream, "x@gate:2") as reader:
        held = await reader.take(4)  # message_start, content_block_start, two texts
        assert text_of(held) == "c1.1 c1.2 "
        await request(upstream.port, "POST", "/_open")
        assert end_of([*held, *await reader.rest()]) == "done"


async def test_a_cut_stream_is_seen_to_be_cut(upstream: BadProvider) -> None:
    async with await ask(upstream, "x@cut_chunk:2") as reader:
        with pytest.raises(Truncated):
            await reader.rest()
    assert upstream.ledger[-1]["how"] == "cut_chunk"


async def test_an_oracle_notices_a_hole_and_a_missing_end(upstream: BadProvider) -> None:
    async with await ask(upstream, "x@") as reader:
        events = await reader.rest()
    with pytest.raises(AssertionError):
        check_order([*events[:4], *events[5:]])
    with pytest.raises(AssertionError):
        end_of(events[:-1])


async def test_a_lost_request_was_not_executed(chaos: tuple[ChaosProxy, Redis], redis: Redis) -> None:
    proxy, client = chaos
    proxy.arm("doubles:lost-request", "lose_req")
    with pytest.raises(ConnectionError):
        await client.set("doubles:lost-request", "1", ex=60)
    assert await redis.get("doubles:lost-request") is None


async def test_a_request_whose_reply_was_lost_was_executed(chaos: tuple[ChaosProxy, Redis], redis: Redis) -> None:
    proxy, client = chaos
    proxy.arm("doubles:lost-reply", "lose_reply")
    with pytest.raises(ConnectionError):
        await client.set("doubles:lost-reply", "1", ex=60)
    assert await redis.get("doubles:lost-reply") == "1"


async def test_a_held_request_goes_on_when_released(chaos: tuple[ChaosProxy, Redis], redis: Redis) -> None:
    proxy, client = chaos
    proxy.set(hold_s=30)
    proxy.arm("doubles:held", "hold")
    held = asyncio.ensure_future(client.set("doubles:held", "1", ex=60))
    await wait_until(lambda: proxy.counts["hold"] == 1)
    assert await redis.get("doubles:held") is None
    proxy.release()
    await held
    assert await redis.get("doubles:held") == "1"


async def test_a_deaf_connection_stays_open_and_hears_nothing(chaos: tuple[ChaosProxy, Redis]) -> None:
    proxy, client = chaos
    await client.ping()
    proxy.deafen()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await client.ping()


async def test_a_partition_refuses_and_heals(chaos: tuple[ChaosProxy, Redis]) -> None:
    proxy, client = chaos
    proxy.partition()
    with pytest.raises(ConnectionError):
        await client.ping()
    proxy.heal()
    assert await client.ping()


async def test_a_key_without_an_expiry_is_found(redis: Redis) -> None:
    await redis.set("doubles:for-ever", "1")
    await redis.set("doubles:for-a-while", "1", ex=60)
    await redis.hset("relay:api_keys", "a", "b")  # one of those that may stay; there are others' keys beside it
    try:
        assert await keys_without_expiry(redis) == ["doubles:for-ever"]
    finally:
        await redis.delete("doubles:for-ever")
        await redis.hdel("relay:api_keys", "a")
