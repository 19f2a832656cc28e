"""The list of jobs over HTTP: pages, filters, and whose they are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from redis.asyncio import Redis

from relay.broker.api_keys import ApiKeys
from relay.core.job import Job, new_id
from tests.broker.system import Broker, make_job
from tests.ingress.hand import HandWorker
from tests.support import http
from tests.support.processes import RedisServer
from tests.support.relay import Relay

MANY = 10_000


@pytest.fixture
async def tenant(redis_server: RedisServer, redis: Redis, request: pytest.FixtureRequest) -> Tenant:
    """Somebody new, with jobs of their own alone."""
    name = f"tenant of {request.node.name}"
    keys = ApiKeys(redis_server.client(decode_responses=False))
    _, key = await keys.create(name, name)
    await keys._client.aclose()
    return Tenant(name, [("x-api-key", key)])


class Tenant:
    def __init__(self, name: str, auth: list[tuple[str, str]]) -> None:
        self.name = name
        self.auth = auth

    async def page(self, door: Relay, **query: Any) -> dict[str, Any]:
        answer = await self.ask(door, urlencode(query, doseq=True))
        assert answer.status == 200, answer
        found: dict[str, Any] = answer.json
        return found

    async def ids(self, door: Relay, **query: Any) -> list[str]:
        return [job["id"] for job in (await self.page(door, **query))["data"]]

    async def ask(self, door: Relay, query: str) -> http.Response:
        return await http.request(door.port, "GET", f"/v1/jobs?{query}", self.auth)


async def submit(broker: Broker, tenant: Tenant, **facts: Any) -> Job:
    return await broker.submit(tenant=tenant.name, **{"created_ms": time.time_ns() // 1_000_000, **facts})


async def test_a_list_looks_as_openais_lists_do(door: Relay, broker: Broker, tenant: Tenant) -> None:
    assert await tenant.page(door) == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }
    jobs = [await submit(broker, tenant) for _ in range(3)]
    page = await tenant.page(door, limit=2)
    assert [job["id"] for job in page["data"]] == [jobs[2].id, jobs[1].id]
    assert (page["first_id"], page["last_id"], page["has_more"]) == (jobs[2].id, jobs[1].id, True)
    page = await tenant.page(door, limit=2, after=page["last_id"])
    assert ([job["id"] for job in page["data"]], page["has_more"]) == ([jobs[0].id], False)


async def test_jobs_are_listed_as_they_are_shown(door: Relay, broker: Broker, tenant: Tenant) -> None:
    job = await submit(broker, tenant, metadata={"run": "1"})
    shown = await http.request(door.port, "GET", f"/v1/jobs/{job.id}", tenant.auth)
    assert (await tenant.page(door))["data"] == [shown.json]


async def test_jobs_are_found_by_what_they_are(door: Relay, broker: Broker, tenant: Tenant, hand: HandWorker) -> None:
    failed = await submit(broker, tenant, metadata={"a=b": "c=d e&f", "run": "1"})
    await (await hand.take()).fail("upstream_timeout", "the provider sent no answer")
    queued = await submit(broker, tenant, model="claude-haiku-4-5", metadata={"run": "1"})
    assert await tenant.ids(door, status="failed") == [failed.id]
    assert await tenant.ids(door, model="claude-haiku-4-5") == [queued.id]
    assert await tenant.ids(door, metadata="run=1") == [queued.id, failed.id]
    assert await tenant.ids(door, metadata=["run=1"], status="completed") == []
    assert await tenant.ids(door, metadata=["run=1", "run=2"]) == []


async def test_jobs_are_found_by_when_they_were_made(door: Relay, broker: Broker, tenant: Tenant) -> None:
    job = await submit(broker, tenant)
    shown = (await tenant.page(door))["data"][0]["timings"]["created_ms"]
    assert shown == job.created_ms
    before, after = (datetime.fromtimestamp(shown / 1000 + s, UTC).isoformat() for s in (-1, 1))
    assert await tenant.ids(door, created_from=before, created_before=after) == [job.id]
    assert await tenant.ids(door, created_from=after) == []
    assert await tenant.ids(door, created_before=before) == []


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=many", "limit"),
        ("status=done", "status"),
        ("after=x", "after"),
        ("after=1-" + "0" * 32, "after"),
        ("created_from=yesterday", "created_from"),
        ("created_before=2025-11-21T21:20:00", "created_before"),
        ("metadata=run", "metadata"),
        ("metadata=" + "&metadata=".join(f"{n}=" for n in range(17)), "metadata"),
    ],
)
async def test_what_cannot_be_looked_for_is_named(door: Relay, tenant: Tenant, query: str, param: str) -> None:
    answer = await tenant.ask(door, query)
    assert (answer.status, answer.json["code"], answer.json["param"]) == (400, "invalid_request", param)


async def test_text_of_any_kind_may_be_looked_for(door: Relay, tenant: Tenant) -> None:
    for text in ("", "\x00", "é", "%", "*", "',", "\U0001f600" * 100):
        assert await tenant.ids(door, model=text, metadata=f"{text}={text}") == [], quote(text)


async def test_nobody_sees_the_jobs_of_others(
    door: Relay, broker: Broker, tenant: Tenant, stranger: list[tuple[str, str]]
) -> None:
    await submit(broker, tenant)
    answer = await http.request(door.port, "GET", "/v1/jobs", stranger)
    assert (answer.status, answer.json["data"]) == (200, [])


@pytest.fixture
async def many(broker: Broker, tenant: Tenant, redis: Redis) -> AsyncIterator[list[Job]]:
    """Ten thousand ended jobs, the oldest of a rare model."""
    index, made = broker.keys.jobs(tenant.name), [new_id("0") for _ in range(MANY)]
    jobs = [make_job(id=each, tenant=tenant.name, model="common" if n else "rare") for n, each in enumerate(made)]
    async with redis.pipeline(transaction=False) as pipeline:
        for job in jobs:
            stored = {**job.encode(), "state": "done", "generation": 1, "sequence": 1}
            pipeline.hset(broker.keys.job(job.id), mapping={name: str(value) for name, value in stored.items()})
            pipeline.expire(broker.keys.job(job.id), 600)
            pipeline.zadd(index, {job.id: 0})
        pipeline.expire(index, 600)
        await pipeline.execute()
    yield jobs
    await redis.delete(index, *[broker.keys.job(job.id) for job in jobs])


async def test_a_page_out_of_ten_thousand_jobs_comes_at_once(door: Relay, tenant: Tenant, many: list[Job]) -> None:
    newest = [job.id for job in many[::-1]]
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await tenant.ids(door, limit=100) == newest[:100]
    assert await tenant.ids(door, limit=100, after=newest[8_999]) == newest[9_000:9_100]
    assert await tenant.ids(door, model="rare") == newest[-1:]
    assert await tenant.ids(door, status="failed") == []
    assert loop.time() - began < 2  # measured: 0.1 s, most of it for the two searches
