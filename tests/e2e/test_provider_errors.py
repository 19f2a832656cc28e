"""A provider's own errors reach the client as the provider sent them: status, body and headers.

So they do at last; before, the relay asks again where that can help.
"""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic
from redis.asyncio import Redis

from tests.support.badprovider import BadProvider
from tests.support.fixtures import ErrorAnswer, errors, transcript
from tests.support.oracles import check_usage
from tests.support.relay import Relay, message
from tests.support.upstream import answer, replay

MODEL = "claude-sonnet-4-6"
ERRORS = errors("anthropic")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda each: each.name)
async def test_an_error_answer_arrives_as_it_was_sent(
    error: ErrorAnswer, stream: bool, relay: Relay, upstream: BadProvider
) -> None:
    upstream.script = answer(error.body, status=error.status, headers=error.headers)
    answered = await relay.post("/v1/messages", message(MODEL, stream=stream))
    assert answered.status == error.status
    assert answered.body == error.body
    sent = {name: value for name, value in error.headers if name != "date"}  # every server says its own
    assert {name: answered.headers.get(name) for name in sent} == sent
    assert answered.headers.get("x-relay-job-id")


async def failure(client: AsyncAnthropic) -> Any:
    with pytest.raises(anthropic.APIStatusError) as caught:
        await client.messages.create(**message(MODEL))
    error = caught.value
    return type(error), error.status_code, error.body, error.request_id, error.message


@pytest.mark.parametrize("error", ERRORS, ids=lambda each: each.name)
async def test_the_sdk_raises_what_it_raises_without_the_relay(
    error: ErrorAnswer, direct: AsyncAnthropic, relayed: AsyncAnthropic, upstream: BadProvider
) -> None:
    upstream.script = answer(error.body, status=error.status, headers=error.headers)
    through = await failure(relayed)
    assert through == await failure(direct)
    assert through[0].__name__ == error.expected["sdk_class"]


async def test_an_error_event_inside_a_stream_arrives_as_it_was_sent(relay: Relay, upstream: BadProvider) -> None:
    recorded = transcript("anthropic", "error-mid-stream")
    upstream.script = replay(recorded.stream)
    async with await relay.stream(message(MODEL, stream=True)) as reader:
        events = await reader.rest()
    assert reader.received == recorded.stream
    assert events[-1].json["error"]["type"] == "overloaded_error"


@pytest.mark.parametrize(("failures", "status", "kinds"), [(2, 200, 3), (9, 529, 3)])
async def test_a_provider_that_is_overloaded_is_asked_twice_more(
    failures: int, status: int, kinds: int, mortal: Relay, own: Redis, upstream: BadProvider
) -> None:
    await mortal.add_worker()
    answered = await mortal.post("/v1/messages", message(f"claude-x@flaky:{failures}", stream=True))
    job_id = answered.headers.get("x-relay-job-id") or ""
    assert (answered.status, answered.headers.get("x-should-retry")) == (status, None if status == 200 else "false")
    assert len(upstream.calls_of(job_id)) == 3
    await check_usage(own, upstream.ledger, job_id, ["final"] * kinds)
