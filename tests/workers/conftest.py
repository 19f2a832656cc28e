"""A desk where one job is done in full view: a real task, a real Redis, a provider's double, no worker around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
from redis.asyncio import Redis

from relay.broker.leases import Lease
from relay.broker.queue import JobStatus
from relay.core.frame import BODY, END, EVENTS, HEAD, Frame
from relay.core.job import Job, Target
from relay.core.retry import Failover
from relay.provider import Provider
from tests.broker.conftest import broker, redis_server, worker
from tests.broker.system import TENANT, Broker, Worker, frames_of, make_job, usage_records
from tests.support.badprovider import BadProvider
from tests.support.relay import message
from workers.metrics import Metrics
from workers.outgoing import Rewriter
from workers.pricing import Pricing
from workers.tasks import Parts, Task
from workers.upstream import Upstream

__all__ = ["broker", "redis_server", "worker"]  # the fixtures of the broker's tests, on a Redis of its own

KEY = "sk-a-providers-key-that-nobody-may-see"
LONG_S = 3600.0

ENDPOINTS = {"anthropic": "messages", "openai": "chat_completions"}


class Told(NamedTuple):
    """What came of a job."""

    frames: list[Frame]
    records: list[dict[str, str]]  # of usage
    status: JobStatus

    @property
    def head(self) -> dict[str, Any] | None:
        return next((orjson.loads(frame.data) for frame in self.frames if frame.kind == HEAD), None)

    @property
    def shown(self) -> bytes:
        """What a client is shown of the provider's answer."""
        return b"".join(frame.data for frame in self.frames if frame.kind in (EVENTS, BODY))

    @property
    def end(self) -> dict[str, Any]:
        assert [frame.kind for frame in self.frames].count(END) == 1
        assert self.frames[-1].kind == END
        end: dict[str, Any] = orjson.loads(self.frames[-1].data)
        return end

    @property
    def record(self) -> dict[str, str]:
        [record] = self.records
        return record


class Desk:
    """One provider per dialect, both served by ``provider``."""

    def __init__(self, broker: Broker, worker: Worker, redis: Redis, provider: BadProvider, http: Upstream) -> None:
        self.broker = broker
        self.worker = worker
        self.redis = redis
        self.provider = provider
        self.http = http
        self.rewriter = Rewriter()
        self.failover = Failover(retries=0, retry_s=60, dice=lambda: 0.0)
        self.job: Job
        self.task: Task
        self.running: asyncio.Task[None]

    async def begin(self, body: bytes, **facts: Any) -> Task:
        """Submit, claim, and start the task."""
        job = await self.broker.submit(body, **facts)
        lease = await self.worker.claim()
        assert lease.job == job
        self.job = job
        self.task = self.task_of(lease)
        self.running = self.task.start()
        return self.task

    def task_of(self, lease: Lease) -> Task:
        parts = (self.worker.leases, self.worker.publisher, self.http, self.rewriter, self.failover)
        return Task(lease, Parts(*parts, Pricing(()), Metrics(dict, tuple)))

    async def told(self) -> Told:
        """What came of the job, when its task is done."""
        async with asyncio.timeout(20):
            await self.running
        frames = await frames_of(self.redis, self.broker.keys, self.job)
        records = await usage_records(self.redis, self.broker.keys)
        status = await self.broker.queue.status(self.job.id, TENANT)
        return Told(frames, [record for record in records if record["job"] == self.job.id], status)

    async def run(self, body: bytes, **facts: Any) -> Told:
        await self.begin(body, **facts)
        return await self.told()

    async def ask(self, mode: str, dialect: str = "anthropic", **members: Any) -> Told:
        """A streamed request that makes the provider behave like this."""
        await self.begin_asking(mode, dialect, **members)
        return await self.told()

    async def begin_asking(self, mode: str, dialect: str = "anthropic", **members: Any) -> Task:
        body = request(mode, **members)
        target = Target(dialect, dialect, members.get("model", f"m@{mode}"))
        return await self.begin(
            body, model=target.model, targets=(target,), surface=dialect, endpoint=ENDPOINTS[dialect]
        )


def request(mode: str, **members: Any) -> bytes:
    return orjson.dumps(message(f"m@{mode}", **{"stream": True, "max_tokens": 5, **members}))


def provider_at(url: str, name: str, key_file: Path | None = None, **settings: Any) -> Provider:
    limits = {"connect_s": 2, "first_byte_s": 120, "idle_s": 60, "total_s": 900}
    key = f"file:{key_file}" if key_file else None
    return Provider(name=name, base_url=url, api_key=key, **limits | settings)


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("secrets") / "key"
    path.write_text(KEY + "\n")
    return path


@pytest.fixture(scope="session")
async def http(_upstream: BadProvider, key_file: Path) -> AsyncIterator[Upstream]:
    """Shared, as in a worker: each provider's client loads the machine's certificates."""
    http = Upstream({name: provider_at(_upstream.url, name, key_file) for name in ENDPOINTS})
    yield http
    await http.close()


@pytest.fixture
def desk(broker: Broker, worker: Worker, redis: Redis, upstream: BadProvider, http: Upstream) -> Desk:
    return Desk(broker, worker, redis, upstream, http)


def later() -> float:
    """The time of the loop, when every patience has run out."""
    return asyncio.get_running_loop().time() + LONG_S


__all__ += ["KEY", "Desk", "Told", "later", "make_job", "provider_at", "request"]
