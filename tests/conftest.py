"""What every test may use: a Redis, a provider that does as it is told, and a relay between them.

All three are shared by the session, so a test leaves them as it found them; one that kills or freezes something takes
processes of its own. After each test that used Redis, no key may be left without an expiry.

``make test`` runs several sessions side by side, each with a share of the files. They share nothing but the machine:
a name or a port that is not asked of ``tmp_path`` or ``free_port`` is a clash there, and a test that compares times is
marked ``alone``.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Generator
from contextlib import nullcontext
from pathlib import Path

import hypothesis
import pytest
from redis.asyncio import Redis

from tests.ledger import postgres
from tests.support.alone import Room
from tests.support.badprovider import BadProvider
from tests.support.leftovers import keys_without_expiry
from tests.support.processes import RedisServer
from tests.support.relay import Relay, served_by

# A busy machine is no reason to fail an example. CI tries the same ones every time, so that its verdict is about the
# change; the search for new ones is the developers', each run a little, and ``--hypothesis-profile=search`` a lot.
hypothesis.settings.register_profile(
    "relay",
    deadline=None,
    max_examples=50,
    derandomize=os.environ.get("CI") == "true",
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile("search", hypothesis.settings.get_profile("relay"), max_examples=2000)
hypothesis.settings.load_profile("relay")

ROOM = pytest.StashKey[Room]()

RELAY_TOML = """
[models]
fast = "anthropic/claude-haiku-4-5"
"""


# Left by setup.sh where something cannot be had, with the reason in it; and the tests that need it.
ROOT = Path(__file__).parents[1]
LEFT_OUT = {
    "TypeScript SDKs'": (ROOT / "tests/typescript/node_modules/UNAVAILABLE", "tests/**/test_typescript.py"),
    "browser": (ROOT / "deploy/examples/ai-sdk/node_modules/UNAVAILABLE", "tests/browser/**/test_*.py"),
    "dashboard": (ROOT / "tests/console/node_modules/UNAVAILABLE", "tests/console/test_browser.py"),
}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name, (marker, _) in LEFT_OUT.items():
        if marker.is_file():
            terminalreporter.write_line(f"The {name} tests were left out: {marker.read_text().strip()}.")
    # Said here, since under pytest-xdist who writes the summary reads no other conftest.
    if not postgres.binary("postgres"):
        terminalreporter.write_line("The ledger's tests ran on SQLite only: there is no PostgreSQL server here.")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    paths = {path for marker, glob in LEFT_OUT.values() if marker.is_file() for path in ROOT.glob(glob)}
    left_out = [item for item in items if item.path in paths]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item.path not in paths]


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # one of several sessions, whose directories are side by side
        config.stash[ROOM] = room = Room(Path(config.option.basetemp).parent)
        config.add_cleanup(room.close)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Waits outside of the test, so that its time-out does not count it."""
    room = item.config.stash.get(ROOM, None)
    with room.held(alone=bool(item.get_closest_marker("alone"))) if room else nullcontext():
        return (yield)


@pytest.fixture(scope="session")
async def redis_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    """A client of the session's Redis; the test must leave no key there that would stay for ever."""
    async with redis_server.client() as client:
        yield client
        assert not await keys_without_expiry(client)


@pytest.fixture(scope="session")
async def _upstream() -> AsyncIterator[BadProvider]:
    provider = BadProvider()
    await provider.start()
    yield provider
    await provider.stop()


@pytest.fixture
def upstream(_upstream: BadProvider) -> BadProvider:
    """The provider of every relay here: answers by its ``script``, without one as the model's name says."""
    _upstream.reset()
    return _upstream


@pytest.fixture(scope="session")
async def _relay(
    redis_server: RedisServer, _upstream: BadProvider, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Relay]:
    directory = tmp_path_factory.mktemp("relay")
    config = directory / "relay.toml"
    config.write_text(RELAY_TOML)
    # A provider's failure is shown as it is; what is tried again has tests of its own.
    more = {"RELAY_CONFIG": str(config), "RELAY_ABANDON_GRACE_S": "1", "RELAY_RETRIES": "0"}
    relay = Relay(directory, redis_server.url, served_by(_upstream) | more)
    await relay.start(ingresses=2, workers=1)
    yield relay
    await relay.stop()


@pytest.fixture
async def relay(_relay: Relay, redis: Redis) -> Relay:
    """The session's relay: two ingresses and a worker, with ``upstream`` for a provider."""
    return _relay
