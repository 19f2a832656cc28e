"""One trace from the client through the queue to the provider: its spans as a collector gets them, over real OTLP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes, messaging_attributes
from opentelemetry.semconv.attributes import error_attributes, http_attributes, server_attributes, url_attributes

from tests.support.badprovider import BadProvider
from tests.support.collector import Collector, Span
from tests.support.oracles import check_quiet
from tests.support.processes import RedisServer
from tests.support.relay import Relay, message, served_by
from tests.support.upstream import Call, answer, in_turn
from tests.support.wait import wait_until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = ("traceparent", f"00-{TRACE}-{PARENT}-01")
STATE = ("tracestate", "vendor=opaque")
PROMPT = "A secret that no span may tell"
OVERLOADED = answer(b'{"type":"error","error":{"type":"overloaded_error","message":"Busy"}}', status=529)
WHOLE = b"""{"id":"msg_1","type":"message","role":"assistant","model":"claude-served","content":[],
"stop_reason":"end_turn",
"usage":{"input_tokens":11,"cache_creation_input_tokens":7,"cache_read_input_tokens":5,"output_tokens":3}}"""
TOML = """
[models]
elsewhere = "openai/gpt-x@"
"""


@pytest.fixture(scope="module")
def _collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture
def collector(_collector: Collector) -> Collector:
    _collector.spans.clear()
    return _collector


@pytest.fixture(scope="module")
async def traced(
    _collector: Collector, _upstream: BadProvider, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Relay]:
    """A relay that sends its spans to the collector."""
    directory = tmp_path_factory.mktemp("traced")
    (directory / "relay.toml").write_text(TOML)
    redis = RedisServer(directory / "redis")
    await redis.start()
    more = {"RELAY_CONFIG": str(directory / "relay.toml"), "RELAY_LEASE_S": "2"}
    async with Relay(directory, redis.url, served_by(_upstream) | _collector.environment | more) as relay:
        yield relay
    await redis.stop()


def chat(model: str, **members: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": PROMPT}], **members}


async def tree(collector: Collector, calls: int = 1) -> tuple[Span, Span, list[Span]]:
    """The spans of the client's trace: the request's, the job's and those of the calls, each under the one before."""
    spans = await collector.find(2 + calls, lambda span: span.trace == TRACE)
    [request] = [span for span in spans if span.kind == "SERVER"]
    [job] = [span for span in spans if span.kind == "CONSUMER"]
    called = [span for span in spans if span.kind == "CLIENT"]
    assert (request.parent, job.parent) == (PARENT, request.id)
    assert {call.parent for call in called} == {job.id}
    assert {span["relay.job.id"] for span in (request, job)} == {request["relay.job.id"]}
    return request, job, called


def parent_of(call: Call) -> tuple[str, str, str]:
    """Trace, span and flags, as the provider was told."""
    _, trace, span, flags = (call.headers.get("traceparent") or "").split("-")
    return trace, span, flags


async def test_a_message_is_one_trace(traced: Relay, upstream: BadProvider, collector: Collector) -> None:
    body = message("claude-x@", PROMPT, stream=True)
    async with await traced.stream(body, headers=[TRACEPARENT, STATE]) as reader:
        await reader.rest()
    request, job, [call] = await tree(collector)
    assert (request.service, request.name) == ("relay-ingress", "POST /v1/messages")
    assert request["http.response.status_code"] == 200
    assert request["relay.job.id"] == reader.job_id
    assert (job.service, job.name) == ("relay-worker", "process relay")
    assert 0 <= job["relay.job.queue_time"] < 60
    assert not (request.failed or job.failed or call.failed)
    assert call.name == "chat claude-x@"
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": "claude-x@",
        "gen_ai.request.stream": True,
        "gen_ai.response.model": "x",
        "gen_ai.response.finish_reasons": ["end_turn"],
        "gen_ai.usage.input_tokens": 23,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 5,
        "gen_ai.usage.cache_creation.input_tokens": 7,
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": upstream.port,
        "relay.outcome": "completed",
        "relay.call.attempt": 1,
    }
    assert {name: call[name] for name in expected} == expected
    assert call["gen_ai.response.time_to_first_chunk"] >= 0
    [sent] = upstream.calls
    assert call["relay.call.id"] == sent.id
    assert parent_of(sent) == (TRACE, call.id, "01")
    assert sent.headers.get("tracestate") == STATE[1]


async def test_a_chat_completion_is_one_trace(traced: Relay, upstream: BadProvider, collector: Collector) -> None:
    await traced.post("/v1/chat/completions", chat("gpt-x@"), [TRACEPARENT])
    request, _, [call] = await tree(collector)
    assert request.name == "POST /v1/chat/completions"
    assert (call.name, call["gen_ai.provider.name"]) == ("chat gpt-x@", "openai")
    assert call["gen_ai.usage.input_tokens"] == 23
    assert call["gen_ai.usage.cache_read.input_tokens"] == 5
    assert "gen_ai.request.stream" not in call.attributes
    assert parent_of(upstream.calls[0])[:2] == (TRACE, call.id)


async def test_a_translated_request_is_told_as_what_its_provider_got(
    traced: Relay, upstream: BadProvider, collector: Collector
) -> None:
    await traced.post("/v1/messages", message("elsewhere", PROMPT), [TRACEPARENT])
    _, _, [call] = await tree(collector)
    assert (call.name, call["gen_ai.provider.name"]) == ("chat gpt-x@", "openai")
    assert parent_of(upstream.calls[0])[:2] == (TRACE, call.id)


async def test_each_try_is_a_span(traced: Relay, upstream: BadProvider, collector: Collector) -> None:
    upstream.script = in_turn(OVERLOADED, answer(WHOLE))
    assert (await traced.post("/v1/messages", message("claude-tried", PROMPT), [TRACEPARENT])).status == 200
    _, job, [failed, went_well] = await tree(collector, calls=2)
    assert not job.failed
    assert failed.failed
    assert (failed["error.type"], failed["http.response.status_code"]) == ("overloaded_error", 529)
    assert not went_well.failed
    assert (went_well["gen_ai.response.id"], went_well["gen_ai.response.model"]) == ("msg_1", "claude-served")
    assert [span["relay.call.attempt"] for span in (failed, went_well)] == [1, 2]
    assert [parent_of(call)[1] for call in upstream.calls] == [failed.id, went_well.id]


async def test_a_failure_is_told_without_the_providers_words(
    traced: Relay, upstream: BadProvider, collector: Collector
) -> None:
    upstream.script = answer(
        b'{"type":"error","error":{"type":"invalid_request_error","message":"%s"}}' % PROMPT.encode(), status=400
    )
    answered = await traced.post("/v1/messages", message("claude-x", PROMPT), [TRACEPARENT])
    assert answered.status == 400
    request, job, [call] = await tree(collector)
    assert not request.failed  # a 4xx is the client's own fault
    assert job.failed
    assert call.failed
    assert job["error.type"] == call["error.type"] == "invalid_request_error"
    assert call["relay.outcome"] == "error"


async def test_a_job_that_is_answered_later(traced: Relay, upstream: BadProvider, collector: Collector) -> None:
    envelope = {"endpoint": "/v1/messages", "body": message("claude-x@", PROMPT)}
    accepted = await traced.post("/v1/jobs", envelope, [TRACEPARENT])
    assert accepted.status == 202
    request, _, [call] = await tree(collector)
    assert (request.name, request["http.route"]) == ("POST /v1/jobs", "/v1/jobs")
    assert request["relay.job.id"] == accepted.json["id"]
    assert parent_of(upstream.calls[0])[:2] == (TRACE, call.id)


async def test_an_item_of_a_batch_links_to_it(traced: Relay, upstream: BadProvider, collector: Collector) -> None:
    items = [{"custom_id": name, "params": message("claude-x@", PROMPT)} for name in ("a", "b")]
    made = await traced.post("/v1/messages/batches", {"requests": items}, [TRACEPARENT])
    assert made.status == 200
    jobs = await collector.find(2, lambda span: span.kind == "CONSUMER")
    [request] = [span for span in collector.spans if span.kind == "SERVER" and span.trace == TRACE]
    assert request.name == "POST /v1/messages/batches"
    assert {job.links for job in jobs} == {(request.id,)}
    assert len({job.trace for job in jobs} | {TRACE}) == 3
    assert {parent_of(call)[0] for call in upstream.calls} == {job.trace for job in jobs}


async def test_a_trace_that_is_not_recorded_goes_on_all_the_same(
    traced: Relay, upstream: BadProvider, collector: Collector
) -> None:
    await traced.post("/v1/messages", message("claude-x@"), [("traceparent", f"00-{TRACE}-{PARENT}-00")])
    await traced.post("/v1/messages", message("claude-x@"), [("traceparent", "00-1-2-01")])
    unrecorded, fresh = map(parent_of, upstream.calls)
    assert (unrecorded[0], unrecorded[2]) == (TRACE, "00")
    assert unrecorded[1] != PARENT
    spans = await collector.find(3, lambda span: span.trace == fresh[0])
    assert not [span for span in spans if span.trace == TRACE]
    assert [span.parent for span in spans if span.kind == "SERVER"] == [""]


async def test_names_are_those_of_the_conventions_and_nothing_else_is_told(
    traced: Relay, upstream: BadProvider, collector: Collector
) -> None:
    async with await traced.stream(message("claude-x@", PROMPT, stream=True), headers=[TRACEPARENT]) as reader:
        await reader.rest()
    request, job, [call] = await tree(collector)
    modules = (gen_ai_attributes, messaging_attributes, error_attributes, http_attributes, server_attributes)
    known = {value for module in (*modules, url_attributes) for value in vars(module).values() if type(value) is str}
    known |= {"network.protocol.version", "user_agent.original"}
    ours = {name for span in (request, job, call) for name in span.attributes if not name.startswith("relay.")}
    assert ours <= known
    await traced.get(f"/v1/jobs/{reader.job_id}/stream?token=A-STREAM-TOKEN")
    await collector.find(1, lambda span: span.name == "GET /v1/jobs/{job_id}/stream")
    told = repr(collector.spans)
    secrets = (PROMPT, traced.key, "a-provider-key", "A-STREAM-TOKEN", f"{call['relay.call.id']}.1")
    assert not [secret for secret in secrets if secret in told]


async def test_a_worker_that_is_killed_leaves_the_trace_to_another_one_that_stops_in_order(
    traced: Relay, upstream: BadProvider, collector: Collector
) -> None:
    """The spans of the one are lost with it; the other goes on in the same trace, and sends its own when it stops."""
    upstream.script = in_turn(silence, answer(WHOLE))
    asking = asyncio.create_task(traced.post("/v1/messages", message("claude-x", PROMPT), [TRACEPARENT]))
    await wait_until(lambda: upstream.calls, what="the provider is called")
    victim = traced.workers.pop()
    await victim.kill()
    await traced.add_worker(OTEL_BSP_SCHEDULE_DELAY="60000")
    assert (await asking).status == 200
    check_quiet(victim)
    await traced.stop_workers()
    request, job, [call] = await tree(collector)
    assert not (request.failed or job.failed or call.failed)
    assert call["relay.call.attempt"] == 2
    assert {parent_of(sent)[0] for sent in upstream.calls} == {TRACE}


async def silence(call: Call) -> None:
    await call.ended.wait()


# -- without OpenTelemetry's settings ------------------------------------------------------------------------------


async def test_the_client_s_own_trace_goes_to_the_provider(relay: Relay, upstream: BadProvider) -> None:
    await relay.post("/v1/messages", message("claude-x@"), [TRACEPARENT, STATE])
    envelope = {"endpoint": "/v1/messages", "body": message("claude-x@")}
    await relay.post("/v1/jobs", envelope, [TRACEPARENT, STATE])
    item = {"custom_id": "a", "params": message("claude-x@")}
    await relay.post("/v1/messages/batches", {"requests": [item]}, [TRACEPARENT, STATE])
    await wait_until(lambda: len(upstream.calls) == 3, what="all three are sent")
    for call in upstream.calls:
        assert [call.headers.all(name) for name in ("traceparent", "tracestate")] == [[TRACEPARENT[1]], [STATE[1]]]


@pytest.mark.parametrize("parent", ["00-1-2-01", f"00-{TRACE}-{'0' * 16}-01", "\xe4"])
async def test_a_malformed_trace_is_ignored(relay: Relay, upstream: BadProvider, parent: str) -> None:
    answered = await relay.post("/v1/messages", message("claude-x@"), [("traceparent", parent), STATE])
    assert answered.status == 200
    assert not {"traceparent", "tracestate"} & {name for name, _ in upstream.calls[0].headers}
