"""An ingress process of these tests alone, on a Redis of its own, and a worker whose hand the test leads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from relay.broker.api_keys import ApiKeys
from tests.broker.system import Broker
from tests.ingress.hand import HandWorker
from tests.support.processes import RedisServer
from tests.support.relay import Relay

# Short, so that silence is soon; nobody is at the providers' addresses, since no real worker runs.
ENVIRONMENT = {
    "RELAY_HEARTBEAT_S": "0.3",
    "RELAY_OPEN_WAIT_S": "0.4",
    "RELAY_DRAIN_S": "1",
    "RELAY_QUEUE_LIMIT": "20",
    "RELAY_BATCH_LIMIT_ITEMS": "50",
    "RELAY_BODY_LIMIT_BYTES": str(4 << 20),
    "ANTHROPIC_BASE_URL": "http://127.0.0.1:9",
    "OPENAI_BASE_URL": "http://127.0.0.1:9",
}


@pytest.fixture(scope="session")
async def redis_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("ingress-redis"), append_only=False)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture(scope="session")
async def _door(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Relay]:
    relay = Relay(tmp_path_factory.mktemp("ingress"), redis_server.url, ENVIRONMENT)
    await relay.start(workers=0)
    yield relay
    await relay.stop()


@pytest.fixture
async def broker(redis_server: RedisServer, redis: Redis) -> AsyncIterator[Broker]:
    """The broker as the tests see it, with a queue that is empty before and after."""
    broker = Broker(redis_server.url)
    yield broker
    await redis.delete(broker.rq.queue)
    broker.close()


@pytest.fixture
def door(_door: Relay, broker: Broker) -> Relay:
    """One ingress and no worker."""
    return _door


@pytest.fixture
def hand(broker: Broker) -> HandWorker:
    return HandWorker(broker)


@pytest.fixture
async def refused(broker: Broker, redis: Redis) -> AsyncIterator[None]:
    """For tests of what must be refused: not a job may be in the queue afterwards."""
    before = await redis.keys(broker.keys.job("*"))
    yield
    assert await redis.llen(broker.rq.queue) == 0
    assert await redis.keys(broker.keys.job("*")) == before


@pytest.fixture
async def stranger(redis_server: RedisServer, redis: Redis) -> AsyncIterator[list[tuple[str, str]]]:
    """The headers of somebody else with a good key."""
    keys = ApiKeys(redis_server.client(decode_responses=False))
    record, key = await keys.create("stranger", f"another tenant {uuid4().hex}")
    yield [("x-api-key", key)]
    await keys.revoke(record.id)
    await keys._client.aclose()
