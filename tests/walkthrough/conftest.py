"""One ``relay up`` for the whole story, with a data directory of its own and the sandbox for a provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from anthropic import AsyncAnthropic
from redis.asyncio import Redis

from tests.support import http
from tests.support.oracles import check_quiet
from tests.support.processes import Process, clean_environment, free_port, python
from tests.support.sse import SseReader
from tests.support.wait import wait_until


@dataclass(frozen=True)
class Up:
    """A relay on this machine, as ``make up`` leaves it."""

    process: Process
    port: int
    data: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def key(self) -> str:
        """Made on the first start."""
        return (self.data / "api-key").read_text().strip()

    @property
    def redis_url(self) -> str:
        return (self.data / "redis-url").read_text().strip()

    async def get(self, path: str) -> http.Response:
        return await http.request(self.port, "GET", path, [("x-api-key", self.key)])

    async def post(self, path: str) -> http.Response:
        return await http.request(self.port, "POST", path, [("x-api-key", self.key)], b"")

    async def events(self, job_id: str, after: str = "") -> SseReader:
        """What a browser's EventSource does."""
        return await SseReader.open(
            self.port, f"/v1/jobs/{job_id}/stream", [("x-api-key", self.key)], last_event_id=after
        )

    async def command(self, *arguments: str) -> str:
        """A command of the relay, typed in another terminal; what it prints."""
        process = await asyncio.create_subprocess_exec(
            *python("-m", "relay", *arguments),
            stdout=asyncio.subprocess.PIPE,
            cwd=self.data.parent,
            env=clean_environment() | {"RELAY_DATA_DIR": str(self.data)},
        )
        output, _ = await process.communicate()
        assert process.returncode == 0
        return output.decode()


@pytest.fixture(scope="session")
async def up(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Up]:
    directory = tmp_path_factory.mktemp("walkthrough")
    port = free_port()
    settings = {"RELAY_PORT": str(port), "RELAY_WORKERS": "1", "RELAY_LEASE_S": "2", "RELAY_SANDBOX_GAP_MS": "5"}
    settings |= {"RELAY_DATA_DIR": str(directory / "data")}
    process = Process("up", python("-m", "relay", "up"), directory, settings)
    await wait_until(lambda: "relay is ready" in process.output, 30, what=f"relay up is ready:\n{process.output}")
    yield Up(process, port, directory / "data")
    await process.stop(40)
    check_quiet(process)


@pytest.fixture
async def client(up: Up) -> AsyncIterator[AsyncAnthropic]:
    """The official SDK; the base URL and the key are all it is told."""
    async with AsyncAnthropic(base_url=up.url, api_key=up.key, max_retries=0) as client:
        yield client


@pytest.fixture
async def redis(up: Up) -> AsyncIterator[Redis]:
    async with Redis.from_url(up.redis_url, decode_responses=True) as redis:
        yield redis
