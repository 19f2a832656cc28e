"""A stream token shows one job and its stream, for a while, and does nothing else."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest
from redis.asyncio import Redis

from relay.core.job import Job
from relay.ingress.jobs.stream_tokens import LEEWAY_S, TTL_S, TTL_S_MAX
from tests.broker.system import Broker
from tests.ingress.hand import HandWorker
from tests.support import http
from tests.support.relay import Relay
from tests.support.sse import SseReader


@pytest.fixture
async def job(broker: Broker) -> Job:
    return await broker.submit(tenant="default")


async def ask(door: Relay, job: Job, body: bytes = b"{}") -> http.Response:
    return await http.request(door.port, "POST", f"/v1/jobs/{job.id}/stream_tokens", door.auth, body)


async def show(door: Relay, job: Job, token: str) -> http.Response:
    return await http.request(door.port, "GET", f"/v1/jobs/{job.id}?token={token}")


async def signed(door: Relay, job: Job, redis: Redis, broker: Broker, **changes: Any) -> str:
    """A token like the relay's own, with other claims."""
    token = (await ask(door, job)).json["token"]
    claims = jwt.decode(token, options={"verify_signature": False}) | changes
    claims = {name: value for name, value in claims.items() if value is not None}
    secret = await redis.get(broker.keys.stream_secret)
    return jwt.encode(claims, secret, "HS256")


async def test_its_url_is_all_that_event_source_needs(door: Relay, hand: HandWorker, job: Job) -> None:
    made = await ask(door, job)
    assert (made.status, made.headers.get("cache-control")) == (200, "no-store")
    work = await hand.take()
    await work.head()
    await work.count_to(3)
    await work.end()
    async with await SseReader.open(door.port, made.json["url"]) as reader:
        assert [event.json["n"] for event in await reader.rest()] == [1, 2, 3]
    async with await SseReader.open(door.port, made.json["url"], last_event_id=work.cursor(3)) as reader:
        assert reader.status == 204


async def test_it_shows_the_job(door: Relay, job: Job) -> None:
    made = (await ask(door, job)).json
    shown = await show(door, job, made["token"])
    assert (shown.status, shown.json["id"]) == (200, job.id)


async def test_it_ends_when_it_was_told_to(door: Relay, job: Job) -> None:
    for body, ttl_s in ((b"", TTL_S), (b"{}", TTL_S), (b'{"ttl_s": 60}', 60)):
        made = await ask(door, job, body)
        assert abs(made.json["expires_at"] - time.time() - ttl_s) < 5


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b'{"ttl_s": 0}', "ttl_s"),
        (b'{"ttl_s": %d}' % (TTL_S_MAX + 1), "ttl_s"),
        (b'{"ttl_s": "60"}', "ttl_s"),
        (b'{"ttl": 60}', "ttl"),
        (b"[]", "body"),
        (b"{", "body"),
    ],
)
async def test_a_wish_that_makes_no_sense(door: Relay, job: Job, body: bytes, named: str) -> None:
    refused = await ask(door, job, body)
    assert (refused.status, refused.json["param"]) == (400, named)


async def test_a_wish_without_end(door: Relay, job: Job) -> None:
    assert (await ask(door, job, b" " * 5000)).status == 413


async def test_it_is_for_nothing_else(door: Relay, job: Job) -> None:
    token = (await ask(door, job)).json["token"]
    for method, path in (
        ("POST", f"/v1/jobs/{job.id}/cancel"),
        ("POST", f"/v1/jobs/{job.id}/stream_tokens"),
        ("GET", f"/v1/jobs/{job.id}/result"),
        ("GET", "/v1/jobs"),
    ):
        assert (await http.request(door.port, method, f"{path}?token={token}")).status == 401, path
    assert (await door.job(job.id))["status"] == "queued"


async def test_it_is_for_no_other_job(door: Relay, broker: Broker, job: Job) -> None:
    other = await broker.submit(tenant="default")
    refused = await show(door, other, (await ask(door, job)).json["token"])
    assert (refused.status, refused.json["param"]) == (401, "token")
    assert other.id in refused.json["detail"]


async def test_clocks_may_differ_a_little_and_no_more(door: Relay, broker: Broker, redis: Redis, job: Job) -> None:
    now = int(time.time())
    for changes, status in (
        ({"exp": now - LEEWAY_S + 10}, 200),
        ({"exp": now - LEEWAY_S - 1}, 401),
        ({"iat": now + LEEWAY_S - 10}, 200),
        ({"iat": now + LEEWAY_S + 10}, 401),
    ):
        assert (await show(door, job, await signed(door, job, redis, broker, **changes))).status == status, changes
    expired = await show(door, job, await signed(door, job, redis, broker, exp=now - 60))
    assert "has expired" in expired.json["detail"]


@pytest.mark.parametrize("claim", ["aud", "exp", "iat", "sub", "tenant"])
async def test_it_says_everything_it_must(door: Relay, broker: Broker, redis: Redis, job: Job, claim: str) -> None:
    token = await signed(door, job, redis, broker, **{claim: None})
    assert (await show(door, job, token)).status == 401


async def test_another_tenants_name_in_it_finds_nothing(door: Relay, broker: Broker, redis: Redis, job: Job) -> None:
    assert (await show(door, job, await signed(door, job, redis, broker, tenant="another"))).status == 404


async def test_what_is_no_token(door: Relay, job: Job) -> None:
    token = (await ask(door, job)).json["token"]
    head, claims, signature = token.split(".")
    unsigned = jwt.encode(jwt.decode(token, options={"verify_signature": False}), None, "none")
    for wrong in ("", "x", "a.b.c", f"{head}.{claims}.", f"{head}.{claims}.{signature[::-1]}", unsigned, "a" * 9000):
        refused = await show(door, job, wrong)
        assert (refused.status, refused.json["code"]) == (401, "unauthenticated"), wrong
        assert len(wrong) < 2 or wrong not in refused.json["detail"]


async def test_all_tokens_end_with_the_secret_and_new_ones_work(
    door: Relay, broker: Broker, redis: Redis, job: Job
) -> None:
    old = (await ask(door, job)).json["token"]
    await redis.delete(broker.keys.stream_secret)
    assert (await show(door, job, old)).status == 401
    new = (await ask(door, job)).json["token"]
    assert [(await show(door, job, token)).status for token in (old, new)] == [401, 200]


async def test_it_takes_a_key_that_may_read_the_job(door: Relay, broker: Broker) -> None:
    foreign = await broker.submit(tenant="another")
    assert (await ask(door, foreign)).status == 404
    path = f"/v1/jobs/{foreign.id}/stream_tokens"
    assert (await http.request(door.port, "POST", path, [], b"{}")).status == 401


async def test_no_token_is_written_to_the_log(door: Relay, job: Job) -> None:
    token = (await ask(door, job)).json["token"]
    await show(door, job, token)
    await show(door, job, token + "x")
    assert token not in door.ingresses[0].output
