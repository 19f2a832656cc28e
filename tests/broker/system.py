"""The broker's parts on one Redis, put together as an ingress and its workers put them together.

``Broker`` is what an ingress has, ``Worker`` what a worker has. ``dump`` is everything a Redis holds, for tests that
say that nothing changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from redis.asyncio import Redis

from relay.broker.connections import Link, address
from relay.broker.keys import Keys
from relay.broker.leases import Lease, Leases
from relay.broker.publisher import End, Outlet, Publisher
from relay.broker.queue import Queue, pieces_of
from relay.broker.rq_records import RqNames
from relay.broker.scripts import Script
from relay.broker.usage_stream import Call, Record
from relay.core.frame import Frame, decode
from relay.core.job import CANCELLED, CLAIMED, DISPATCHED, DONE, FAILED, QUEUED, STREAMING, Job, Target, new_id
from tests.support.wait import wait_until

REQUEST = b'{"model": "claude-sonnet-4-6", "messages": []}'
TENANT = "acme"
CLAUDE = Target("anthropic", "anthropic", "claude-sonnet-4-6")

RUNNING = (CLAIMED, DISPATCHED, STREAMING)
ALL_STATES = (QUEUED, *RUNNING, DONE, FAILED, CANCELLED)


@dataclass(frozen=True, slots=True)
class Limits:
    """Like the settings, and settable."""

    queue: str = "relay"
    queue_limit: int = 100
    tenant_queue_limit: int = 100
    pending_ttl_s: float = 600
    log_ttl_s: float = 60
    result_ttl_s: float = 120
    dead_ttl_s: float = 240
    lease_s: float = 15
    total_s: float = 900
    max_claims: int = 3
    usage_maxlen: int = 1000
    batch_window_s: float = 600
    batch_ttl_s: float = 600


def make_job(body: bytes = REQUEST, **facts: Any) -> Job:
    job = Job(
        id=new_id("0"),
        tenant=TENANT,
        key_id="rk_1",
        surface="anthropic",
        endpoint="messages",
        query="",
        headers={"anthropic-version": "2023-06-01"},
        model="claude-sonnet-4-6",
        targets=(CLAUDE,),
        stream=True,
        created_ms=1_763_760_000_000,
        body_bytes=len(body),
        body_pieces=pieces_of(len(body)),
    )
    return replace(job, **facts)


def event(number: int) -> bytes:
    """A finished SSE event."""
    return b'event: content_block_delta\ndata: {"n": %d}\n\n' % number


def call_of(lease: Lease) -> Call:
    job, attempt = lease.job, lease.calls + 1
    return Call(job, job.targets[0], lease.generation, 1, attempt, started_ms=job.created_ms + 50)


def draft_of(lease: Lease) -> Record:
    return call_of(lease).draft()


def record_of(lease: Lease, kind: str = "final", outcome: str = "completed", version: int = 1) -> Record:
    return call_of(lease).record(kind, outcome, version=version)


class Broker:
    """An ingress's side; ``worker`` makes the other one. Closes what it opened."""

    def __init__(self, url: str, limits: Limits | None = None) -> None:
        self.url = url
        self.limits = limits or Limits()
        self.keys = Keys()
        self.rq = RqNames(self.limits.queue)
        self._links: list[Link] = []
        self.link = self.open_link("ingress")
        self.queue = Queue(self.link, self.keys, self.limits)

    def open_link(self, name: str, url: str = "") -> Link:
        link = Link(address(url or self.url), name)
        self._links.append(link)
        return link

    def worker(
        self, name: str = "host-4711-ab12cd", *, url: str = "", flush_s: float = 0, link: Link | None = None
    ) -> Worker:
        return Worker(self, name, link or self.open_link(name, url), flush_s)

    def with_limits(self, **limits: Any) -> Broker:
        """The same Redis under other settings."""
        other = Broker(self.url, replace(self.limits, **limits))
        other._links = self._links
        self._links.append(other.link)
        return other

    def close(self) -> None:
        for link in self._links:
            link.close()

    async def submit(self, body: bytes = REQUEST, **facts: Any) -> Job:
        job = make_job(body, **facts)
        await self.queue.submit(job, body)
        return job

    async def in_state(self, state: str, worker: Worker) -> tuple[Job, Lease | None]:
        """A job that has come to this state, and the last lease on it."""
        job = await self.submit()
        if state == QUEUED:
            return job, None
        if state == CANCELLED:
            await self.queue.cancel(job.id, TENANT)
            return job, None
        lease = await worker.claim()
        if state != CLAIMED:
            await worker.dispatch(lease)
        if state in (STREAMING, DONE, FAILED):
            outlet = worker.outlet(lease)
            await worker.stream(outlet, 3)
            if state != STREAMING:
                await worker.finish(outlet, state)
        return job, lease


@dataclass(slots=True)
class Refusals:
    """The codes an outlet was refused with."""

    codes: list[int] = field(default_factory=list)

    def __call__(self, code: int) -> None:
        self.codes.append(code)


class Worker:
    """A worker's side."""

    def __init__(self, broker: Broker, name: str, link: Link, flush_s: float) -> None:
        self.name = name
        self.link = link
        self._record = broker.rq.worker(name)
        self._registered = False
        popper = broker.open_link(f"{name}-pop")
        self.leases = Leases(link, popper, broker.keys, broker.limits, name)
        self.publisher = Publisher(link, broker.keys, broker.limits, name, flush_s)
        self.refusals = Refusals()

    async def claim(self) -> Lease:
        """The lease on the job at the head of the queue."""
        await self.register()
        [lease] = await self.leases.claim([], 1)
        return lease

    async def register(self) -> None:
        """Leave the record that RQ's workers keep of themselves."""
        if self._registered:
            return
        self._registered = True
        await self.link.execute("HSET", self._record, "queues", "relay")
        await self.link.execute("EXPIRE", self._record, 480)

    async def dispatch(self, lease: Lease) -> int:
        return await self.leases.dispatch(lease, draft_of(lease))

    async def start(self) -> Lease:
        """Claim and dispatch."""
        lease = await self.claim()
        assert await self.dispatch(lease) == 1
        return lease

    def outlet(self, lease: Lease) -> Outlet:
        return self.publisher.open(lease, self.refusals)

    async def stream(self, outlet: Outlet, count: int, *, head: bool = True) -> None:
        """Send a head, if it is the beginning, and so many events, each in a frame of its own."""
        if head and outlet.sequence == 0:
            outlet.head(200, [("request-id", "req_1")])
        await flushed(outlet)
        for _ in range(count):
            outlet.events(event(outlet.sequence + 1), 1)
            await flushed(outlet)

    async def finish(self, outlet: Outlet, state: str = DONE, usage: Record | None = None) -> int:
        code = "" if state == DONE else "overloaded_error" if state == FAILED else "cancelled"
        end = End(state, code, code and "so it is", 200, shown=state == DONE)
        return await self.publisher.finish(outlet, end, record_of(outlet.lease) if usage is None else usage)


async def flushed(*outlets: Outlet) -> None:
    """Wait until Redis has answered for everything these outlets had ready."""
    await wait_until(lambda: not any(outlet.dirty or outlet.flying for outlet in outlets), every_s=0)


# -- looking into Redis --------------------------------------------------------------------------------------------


async def frames_of(redis: Redis, keys: Keys, job: Job) -> list[Frame]:
    """A job's log."""
    entries = await redis.execute_command("XRANGE", keys.log(job.id), "-", "+", NEVER_DECODE=True)
    return [decode(fields[b"f"]) for _, fields in entries]


async def usage_records(redis: Redis, keys: Keys) -> list[dict[str, str]]:
    entries: Any = await redis.xrange(keys.usage)
    return [record for _, record in entries]


async def state_of(redis: Redis, keys: Keys, job: Job) -> str | None:
    state: str | None = await redis.hget(keys.job(job.id), "state")
    return state


async def dump(redis: Redis, *, without: Sequence[str] = ()) -> dict[str, Any]:
    """Every key and what it holds; times to live are left out."""
    names = sorted([name async for name in redis.scan_iter(count=1000) if name not in without])
    async with redis.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.type(name)
        for name, kind in zip(names, await pipeline.execute(), strict=True):
            _READ[kind](pipeline, name)
        return dict(zip(names, await pipeline.execute(), strict=True))


_READ: dict[str, Callable[[Any, str], Any]] = {
    "string": lambda pipeline, name: pipeline.execute_command("GET", name, NEVER_DECODE=True),  # a bitmap is no text
    "hash": lambda pipeline, name: pipeline.hgetall(name),
    "list": lambda pipeline, name: pipeline.lrange(name, 0, -1),
    "set": lambda pipeline, name: pipeline.smembers(name),
    "zset": lambda pipeline, name: pipeline.zrange(name, 0, -1, withscores=True),
    "stream": lambda pipeline, name: pipeline.xrange(name),
}


async def let_lease_lapse(redis: Redis, keys: Keys, job: Job) -> None:
    """As if the worker had given no sign of life for long."""
    assert await redis.zadd(keys.leases, {job.id: 1}, xx=True, ch=True) == 1


class EchoingLink(Link):
    """Sends every script a second time, as after a lost reply; a second time that changes anything fails the test."""

    def __init__(self, url: str, redis: Redis, keys: Keys) -> None:
        super().__init__(address(url), "echo")
        self._redis = redis
        self._ignored = [keys.leases]  # a heartbeat renews, that is what it is for
        self.heard: list[tuple[str, Any, Any]] = []

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        answer = await super().run(script, keys, args)
        before = await dump(self._redis, without=self._ignored)
        echo = await super().run(script, keys, args)
        assert await dump(self._redis, without=self._ignored) == before, f"{script.name} said twice is not said once"
        self.heard.append((script.name, answer, echo))
        return answer
