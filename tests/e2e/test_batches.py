"""Batches as an application makes them: with the official SDKs, and nothing changed but the base URL and the key."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from redis.asyncio import Redis

from relay.broker.api_keys import ApiKeys
from relay.core.batch.items import job_id
from tests.support import http
from tests.support.badprovider import BadProvider
from tests.support.fixtures import ROOT, response
from tests.support.processes import RedisServer
from tests.support.relay import Relay, message, served_by
from tests.support.upstream import answer
from tests.support.wait import wait_until

CLAUDE, GPT = "claude-sonnet-4-6", "gpt-4o-mini"


@pytest.fixture
async def claude(relay: Relay) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=relay.url, api_key=relay.key, max_retries=0) as client:
        yield client


@pytest.fixture
async def gpt(relay: Relay) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{relay.url}/v1", api_key=relay.key, max_retries=0) as client:
        yield client


def asked(name: str, model: str = CLAUDE, **members: Any) -> Any:
    return {"custom_id": name, "params": message(model, **members)}


def line(name: str, model: str = GPT, **members: Any) -> dict[str, Any]:
    body = {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": "Hello"}], **members}
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}


def jsonl(*lines: Any) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in lines)


async def ended(client: AsyncAnthropic, batch_id: str) -> Any:
    async def look() -> Any:
        batch = await client.messages.batches.retrieve(batch_id)
        return batch if batch.processing_status == "ended" else None

    return await wait_until(look, 30, what="the batch has ended", every_s=0.05)


async def over(client: AsyncOpenAI, batch_id: str) -> Any:
    async def look() -> Any:
        batch = await client.batches.retrieve(batch_id)
        return batch if batch.status in ("completed", "failed", "expired", "cancelled") else None

    return await wait_until(look, 30, what="the batch is over", every_s=0.05)


async def results(client: AsyncAnthropic, batch_id: str) -> dict[str, Any]:
    return {each.custom_id: each.result async for each in await client.messages.batches.results(batch_id)}


async def batch_of(client: AsyncOpenAI, *lines: Any) -> Any:
    file = await client.files.create(file=("input.jsonl", jsonl(*lines)), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"of": "the tests"}
    )


async def content(client: AsyncOpenAI, file_id: str) -> dict[str, Any]:
    text = (await client.files.content(file_id)).text
    return {each["custom_id"]: each for each in map(json.loads, text.splitlines())}


# --- Anthropic's


async def test_every_request_of_a_message_batch_gets_its_result(claude: AsyncAnthropic, upstream: BadProvider) -> None:
    names = [f"item-{number}" for number in range(500)]
    batch = await claude.messages.batches.create(requests=[asked(name, max_tokens=3) for name in names])
    assert (batch.processing_status, batch.request_counts.processing) == ("in_progress", 500)
    batch = await ended(claude, batch.id)
    assert (batch.request_counts.succeeded, batch.request_counts.processing) == (500, 0)
    found = await results(claude, batch.id)
    assert set(found) == set(names)
    assert {result.type for result in found.values()} == {"succeeded"}
    for number, name in enumerate(names):  # each answer tells the job whose call it answers
        assert found[name].message.content[0].text.startswith(job_id("0", batch.id, number))
    assert len(upstream.calls) == 500


async def test_a_request_reaches_the_provider_byte_for_byte(
    relay: Relay, claude: AsyncAnthropic, upstream: BadProvider
) -> None:
    upstream.script = answer(response("anthropic", "plain"))
    params = b'{ "max_tokens":1e1,\n"model" :"%b", "messages":[{"role":"user","content":"\\u0041 \xc3\xa9 1e3"}] }'
    params %= CLAUDE.encode()
    big = params.replace(b"1e3", b"x" * 100_000)
    body = b'{"requests" : [\n{"params": %b , "custom_id":"a"},{"custom_id":"b","params":%b}]}' % (params, big)
    created = await relay.post("/v1/messages/batches", body, [("anthropic-beta", "a-feature")])
    assert set(created.json) == set(json.loads((ROOT / "misc" / "anthropic-batch.json").read_bytes()))
    await ended(claude, created.json["id"])
    assert sorted((call.body for call in upstream.calls), key=len) == [params, big]
    assert {call.headers.get("anthropic-beta") for call in upstream.calls} == {"a-feature"}
    text = (await relay.get(f"/v1/messages/batches/{created.json['id']}/results")).body.decode()
    answers = [json.loads(each)["result"]["message"] for each in text.splitlines()]
    assert answers == [json.loads(response("anthropic", "plain"))] * 2


async def test_a_request_that_fails_is_an_error_among_results(claude: AsyncAnthropic, upstream: BadProvider) -> None:
    marked = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}
    requests = [
        asked("good"),
        asked("refused", f"{CLAUDE}@400"),
        asked("nobodys", "mistral-x"),
        asked("wrong", system=[marked] * 5),
        asked("translated", GPT),
    ]
    batch = await ended(claude, (await claude.messages.batches.create(requests=requests)).id)
    found = await results(claude, batch.id)
    assert {name: result.type for name, result in found.items()} == {
        "good": "succeeded",
        "refused": "errored",
        "nobodys": "errored",
        "wrong": "errored",
        "translated": "succeeded",
    }
    assert found["refused"].error.error.type == "api_error"  # the provider's own word
    assert found["nobodys"].error.error.type == "not_found_error"
    assert "Found 5" in found["wrong"].error.error.message
    assert found["translated"].message.role == "assistant"
    assert (batch.request_counts.succeeded, batch.request_counts.errored) == (2, 3)


async def test_a_cancelled_batch_keeps_what_it_has_and_begins_no_more(
    claude: AsyncAnthropic, upstream: BadProvider, relay: Relay
) -> None:
    requests = [asked(f"held-{number}", f"{CLAUDE}@gate_headers") for number in range(3000)]
    batch = await claude.messages.batches.create(requests=requests)
    await wait_until(lambda: len(upstream.calls) >= 20, what="some calls are under way")
    canceling = await claude.messages.batches.cancel(batch.id)
    assert canceling.processing_status == "canceling"
    assert canceling.cancel_initiated_at is not None

    async def settled() -> bool:
        """Nothing waits any more; what runs is held by the provider."""
        jobs = (await relay.get("/v1/jobs?status=queued&limit=1")).json["data"]
        return not jobs

    await wait_until(settled, 20, what="no job waits", every_s=0.1)
    upstream.gate.set()
    counts = (await ended(claude, batch.id)).request_counts
    assert counts.succeeded == len(upstream.calls)
    assert counts.canceled == 3000 - counts.succeeded
    found = await results(claude, batch.id)
    assert len(found) == 3000
    assert [result.type for result in found.values()].count("canceled") == counts.canceled


async def test_batches_are_listed_newest_first_and_forgotten_when_deleted(
    claude: AsyncAnthropic, upstream: BadProvider
) -> None:
    made = [(await claude.messages.batches.create(requests=[asked("a")])).id for _ in range(3)]
    for batch_id in made:
        await ended(claude, batch_id)
    page = await claude.messages.batches.list(limit=2)
    assert [batch.id for batch in page.data] == [made[2], made[1]]
    assert page.has_more
    assert (await page.get_next_page()).data[0].id == made[0]
    back = await claude.messages.batches.list(limit=2, before_id=made[0])
    assert [batch.id for batch in back.data] == [made[2], made[1]]
    raw = await claude.messages.batches.with_raw_response.retrieve(made[1])
    assert raw.headers["x-relay-batch-progress"] == "1/1"
    deleted = await claude.messages.batches.delete(made[1])
    assert (deleted.id, deleted.type) == (made[1], "message_batch_deleted")
    with pytest.raises(anthropic.NotFoundError):
        await claude.messages.batches.retrieve(made[1])
    assert made[1] not in [batch.id async for batch in claude.messages.batches.list()]


# --- OpenAI's


async def test_a_file_becomes_a_batch_and_the_batch_a_file(gpt: AsyncOpenAI, upstream: BadProvider) -> None:
    batch = await batch_of(gpt, line("a"), line("b", CLAUDE), line("c", f"{GPT}@400"), line("d", "mistral-x"))
    assert batch.status == "validating"
    batch = await over(gpt, batch.id)
    assert batch.status == "completed"
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (4, 2, 2)
    assert batch.metadata == {"of": "the tests"}
    good = await content(gpt, batch.output_file_id)
    assert set(good) == {"a", "b"}  # b went to the other provider
    assert {each["response"]["status_code"] for each in good.values()} == {200}
    assert good["b"]["response"]["body"]["object"] == "chat.completion"
    bad = await content(gpt, batch.error_file_id)
    assert {name: each["response"]["status_code"] for name, each in bad.items()} == {"c": 400, "d": 404}
    file = await gpt.files.retrieve(batch.output_file_id)
    assert (file.purpose, file.filename) == ("batch_output", f"{batch.id}_output.jsonl")


async def test_what_is_wrong_with_a_file_is_told_line_by_line_and_nothing_runs(
    gpt: AsyncOpenAI, upstream: BadProvider
) -> None:
    lines = [line("a"), line("a"), line("s", stream=True), line("m") | {"method": "GET"}, line("n", messages=None), 7]
    batch = await over(gpt, (await batch_of(gpt, *lines)).id)
    assert batch.status == "failed"
    assert [(error.line, error.code, error.param) for error in batch.errors.data] == [
        (2, "duplicate_custom_id", "custom_id"),
        (3, "invalid_request", "body.stream"),
        (4, "invalid_method", "method"),
        (5, "invalid_request", "body.messages"),
        (6, "invalid_json_line", None),
    ]
    assert "custom_id 's'" in batch.errors.data[1].message
    assert not upstream.calls


async def test_a_file_is_kept_as_it_came_until_it_is_deleted(gpt: AsyncOpenAI) -> None:
    data = jsonl(*[line(f"é-{number}", prompt="x" * 1000) for number in range(1000)])
    file = await gpt.files.create(file=("in put.jsonl", data), purpose="batch")
    assert (file.bytes, file.filename, file.purpose) == (len(data), "in put.jsonl", "batch")
    assert (await gpt.files.content(file.id)).content == data
    listed = [each.id for each in (await gpt.files.list(purpose="batch", limit=1)).data]
    assert listed == [file.id]
    assert (await gpt.files.delete(file.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await gpt.files.content(file.id)


async def test_a_cancelled_openai_batch(gpt: AsyncOpenAI, upstream: BadProvider) -> None:
    batch = await batch_of(gpt, *[line(f"held-{number}", f"{GPT}@gate_headers") for number in range(100)])
    await wait_until(lambda: upstream.calls, what="a call is under way")
    assert (await gpt.batches.cancel(batch.id)).status == "cancelling"
    upstream.gate.set()
    batch = await over(gpt, batch.id)
    assert (batch.status, batch.request_counts.total) == ("cancelled", 100)
    assert (await gpt.batches.list(limit=1)).data[0].id == batch.id


# --- whatever happens


@pytest.fixture
async def own_database(redis_server: RedisServer) -> AsyncIterator[Redis]:
    url = redis_server.url.removesuffix("/0") + "/7"
    async with Redis.from_url(url, decode_responses=True) as client:
        yield client
        await client.flushdb()


@pytest.fixture
async def fragile(
    redis_server: RedisServer, own_database: Redis, upstream: BadProvider, tmp_path: Path
) -> AsyncIterator[Relay]:
    """A relay on a database of its own; a test starts the processes it needs, and may kill them."""
    url = redis_server.url.removesuffix("/0") + "/7"
    relay = Relay(tmp_path, url, served_by(upstream) | {"RELAY_LEASE_S": "1"})
    yield relay
    await relay.stop()


async def test_a_batch_goes_on_when_the_ingress_that_took_it_dies(
    fragile: Relay, own_database: Redis, upstream: BadProvider
) -> None:
    first = await fragile.add_ingress()
    async with AsyncAnthropic(base_url=fragile.url, api_key=fragile.key, max_retries=0) as client:
        made = await client.messages.batches.create(requests=[asked(f"item-{n}", max_tokens=1) for n in range(500)])
    record = f"relay:{{0}}:batch:{made.id}"
    await wait_until(lambda: own_database.keys("relay:{0}:job:*"), what="the first item is a job", every_s=0)
    await first.kill()
    fragile.ingresses.remove(first)
    assert int(await own_database.hget(record, "fed") or 0) < 500
    await asyncio.gather(fragile.add_ingress(), fragile.add_worker())
    async with AsyncAnthropic(base_url=fragile.url, api_key=fragile.key, max_retries=0) as client:
        batch = await ended(client, made.id)
        found = await results(client, made.id)
    assert batch.request_counts.succeeded == len(found) == 500
    assert len(upstream.calls) == 500  # no request was made twice


async def test_what_no_worker_takes_in_time_expires(fragile: Relay) -> None:
    await fragile.add_ingress(RELAY_BATCH_WINDOW_S="1")
    async with AsyncAnthropic(base_url=fragile.url, api_key=fragile.key, max_retries=0) as client:
        made = await client.messages.batches.create(requests=[asked("a"), asked("b")])
        batch = await ended(client, made.id)
        assert batch.request_counts.expired == 2
        assert {result.type for result in (await results(client, made.id)).values()} == {"expired"}


async def test_a_job_that_redis_has_lost_is_an_error_among_results(fragile: Relay, own_database: Redis) -> None:
    await fragile.add_ingress()
    async with AsyncAnthropic(base_url=fragile.url, api_key=fragile.key, max_retries=0) as client:
        made = await client.messages.batches.create(requests=[asked("a")])
        [job] = await wait_until(lambda: own_database.keys("relay:{0}:job:*[0-9a-f]"), what="it is a job")
        await own_database.delete(job)
        await client.messages.batches.cancel(made.id)  # which has all jobs looked at
        await ended(client, made.id)
        assert "lost" in (await results(client, made.id))["a"].error.error.message


@pytest.fixture
async def other_key(redis: Redis) -> str:
    """The key of another tenant."""
    return (await ApiKeys(redis).create("stranger", "another tenant"))[1]


async def test_another_tenant_sees_nothing_of_it(
    relay: Relay, claude: AsyncAnthropic, gpt: AsyncOpenAI, other_key: str
) -> None:
    mine = await ended(claude, (await claude.messages.batches.create(requests=[asked("a")])).id)
    my_batch = await batch_of(gpt, line("a"))
    async with AsyncAnthropic(base_url=relay.url, api_key=other_key, max_retries=0) as theirs:
        batches = theirs.messages.batches
        for ask in (batches.retrieve(mine.id), batches.cancel(mine.id), batches.delete(mine.id)):
            with pytest.raises(anthropic.NotFoundError):
                await ask
        assert not (await batches.list()).data
    results_of = f"/v1/messages/batches/{mine.id}/results"
    assert (await http.request(relay.port, "GET", results_of, [("x-api-key", other_key)])).status == 404
    async with AsyncOpenAI(base_url=f"{relay.url}/v1", api_key=other_key, max_retries=0) as others:
        for look in (
            others.batches.retrieve(my_batch.id),
            others.batches.cancel(my_batch.id),
            others.files.retrieve(my_batch.input_file_id),
            others.files.content(my_batch.input_file_id),
            others.files.delete(my_batch.input_file_id),
        ):
            with pytest.raises(openai.NotFoundError):
                await look
        with pytest.raises(openai.NotFoundError):
            await others.batches.create(
                input_file_id=my_batch.input_file_id, endpoint="/v1/chat/completions", completion_window="24h"
            )
        assert not (await others.files.list()).data
    await over(gpt, my_batch.id)
