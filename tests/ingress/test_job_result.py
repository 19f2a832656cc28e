"""Results: the provider's answer as its own API gives it, the error as its own API says it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from relay.core.job import CANCELLED, Dialect
from tests.broker.system import Broker
from tests.ingress.hand import STREAM, HandWorker, Work
from tests.support import dialects, http
from tests.support.relay import Relay

SAY: dict[Dialect, dialects.Dialect] = {"anthropic": dialects.Anthropic(), "openai": dialects.OpenAI()}
BOTH = pytest.mark.parametrize("surface", SAY)


async def submit(broker: Broker, hand: HandWorker, **facts: Any) -> Work:
    await broker.submit(**{"tenant": "default", "on_disconnect": "finish", **facts})
    return await hand.take()


async def result(door: Relay, work: Work) -> http.Response:
    return await door.get(f"/v1/jobs/{work.job.id}/result")


async def test_an_answer_that_came_whole_is_given_as_it_came(door: Relay, broker: Broker, hand: HandWorker) -> None:
    work = await submit(broker, hand, stream=False)
    headers = [("content-type", "application/json; x=1"), ("request-id", "req_9"), ("retry-after", "7")]
    body = b'{ "type":"message",  "n": 1e2 }' + b" " * (300 << 10)
    await work.answer(200, body, headers)
    answer = await result(door, work)
    assert (answer.status, answer.body) == (200, body)
    assert answer.headers.get("content-type") == "application/json; x=1"
    assert answer.headers.get("request-id") == "req_9"
    assert answer.headers.get("x-relay-job-id") == work.job.id
    assert "retry-after" not in answer.headers  # it was true then


@BOTH
async def test_an_answer_that_streamed_is_given_whole(
    door: Relay, broker: Broker, hand: HandWorker, surface: Dialect
) -> None:
    work, say = await submit(broker, hand, surface=surface), SAY[surface]
    await work.head(200, [*STREAM, ("x-request-id", "req_8")])
    for told in [*say.opening("c"), *[say.text("c", i) for i in range(1, 30)], *say.closing()]:
        await work.events(told)
    await work.events(say.usage("c", say.counts(29)), say.stop())
    await work.end()
    answer = await result(door, work)
    assert (answer.status, answer.headers.get("content-type")) == (200, "application/json")
    assert answer.headers.get("x-request-id") == "req_8"
    assert "c.29 " in answer.body.decode()
    unstreamed = orjson.loads(say.message("c", 29))
    assert answer.json["usage"] == unstreamed["usage"]
    assert (await result(door, work)).body == answer.body


async def test_what_has_not_ended_has_no_result_yet(door: Relay, broker: Broker, hand: HandWorker) -> None:
    work = await submit(broker, hand)
    answer = await result(door, work)
    assert (answer.status, answer.json["id"], answer.json["status"]) == (202, work.job.id, "in_progress")
    assert answer.headers.get("retry-after")
    await work.answer()


@BOTH
async def test_the_providers_refusal_is_the_result(
    door: Relay, broker: Broker, hand: HandWorker, surface: Dialect
) -> None:
    work = await submit(broker, hand, surface=surface)
    body = SAY[surface].error("rate_limit_error", "Slow down")
    await work.answer(429, body)
    answer = await result(door, work)
    assert (answer.status, answer.body, answer.headers.get("content-type")) == (429, body, "application/json")


@BOTH
@pytest.mark.parametrize("log", ["there", "gone"])
async def test_an_error_of_ours_has_the_form_of_the_surface(
    door: Relay, broker: Broker, hand: HandWorker, redis: Redis, surface: Dialect, log: str
) -> None:
    work = await submit(broker, hand, surface=surface)
    await work.fail("upstream_timeout", "the provider sent no answer for 120 s")
    if log == "gone":
        await redis.delete(broker.keys.log(work.job.id))
    answer = await result(door, work)
    assert answer.status == 504
    assert answer.json["error"]["message"] == "the provider sent no answer for 120 s"
    assert ("request_id" in answer.json) == (surface == "anthropic")


@BOTH
async def test_an_error_in_mid_stream_is_the_result_with_the_status_it_means(
    door: Relay, broker: Broker, hand: HandWorker, surface: Dialect
) -> None:
    work, say = await submit(broker, hand, surface=surface), SAY[surface]
    await work.head()
    await work.events(*say.opening("c"), say.text("c", 1), say.error_event())
    await work.fail("overloaded_error", "Overloaded")
    answer = await result(door, work)
    assert answer.status == {"anthropic": 529, "openai": 503}[surface]
    assert answer.json["error"]["message"] == "Overloaded"


async def test_a_cancelled_job_says_that_it_was(door: Relay, broker: Broker) -> None:
    job = await broker.submit(tenant="default")
    assert (await broker.queue.cancel(job.id, "default")).state == CANCELLED
    answer = await door.get(f"/v1/jobs/{job.id}/result")
    assert (answer.status, answer.json["error"]["details"]["error_code"]) == (499, "cancelled")


async def test_a_result_that_has_expired_is_gone(door: Relay, broker: Broker, hand: HandWorker, redis: Redis) -> None:
    work = await submit(broker, hand, on_disconnect="cancel")
    await work.answer()
    await redis.delete(broker.keys.log(work.job.id))
    answer = await result(door, work)
    assert (answer.status, answer.json["code"]) == (410, "gone")
    assert answer.headers.get("content-type") == "application/problem+json"


async def test_a_stream_that_holds_no_answer_is_the_providers_fault(
    door: Relay, broker: Broker, hand: HandWorker
) -> None:
    work = await submit(broker, hand)
    await work.head()
    await work.count_to(3)
    await work.end()
    answer = await result(door, work)
    assert (answer.status, answer.json["code"]) == (502, "upstream_protocol_error")


async def test_a_status_that_http_does_not_know_is_a_bad_gateway(door: Relay, broker: Broker, hand: HandWorker) -> None:
    work = await submit(broker, hand)
    await work.answer(999, b"{}")
    assert (await result(door, work)).status == 502


async def test_nobody_gets_the_result_of_others(
    door: Relay, broker: Broker, hand: HandWorker, stranger: list[tuple[str, str]]
) -> None:
    work = await submit(broker, hand)
    await work.answer(200, b'{"secret":1}')
    for method, path in (("GET", "result"), ("POST", "replay")):
        answer = await http.request(door.port, method, f"/v1/jobs/{work.job.id}/{path}", stranger)
        assert (answer.status, answer.json["code"]) == (404, "not_found")
