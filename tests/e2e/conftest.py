"""The official Anthropic SDK, with and without the relay; a second relay, whose processes may be killed; and a third,
with a provider for everything that providers make of a request.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest
from anthropic import AsyncAnthropic
from redis.asyncio import Redis

from tests.support.badprovider import BadProvider
from tests.support.leftovers import keys_without_expiry
from tests.support.processes import RedisServer
from tests.support.relay import Relay, served_by
from tests.support.wait import wait_until

PROVIDERS = """
[providers.stripping]
dialect = "anthropic"
base_url = "{url}"
cache_control = "strip"

[providers.keeping]
dialect = "openai"
base_url = "{url}"
cache_control = "keep"

[providers.explicit]
dialect = "openai"
base_url = "{url}"
cache_control = "explicit_breakpoints"

[providers.unaskable]
dialect = "openai"
base_url = "{url}"
stream_usage = false

[models]
either = ["openai/gpt-first@503:0", "anthropic/claude-second@"]
other-way = ["anthropic/claude-first@529:0", "openai/gpt-second@"]
able = ["anthropic/claude-able", "openai/gpt-able"]
tidy = "anthropic/claude-tidy@"
"""


@pytest.fixture
async def sdk() -> AsyncIterator[Callable[..., AsyncAnthropic]]:
    """Makes clients that do not repeat a failed request: a test wants to see it."""
    async with AsyncExitStack() as stack:

        def make(base_url: str, key: str = "a-provider-key") -> AsyncAnthropic:
            client = AsyncAnthropic(base_url=base_url, api_key=key, max_retries=0)
            stack.push_async_callback(client.close)
            return client

        yield make


@pytest.fixture
def direct(sdk: Callable[..., AsyncAnthropic], upstream: BadProvider) -> AsyncAnthropic:
    return sdk(upstream.url)


@pytest.fixture
def relayed(sdk: Callable[..., AsyncAnthropic], relay: Relay) -> AsyncAnthropic:
    return sdk(relay.url, relay.key)


@pytest.fixture(scope="session")
async def own_redis(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisServer]:
    """A Redis that a test may kill, if it starts it again."""
    server = RedisServer(tmp_path_factory.mktemp("own-redis"))
    await server.start()
    yield server
    await server.stop()


@pytest.fixture(scope="session")
async def _mortal(
    own_redis: RedisServer, _upstream: BadProvider, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Relay]:
    environment = served_by(_upstream) | {"RELAY_LEASE_S": "2", "RELAY_DRAIN_S": "2"}
    relay = Relay(tmp_path_factory.mktemp("own-relay"), own_redis.url, environment)
    await relay.start(workers=0)
    yield relay
    await relay.stop()


@pytest.fixture
async def mortal(_mortal: Relay, own_redis: RedisServer) -> AsyncIterator[Relay]:
    """A relay on ``own_redis``, with one ingress and no worker: a test adds those it wants to kill, and the rest."""
    await wait_until(lambda: _is_ready(_mortal), what="the ingress has found a Redis that was killed")
    yield _mortal
    await _mortal.stop_workers()
    async with own_redis.client() as client:
        assert not await keys_without_expiry(client)


async def _is_ready(relay: Relay) -> bool:
    return (await relay.get("/readyz")).status == 200


@pytest.fixture
async def own(own_redis: RedisServer) -> AsyncIterator[Redis]:
    """A client of ``own_redis``."""
    async with own_redis.client() as client:
        yield client


@pytest.fixture(scope="session")
async def _third_redis(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("third-redis"))
    await server.start()
    yield server
    await server.stop()


@pytest.fixture(scope="session")
async def _translating(
    _third_redis: RedisServer, _upstream: BadProvider, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Relay]:
    directory = tmp_path_factory.mktemp("third-relay")
    config = directory / "relay.toml"
    config.write_text(PROVIDERS.format(url=_upstream.url))
    more = {"RELAY_CONFIG": str(config), "RELAY_RETRIES": "0", "RELAY_AUTO_CACHE": "*auto*, tidy"}
    relay = Relay(directory, _third_redis.url, served_by(_upstream) | more)
    await relay.start()
    yield relay
    await relay.stop()


@pytest.fixture
async def translating(_translating: Relay, third: Redis) -> Relay:
    """A relay whose providers differ in what they take, and are all ``upstream``.  It tries nothing again."""
    return _translating


@pytest.fixture
async def third(_third_redis: RedisServer) -> AsyncIterator[Redis]:
    """A client of its Redis."""
    async with _third_redis.client() as client:
        yield client
        assert not await keys_without_expiry(client)
