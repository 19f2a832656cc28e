"""One secret for all ingresses, for as long as anything it signed is good."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis

from relay.broker.stream_secret import StreamSecret
from tests.broker.system import Broker


async def test_all_ingresses_sign_with_the_same(broker: Broker) -> None:
    ingresses = [StreamSecret(broker.open_link(f"ingress-{number}"), broker.keys) for number in range(5)]
    signing = await asyncio.gather(*[secret.to_sign(60) for secret in ingresses])
    assert {*signing} == {await ingresses[0].to_check()}
    assert len(signing[0]) >= 32


async def test_it_lives_as_long_as_what_it_signed_and_no_longer(broker: Broker, redis: Redis) -> None:
    secret = StreamSecret(broker.link, broker.keys)
    assert await secret.to_check() is None
    first = await secret.to_sign(100)
    for ttl_s, left_s in ((50, 100), (200, 200)):
        assert await secret.to_sign(ttl_s) == first
        assert left_s - 5 < await redis.ttl(broker.keys.stream_secret) <= left_s
    await redis.delete(broker.keys.stream_secret)
    assert await secret.to_sign(100) != first
