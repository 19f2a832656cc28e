"""The fingerprint of a prompt in the usage record of its call, whichever way the request came in and went out."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from relay.core.batch.items import job_id as item_id
from relay.core.fingerprint import Fingerprint, first_difference, parse
from relay.ingress.inspection import is_big
from tests.support.badprovider import BadProvider
from tests.support.oracles import usage_of
from tests.support.relay import Relay
from tests.support.upstream import answer
from tests.support.wait import wait_until

Json = dict[str, Any]

PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
MARKED, MARKED_1H = ({"cache_control": {"type": "ephemeral"} | ttl} for ttl in ({}, {"ttl": "1h"}))
AUTO = ("x-relay-cache", "auto")

# Words that nothing else in a record holds.
RULES, QUESTION, ANSWER, TOOL = "mumpsimus", "quomodocunquizing", "floccinaucinihilipilification", "borborygmus"


def prompt(surface: str, model: str = "anthropic/m@", *, marked: bool = True, question: str = QUESTION) -> Json:
    """The same on either surface, marked at the end of its rules and of its history."""
    early, late = (MARKED_1H, MARKED) if marked else ({}, {})
    tool = {"name": TOOL}
    rules = [{"type": "text", "text": RULES} | early]
    talk = [
        {"role": "user", "content": [{"type": "text", "text": question}]},
        {"role": "assistant", "content": [{"type": "text", "text": ANSWER} | late]},
        {"role": "user", "content": question},
    ]
    if surface == "anthropic":
        request: Json = {"tools": [tool | {"input_schema": {"type": "object"}}], "system": rules, "messages": talk}
    else:
        messages = [{"role": "system", "content": rules}, *talk]
        request = {"tools": [{"type": "function", "function": tool}], "messages": messages}
    return request | {"model": model, "max_tokens": 5, "stream": True}


BOUNDARIES = {
    "anthropic": "tools.0 system.0:1h messages.0.content.0 messages.1.content.0:5m messages.2",
    "openai": "tools.0 messages.0.content.0:1h messages.1.content.0 messages.2.content.0:5m messages.3",
}
AUTOMATIC = {
    "anthropic": "tools.0:5m system.0:5m messages.0.content.0 messages.1.content.0:5m messages.2",
    "openai": "tools.0:5m messages.0.content.0:5m messages.1.content.0 messages.2.content.0:5m messages.3",
}


def shown(found: Fingerprint) -> str:
    return " ".join(f"{entry.path}:{entry.ttl}".removesuffix(":") for entry in found.entries)


async def record_of(redis: Redis, job_id: str) -> dict[str, str]:
    [record] = await wait_until(lambda: usage_of(redis, job_id), what="the call has its record")
    return record  # type: ignore[no-any-return]


async def asked(relay: Relay, redis: Redis, surface: str, body: Any, *headers: tuple[str, str]) -> Fingerprint:
    """The fingerprint in the record of a call."""
    answered = await relay.post(PATHS[surface], body, headers)
    assert answered.status == 200, answered.body
    return parse((await record_of(redis, answered.headers.get("x-relay-job-id") or ""))["fingerprint"])


@pytest.mark.parametrize("surface", PATHS)
@pytest.mark.parametrize("provider", ["anthropic", "openai", "stripping"])
async def test_a_marked_call_has_one_whoever_answers_it(
    surface: str, provider: str, translating: Relay, upstream: BadProvider, third: Redis
) -> None:
    found = await asked(translating, third, surface, prompt(surface, f"{provider}/m@"))
    assert shown(found) == BOUNDARIES[surface]


@pytest.mark.parametrize("surface", PATHS)
async def test_so_has_one_that_gets_its_breakpoints_here(
    surface: str, translating: Relay, upstream: BadProvider, third: Redis
) -> None:
    body = prompt(surface, marked=False)
    found = await asked(translating, third, surface, body, AUTO)
    assert shown(found) == AUTOMATIC[surface]
    assert found == await asked(translating, third, surface, body | {"model": "anthropic/an-auto-model@"})
    theirs = await asked(translating, third, surface, prompt(surface))
    assert first_difference(found, theirs) is None


@pytest.mark.parametrize("surface", PATHS)
async def test_a_call_without_breakpoints_has_none(
    surface: str, translating: Relay, upstream: BadProvider, third: Redis
) -> None:
    assert await asked(translating, third, surface, prompt(surface, marked=False)) == parse("")


@pytest.mark.parametrize("surface", PATHS)
async def test_no_word_of_a_prompt_is_in_the_record(
    surface: str, translating: Relay, upstream: BadProvider, third: Redis
) -> None:
    answered = await translating.post(PATHS[surface], prompt(surface))
    record = await record_of(third, answered.headers.get("x-relay-job-id") or "")
    assert record["fingerprint"]
    for word in (RULES, QUESTION, ANSWER, TOOL):
        assert word not in str(record)


async def test_two_calls_tell_where_they_differ(translating: Relay, upstream: BadProvider, third: Redis) -> None:
    beta = ("anthropic-beta", "a-feature")
    one = await asked(translating, third, "anthropic", prompt("anthropic"))
    other = await asked(translating, third, "anthropic", prompt("anthropic", question="Another?"), beta)
    difference = first_difference(one, other)
    assert difference
    assert (difference.path, one.headers == other.headers) == ("messages.0.content.0", False)
    assert one.headers == (await asked(translating, third, "anthropic", prompt("anthropic", "openai/m@"))).headers


async def test_a_big_body_has_the_same_as_a_small_one(translating: Relay, upstream: BadProvider, third: Redis) -> None:
    small = orjson.dumps(prompt("anthropic"))
    big = small + b" " * (1 << 20)
    assert (is_big(small, digests=False), is_big(big, digests=False)) == (False, True)
    found = await asked(translating, third, "anthropic", small)
    assert found == await asked(translating, third, "anthropic", big)


async def test_a_job_and_an_item_of_a_batch_have_the_same(
    translating: Relay, upstream: BadProvider, third: Redis
) -> None:
    request = prompt("anthropic") | {"stream": False}
    native = await asked(translating, third, "anthropic", request)
    job = await translating.post("/v1/jobs", {"endpoint": "/v1/messages", "body": request})
    batch = await translating.post("/v1/messages/batches", {"requests": [{"custom_id": "a", "params": request}]})
    for job_id in (job.json["id"], item_id("0", batch.json["id"], 0)):
        assert parse((await record_of(third, job_id))["fingerprint"]) == native


async def test_a_replayed_job_keeps_the_breakpoints_it_had(
    translating: Relay, upstream: BadProvider, third: Redis
) -> None:
    upstream.script = answer(b'{"error": {"type": "invalid_request_error", "message": "no"}}', status=400)
    request = prompt("anthropic", marked=False) | {"stream": False}
    job = (await translating.post("/v1/jobs", {"endpoint": "/v1/messages", "body": request, "cache": "auto"})).json
    first = await record_of(third, job["id"])
    again = await translating.post(f"/v1/jobs/{job['id']}/replay", b"")
    assert (await record_of(third, again.json["id"]))["fingerprint"] == first["fingerprint"] != ""
