"""A database for each test, SQLite and, where there is one, PostgreSQL; and a Redis for the ledger's tests alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from sqlalchemy import Engine

from relay.core.pricing import PriceTable
from relay.ledger.database import migrate, open_engine, url_of
from relay.ledger.store import Store
from relay.settings import load
from tests.ledger.postgres import Postgres, binary
from tests.support.processes import RedisServer

DATABASES = ("sqlite", "postgresql") if binary("postgres") else ("sqlite",)


@pytest.fixture(scope="session")
async def redis_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("ledger-redis"))
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    """An empty Redis."""
    async with redis_server.client() as client:
        await client.flushall()
        yield client


@pytest.fixture(scope="session")
async def postgres() -> AsyncIterator[Postgres]:
    server = Postgres()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture(params=DATABASES)
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database with nothing in it."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def engine(ledger_url: str) -> Iterator[Engine]:
    """A database with the ledger's tables."""
    engine = open_engine(url_of(load({"ledger_url": ledger_url})))
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def store(engine: Engine) -> Store:
    return Store(engine, PriceTable(), "relay:{0}:usage")
