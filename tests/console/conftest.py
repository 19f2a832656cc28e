"""One system for all tests of the console, with a past: two weeks of the tenant `default`, an hour of `acme`, and one
of `plain`, who caches nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from relay.broker import connections
from relay.broker.api_keys import ApiKeys
from tests.console.history import HOUR_MS, history
from tests.console.system import System, now_ms
from tests.support.processes import RedisServer

MakeKey = Callable[..., Awaitable[str]]
# Calls of the past, by tenant; no test makes calls for acme.
ACME_CALLS = 40


@pytest.fixture(scope="session")
async def console_redis(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("console-redis"))
    await server.start()
    yield server
    await server.stop()


@pytest.fixture(scope="session")
async def system(console_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    system = System(tmp_path_factory.mktemp("console"), console_redis.url, RELAY_RETRIES="0")
    system.remember(history(now_ms() // HOUR_MS * HOUR_MS, 24 * 14, 12))
    system.remember(list(history(now_ms() - 60_000, 1, 200, "acme"))[:ACME_CALLS])
    system.remember(entry for entry in history(now_ms() - 90_000, 1, 50, "plain") if entry.fields["app"] == "Search")
    await system.start()
    yield system
    await system.stop()


@pytest.fixture
async def make_key(console_redis: RedisServer) -> AsyncIterator[MakeKey]:
    async with connections.client(console_redis.url) as client:
        keys = ApiKeys(client)

        async def make(tenant: str, *scopes: str) -> str:
            _, key = await keys.create("made by a test", tenant, scopes=scopes or ("usage:read",))
            return key

        yield make


@pytest.fixture
async def acme(make_key: MakeKey) -> str:
    """A key of acme's that may read its usage and nothing else."""
    return await make_key("acme")
