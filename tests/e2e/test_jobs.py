"""Jobs through the whole relay: submitted, left, and come back to."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from tests.support import dialects, http
from tests.support.badprovider import BadProvider
from tests.support.processes import RedisServer
from tests.support.relay import Relay, message, served_by
from tests.support.wait import wait_until

CLAUDE, GPT = "claude-sonnet-4-6", "gpt-4o"
WAIT = [("prefer", "wait=30")]


def envelope(request: bytes, endpoint: str = "/v1/messages", **options: Any) -> bytes:
    return orjson.dumps({"endpoint": endpoint, **options})[:-1] + b',"body": %b\n}' % request


async def submit(relay: Relay, raw: bytes, headers: list[tuple[str, str]] | None = None) -> str:
    answer = await relay.post("/v1/jobs", raw, headers or [])
    assert answer.status == 202, answer
    job_id: str = answer.json["id"]
    return job_id


async def result(relay: Relay, job_id: str) -> http.Response:
    return await relay.get(f"/v1/jobs/{job_id}/result", WAIT)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "unstreamed"])
@pytest.mark.parametrize(
    ("endpoint", "model", "say"),
    [("/v1/messages", CLAUDE, dialects.Anthropic()), ("/v1/chat/completions", GPT, dialects.OpenAI())],
    ids=["anthropic", "openai"],
)
async def test_an_answer_is_the_same_however_the_provider_was_asked(
    relay: Relay, upstream: BadProvider, endpoint: str, model: str, say: dialects.Dialect, stream: bool
) -> None:
    asked = {"stream_options": {"include_usage": True}} if stream and model == GPT else {}
    request = orjson.dumps(message(model, "é", stream=stream, **asked)).replace(b":", b" :\t")
    job_id = await submit(relay, envelope(request, endpoint))
    answer = await result(relay, job_id)
    assert (answer.status, answer.headers.get("content-type")) == (200, "application/json")
    [call] = upstream.calls
    assert call.body == request
    assert text_of(answer.json) == dialects.words(call.id, 20)
    assert answer.json["usage"] == orjson.loads(say.message(call.id, 20))["usage"]


def text_of(answer: dict[str, Any]) -> str:
    text: str = answer["content"][0]["text"] if "content" in answer else answer["choices"][0]["message"]["content"]
    return text


async def test_of_fifty_submissions_at_once_the_provider_sees_one(relay: Relay, upstream: BadProvider) -> None:
    """Half of them by envelope, half as native calls: all are one job, and all have its one answer."""
    request, key = orjson.dumps(message(CLAUDE)), [("idempotency-key", f"race {time.time_ns()}")]
    later = [relay.post("/v1/jobs", envelope(request), key) for _ in range(25)]
    now = [relay.post("/v1/messages", request, key) for _ in range(25)]
    answers = await asyncio.gather(*later, *now)
    assert {answer.status for answer in answers[:25]} == {202}
    assert {answer.status for answer in answers[25:]} == {200}
    [job_id] = {answer.headers.get("x-relay-job-id") or "" for answer in answers}
    assert len({answer.body for answer in answers[25:]}) == 1
    assert len(upstream.calls_of(job_id)) == len(upstream.calls) == 1


async def test_fifty_readers_with_one_key_share_one_stream(relay: Relay, upstream: BadProvider) -> None:
    key = [("idempotency-key", f"readers {time.time_ns()}")]
    readers = await asyncio.gather(
        *[relay.stream(message(f"{CLAUDE}@slow:2", stream=True), headers=key) for _ in range(50)]
    )
    for reader in readers:
        await reader.rest()
        await reader.close()
    assert len({reader.received for reader in readers}) == 1
    assert readers[0].received.endswith(dialects.Anthropic().stop())
    assert len(upstream.calls) == 1


async def test_a_job_is_called_at_its_time(relay: Relay, upstream: BadProvider) -> None:
    run_at = datetime.now(UTC) + timedelta(seconds=1.5)
    job_id = await submit(relay, envelope(orjson.dumps(message(CLAUDE)), run_at=run_at.isoformat()))
    assert (await result(relay, job_id)).status == 200
    late_ms = (await relay.job(job_id))["timings"]["claimed_ms"] - run_at.timestamp() * 1000
    assert 0 <= late_ms < 1500  # measured: 2 ms; a busy machine is no reason to fail


async def test_a_job_goes_on_when_nobody_listens(relay: Relay, upstream: BadProvider) -> None:
    headers = [("prefer", "respond-async")]
    accepted = await relay.post("/v1/messages", message(f"{CLAUDE}@slow:20", stream=True), headers)
    job_id = accepted.json["id"]
    async with await relay.events(job_id) as reader:
        await reader.take(3)
    answer = await result(relay, job_id)
    assert text_of(answer.json) == dialects.words(upstream.calls[0].id, 20)
    async with await relay.events(job_id) as reader:
        assert (await reader.rest())[-1].name == "message_stop"


async def test_a_failed_job_is_called_again_with_the_same_bytes(relay: Relay, upstream: BadProvider) -> None:
    request = orjson.dumps(message(f"{CLAUDE}@error_mid", stream=True)).replace(b",", b" ,")
    old = await submit(relay, envelope(request))
    refused = await result(relay, old)
    assert (refused.status, refused.json["error"]["type"]) == (529, "overloaded_error")
    again = await relay.post(f"/v1/jobs/{old}/replay", b"")
    assert (again.status, again.json["replay_of"]) == (202, old)
    assert (await result(relay, again.json["id"])).status == 529
    assert {call.body for call in upstream.calls} == {request}
    assert len(upstream.calls_of(old)) == len(upstream.calls_of(again.json["id"])) == 1


async def test_results_outlive_the_events_they_were_made_of(
    upstream: BadProvider, own_redis: RedisServer, own: Redis, tmp_path: Path
) -> None:
    environment = served_by(upstream) | {"RELAY_LOG_TTL_S": "2", "RELAY_PARTITION": "brief", "RELAY_QUEUE": "brief"}
    async with Relay(tmp_path, own_redis.url, environment) as brief:
        streamed = await submit(brief, envelope(orjson.dumps(message(CLAUDE, stream=True))))
        whole = await submit(brief, envelope(orjson.dumps(message(CLAUDE))))
        refused = await submit(brief, envelope(orjson.dumps(message(f"{CLAUDE}@400"))))
        for job_id in (streamed, whole, refused):
            await brief.get(f"/v1/jobs/{job_id}", WAIT)

        async def log_is_gone() -> bool:
            return not await own.exists(f"relay:{{brief}}:job:{streamed}:log")

        await wait_until(log_is_gone, what="the log has expired")
        first, second = await result(brief, streamed), await result(brief, whole)
        assert (first.status, second.status) == (200, 200)
        assert first.json["usage"] == second.json["usage"]
        assert (await result(brief, refused)).status == 400
        assert (await brief.get(f"/v1/jobs/{streamed}/stream")).status == 410
