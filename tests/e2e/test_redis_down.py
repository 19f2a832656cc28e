"""Redis goes away: requests are refused at the door, and served again as soon as it is back, without a restart."""

from __future__ import annotations

from tests.support.badprovider import BadProvider
from tests.support.oracles import check_order, end_of, error_code
from tests.support.processes import RedisServer
from tests.support.relay import Relay, message
from tests.support.wait import wait_until


async def is_ready(relay: Relay) -> bool:
    return (await relay.get("/readyz")).status == 200


async def test_refused_at_the_door_and_served_again_without_a_restart(
    mortal: Relay, own_redis: RedisServer, upstream: BadProvider
) -> None:
    await mortal.add_worker()
    assert (await mortal.post("/v1/messages", message("claude-x@"))).status == 200
    await own_redis.kill()
    refused = await mortal.post("/v1/messages", message("claude-x@"))
    not_ready = await mortal.get("/readyz")
    healthy = await mortal.get("/healthz")
    await own_redis.start()
    assert refused.status == 503
    assert int(refused.headers.get("retry-after") or 0) > 0
    assert error_code(refused.body) == "unavailable"
    assert not_ready.status == 503
    assert healthy.status == 200
    await wait_until(lambda: is_ready(mortal))
    assert (await mortal.post("/v1/messages", message("claude-x@"))).status == 200
    assert len(upstream.calls) == 2


async def test_a_stream_goes_on_after_a_restart_of_redis(
    mortal: Relay, own_redis: RedisServer, upstream: BadProvider
) -> None:
    await mortal.add_worker()
    async with await mortal.stream(message("claude-x@gate:5", stream=True)) as reader:
        before = await reader.take(7)
        await own_redis.kill()
        await own_redis.start()
        upstream.gate.set()
        events = before + await reader.rest()
    assert end_of(events) == "done"
    assert check_order(events) == 20
