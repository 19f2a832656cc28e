"""Submitting to come back later: by an envelope, by a wish on a native call, again by a key, again by a replay."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from relay.broker.api_keys import ApiKeys
from tests.broker.system import Broker, event
from tests.ingress.conftest import ENVIRONMENT
from tests.ingress.hand import HandWorker
from tests.support import http
from tests.support.relay import Relay, message

MODEL = "claude-sonnet-4-6"
ASYNC = [("prefer", "respond-async")]
# Spelt as no serializer would: what arrives must be these very bytes.
REQUEST = b'{ "model":"claude-sonnet-4-6" ,\n "messages":[], "max_tokens":1e1, "x":"\\u00e9\xc3\xa9}" }'


def envelope(request: bytes = REQUEST, endpoint: str = "/v1/messages", **options: Any) -> bytes:
    return orjson.dumps({"endpoint": endpoint, **options})[:-1] + b',\n"body" : %b }' % request


def key(text: str) -> list[tuple[str, str]]:
    return [("idempotency-key", text)]


async def submitted(door: Relay, raw: bytes, headers: list[tuple[str, str]] | None = None) -> dict[str, Any]:
    answer = await door.post("/v1/jobs", raw, headers or [])
    assert answer.status == 202, answer
    found: dict[str, Any] = answer.json
    return found


# -- two ways in ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "surface", "name"),
    [
        ("/v1/messages", "anthropic", "messages"),
        ("/messages", "anthropic", "messages"),
        ("/v1/messages/count_tokens", "anthropic", "count_tokens"),
        ("/v1/chat/completions", "openai", "chat_completions"),
        ("/chat/completions", "openai", "chat_completions"),
    ],
)
async def test_the_request_in_an_envelope_reaches_the_worker_byte_for_byte(
    door: Relay, hand: HandWorker, endpoint: str, surface: str, name: str
) -> None:
    model = b"gpt-4o" if surface == "openai" else MODEL.encode()
    request = REQUEST.replace(MODEL.encode(), model)
    shown = await submitted(door, envelope(request, endpoint))
    work = await hand.take()
    assert work.body == request
    assert (work.job.id, work.job.surface, work.job.endpoint) == (shown["id"], surface, name)
    assert work.job.headers == {"anthropic-version": "2023-06-01"}
    await work.answer()


@pytest.mark.parametrize("request_bytes", [100 << 10, 3 << 20], ids=["looked at here", "looked at elsewhere"])
async def test_a_large_request_in_an_envelope_is_kept_byte_for_byte(
    door: Relay, broker: Broker, hand: HandWorker, request_bytes: int
) -> None:
    filler = orjson.dumps([["é", n] for n in range(request_bytes // 12)])
    request = b'{"model":"claude-sonnet-4-6","messages":[], "x" :%b}' % filler
    await submitted(door, envelope(request))
    work = await hand.take()
    assert await broker.queue.body(work.job) == request
    await work.answer()


async def test_what_is_accepted_is_shown_with_the_way_to_it(door: Relay, hand: HandWorker) -> None:
    answer = await door.post("/v1/jobs", envelope(metadata={"run": "7"}, priority="low", expires_in=60))
    shown = answer.json
    assert (answer.status, answer.headers.get("location")) == (202, f"/v1/jobs/{shown['id']}")
    assert answer.headers.get("x-relay-job-id") == shown["id"]
    assert (shown["status"], shown["metadata"], shown["priority"]) == ("queued", {"run": "7"}, "low")
    assert shown["on_disconnect"] == "finish"
    assert shown["timings"]["expires_at_ms"] == shown["timings"]["created_ms"] + 60_000
    assert await door.job(shown["id"]) == shown
    assert shown["links"] == {
        "self": f"/v1/jobs/{shown['id']}",
        **{name: f"/v1/jobs/{shown['id']}/{name}" for name in ("stream", "result", "cancel")},
    }
    await (await hand.take()).answer()


@pytest.mark.parametrize("path", ["/v1/messages", "/messages/count_tokens", "/v1/chat/completions"])
async def test_a_native_call_can_be_answered_later(door: Relay, hand: HandWorker, path: str) -> None:
    request = message("gpt-4o" if "chat" in path else MODEL)
    answer = await door.post(path, request, ASYNC)
    assert (answer.status, answer.headers.get("preference-applied")) == (202, "respond-async")
    assert answer.headers.get("location") == f"/v1/jobs/{answer.json['id']}"
    work = await hand.take()
    assert (work.job.id, work.job.on_disconnect) == (answer.json["id"], "finish")
    assert orjson.loads(work.body) == request
    await work.answer()


async def test_an_error_of_a_native_call_for_later_is_native(door: Relay) -> None:
    answer = await door.post("/v1/messages", b"{}", ASYNC)
    assert (answer.status, answer.json["type"]) == (400, "error")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], "cancel"),
        ([("x-relay-on-disconnect", "finish")], "finish"),
        (key("on-disconnect-1"), "finish"),
        ([*key("on-disconnect-2"), ("x-relay-on-disconnect", "cancel")], "cancel"),
        ([*ASYNC, ("x-relay-on-disconnect", "cancel")], "cancel"),
    ],
)
async def test_what_becomes_of_a_call_whose_client_leaves(
    door: Relay, hand: HandWorker, headers: list[tuple[str, str]], expected: str
) -> None:
    call = asyncio.create_task(door.post("/v1/messages", message(MODEL), headers))
    work = await hand.take()
    assert work.job.on_disconnect == expected
    await work.answer()
    await call


async def test_a_key_may_say_what_becomes_of_its_calls(door: Relay, hand: HandWorker, redis: Redis) -> None:
    _, patient = await ApiKeys(redis).create("patient", "default", on_disconnect="finish")
    for headers, expected in (([], "finish"), ([("x-relay-on-disconnect", "cancel")], "cancel")):
        lines = [("x-api-key", patient), ("content-type", "application/json"), *headers]
        asked = http.request(door.port, "POST", "/v1/messages", lines, orjson.dumps(message(MODEL)))
        call = asyncio.create_task(asked)
        work = await hand.take()
        assert work.job.on_disconnect == expected
        await work.answer()
        await call


async def test_the_cache_of_an_envelope_is_that_of_the_header(door: Relay, hand: HandWorker) -> None:
    await submitted(door, envelope(cache="auto"))
    work = await hand.take()
    assert work.job.auto_cache
    await work.answer()


@pytest.mark.parametrize(
    ("raw", "headers", "status", "code", "said"),
    [
        (b"", [], 400, "invalid_request", "empty"),
        (b"[]", [], 400, "invalid_request", "JSON object"),
        (b'{"body":{}}', [], 400, "invalid_request", "endpoint"),
        (b'{"endpoint":"/v1/messages"}', [], 400, "invalid_request", "body"),
        (b'{"endpoint":"/v1/messages","body":{},"size":1}', [], 400, "invalid_request", "size"),
        (b'{"endpoint":"/v1/messages","body":{"messages":[]}}', [], 400, "invalid_request", "model"),
        (b'{"endpoint":"/v1/messages","body":{"model":"mistral","messages":[]}}', [], 404, "not_found", "mistral"),
        (b'{"endpoint":"/v1/messages","body":{},"metadata":{"\\ud800":""}}', [], 400, "invalid_request", "Unicode"),
        (envelope(run_at="soon"), [], 400, "invalid_request", "run_at"),
        (envelope(), key("a" * 256), 400, "invalid_request", "Idempotency-Key"),
        (envelope(), [("content-encoding", "gzip")], 415, "unsupported_media_type", "gzip"),
        (b" " * (4 << 20) + envelope(), [], 413, "too_large", "limit"),
    ],
)
@pytest.mark.usefixtures("refused")
async def test_what_is_wrong_with_an_envelope_is_a_problem_document(
    door: Relay, raw: bytes, headers: list[tuple[str, str]], status: int, code: str, said: str
) -> None:
    answer = await door.post("/v1/jobs", raw, headers)
    assert (answer.status, answer.json["code"]) == (status, code)
    assert said in answer.json["detail"]
    assert answer.headers.get("content-type") == "application/problem+json"


@pytest.mark.usefixtures("refused")
async def test_nobody_without_a_key_submits(door: Relay) -> None:
    answer = await http.request(door.port, "POST", "/v1/jobs", [("content-type", "application/json")], envelope())
    assert (answer.status, answer.json["code"]) == (401, "unauthenticated")


async def test_a_full_queue_says_when_to_come_back(door: Relay, broker: Broker) -> None:
    limit = int(ENVIRONMENT["RELAY_QUEUE_LIMIT"])
    jobs = [await submitted(door, envelope()) for _ in range(limit)]
    answer = await door.post("/v1/jobs", envelope())
    assert (answer.status, answer.json["code"]) == (429, "too_many_requests")
    assert answer.headers.get("retry-after")
    for job in jobs:
        await broker.queue.cancel(job["id"], "default")


# -- for later, and not too late -----------------------------------------------------------------------------------


async def test_a_job_runs_at_its_time_and_not_before(door: Relay, hand: HandWorker, redis: Redis) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    shown = await submitted(door, envelope(run_at=tomorrow))
    job_id = shown["id"]
    assert (shown["status"], shown["timings"]["run_at_ms"] > shown["timings"]["created_ms"]) == ("queued", True)
    assert await redis.llen("rq:queue:relay") == 0
    await redis.zadd("relay:{0}:timers", {job_id: 1})  # a day later
    work = await hand.take()
    assert work.job.id == job_id
    await work.answer()


async def test_a_job_that_expires_says_so_everywhere(door: Relay) -> None:
    """There is no worker: the ingress itself sees to it."""
    job_id = (await submitted(door, envelope(expires_in=1)))["id"]
    ended = await door.get(f"/v1/jobs/{job_id}", [("prefer", "wait=20")])
    assert (ended.json["status"], ended.json["error"]["code"]) == ("failed", "expired")
    result = await door.get(f"/v1/jobs/{job_id}/result")
    assert (result.status, result.json["error"]["type"]) == (504, "timeout_error")
    async with await door.events(job_id) as reader:
        [told] = await reader.rest()
    assert told.name == "error"


# -- once for each key ---------------------------------------------------------------------------------------------


async def test_of_fifty_submissions_with_one_key_one_is_run(door: Relay, hand: HandWorker, redis: Redis) -> None:
    answers = await asyncio.gather(*[door.post("/v1/jobs", envelope(), key("race")) for _ in range(50)])
    assert {answer.status for answer in answers} == {202}
    assert len({answer.json["id"] for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    await (await hand.take()).answer()
    assert await redis.llen("rq:queue:relay") == 0


async def test_a_second_streaming_call_joins_the_running_stream_from_its_start(door: Relay, hand: HandWorker) -> None:
    request = message(MODEL, stream=True)
    first = asyncio.create_task(door.stream(request, headers=key("join")))
    work = await hand.take()
    await work.head()
    await work.count_to(2)
    async with await first as one, await door.stream(request, headers=key("join")) as other:
        assert other.job_id == one.job_id == work.job.id
        assert other.headers.get("idempotent-replayed") == "true"
        assert [told.json["n"] for told in await other.take(2)] == [1, 2]
        await work.count_to(4)
        await work.end()
        assert [told.json["n"] for told in await other.rest()] == [3, 4]
        await one.rest()
        assert one.received == other.received == b"".join(map(event, range(1, 5)))


async def test_a_call_that_is_sent_again_after_its_end_has_the_same_answer(door: Relay, hand: HandWorker) -> None:
    first = asyncio.create_task(door.post("/v1/messages", message(MODEL), key("again")))
    await (await hand.take()).answer(200, b'{"type":"message","text":"once"}')
    again = await door.post("/v1/messages", message(MODEL), key("again"))
    assert (again.status, again.body) == ((await first).status, (await first).body)
    assert again.headers.get("x-relay-job-id") == (await first).headers.get("x-relay-job-id")


async def test_a_native_call_joins_the_job_of_an_envelope(door: Relay, hand: HandWorker) -> None:
    shown = await submitted(door, envelope(), key("both"))
    call = asyncio.create_task(door.post("/v1/messages", REQUEST, key("both")))
    await (await hand.take()).answer(200, b'{"type":"message"}')
    assert (await call).headers.get("x-relay-job-id") == shown["id"]


@pytest.mark.parametrize(
    "other",
    [
        envelope(REQUEST.replace(b"1e1", b"10")),
        envelope(endpoint="/v1/messages/count_tokens"),
        envelope(metadata={"run": "2"}),
        envelope(run_at="2025-01-01T00:00:00Z", expires_in=5),
    ],
    ids=["another body", "another endpoint", "other metadata", "another time"],
)
async def test_another_request_with_the_same_key_is_refused(door: Relay, hand: HandWorker, other: bytes) -> None:
    name = key(other.hex()[-255:])
    first = await submitted(door, envelope(), name)
    answer = await door.post("/v1/jobs", other, name)
    assert (answer.status, answer.json["code"], answer.json["param"]) == (
        422,
        "unprocessable_entity",
        "Idempotency-Key",
    )
    assert first["id"] in answer.json["detail"]
    await (await hand.take()).answer()


async def test_another_native_call_with_the_same_key_is_refused_in_its_own_form(door: Relay, hand: HandWorker) -> None:
    await submitted(door, envelope(), key("native"))
    answer = await door.post("/v1/messages", message(MODEL), key("native"))
    assert (answer.status, answer.json["error"]["type"]) == (422, "invalid_request_error")
    answer = await door.post("/v1/chat/completions", message("gpt-4o"), key("native"))
    assert (answer.status, answer.json["error"]["code"]) == (422, "unprocessable_entity")
    await (await hand.take()).answer()


async def test_tenants_may_use_the_same_key(door: Relay, stranger: list[tuple[str, str]], hand: HandWorker) -> None:
    own = await submitted(door, envelope(), key("shared"))
    lines = [*stranger, ("content-type", "application/json"), *key("shared")]
    theirs = await http.request(door.port, "POST", "/v1/jobs", lines, envelope())
    assert (theirs.status, theirs.json["id"] != own["id"]) == (202, True)
    for _ in range(2):
        await (await hand.take()).answer()


# -- once more -----------------------------------------------------------------------------------------------------


async def test_a_failed_job_is_run_again_with_the_same_bytes(door: Relay, hand: HandWorker) -> None:
    old = await submitted(door, envelope(metadata={"run": "1"}, priority="high", cache="auto"))
    await (await hand.take()).fail("upstream_timeout", "the provider sent no answer")
    answer = await door.post(f"/v1/jobs/{old['id']}/replay", b"")
    assert answer.status == 202
    new = answer.json
    assert answer.headers.get("location") == f"/v1/jobs/{new['id']}" != f"/v1/jobs/{old['id']}"
    assert (new["replay_of"], new["metadata"], new["priority"]) == (old["id"], {"run": "1"}, "high")
    work = await hand.take()
    assert (work.job.id, work.body) == (new["id"], REQUEST)
    assert (work.job.headers, work.job.auto_cache) == ({"anthropic-version": "2023-06-01"}, True)
    await work.answer()
    assert (await door.job(old["id"]))["status"] == "failed"


async def test_a_replay_that_is_asked_for_twice_with_one_key_is_one_job(door: Relay, hand: HandWorker) -> None:
    old = await submitted(door, envelope())
    await (await hand.take()).fail("upstream_timeout", "the provider sent no answer")
    answers = [await door.post(f"/v1/jobs/{old['id']}/replay", b"", key("replay")) for _ in range(2)]
    assert answers[0].json["id"] == answers[1].json["id"]
    await (await hand.take()).answer()


async def test_only_what_has_failed_is_run_again(door: Relay, hand: HandWorker) -> None:
    job = await submitted(door, envelope())
    path = f"/v1/jobs/{job['id']}/replay"
    assert (await door.post(path, b"")).json["code"] == "conflict"
    await (await hand.take()).answer()
    answer = await door.post(path, b"")
    assert (answer.status, answer.json["code"]) == (409, "conflict")
    assert "completed" in answer.json["detail"]


async def test_a_failed_job_whose_request_is_gone_cannot_be_run_again(
    door: Relay, hand: HandWorker, redis: Redis
) -> None:
    job = await submitted(door, envelope())
    await (await hand.take()).fail("upstream_timeout", "the provider sent no answer")
    await redis.delete(f"relay:{{0}}:job:{job['id']}:body")
    answer = await door.post(f"/v1/jobs/{job['id']}/replay", b"")
    assert (answer.status, answer.json["code"]) == (410, "gone")
