"""A Redis for the broker's tests alone: they empty it, fill it up and cut its connections."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from tests.broker.system import Broker, Worker
from tests.support.processes import RedisServer


@pytest.fixture(scope="session")
async def redis_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("broker-redis"), append_only=False)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def broker(redis_server: RedisServer, redis: Redis) -> AsyncIterator[Broker]:
    """The broker on an empty Redis; ``redis`` looks into it."""
    await redis.flushall()
    broker = Broker(redis_server.url)
    yield broker
    broker.close()


@pytest.fixture
def worker(broker: Broker) -> Worker:
    return broker.worker()
