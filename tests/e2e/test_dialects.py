"""Every surface to every provider, through a running relay: answers, errors, usage and requests on the way between.

What a translation makes of each thing is tested in ``tests/core/translate``; here it must arrive.
"""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.core.anthropic import AnthropicMeter
from relay.core.openai import OpenAIMeter
from relay.core.translate import answer_to_anthropic, answer_to_openai
from relay.core.translate.request_to_anthropic import AnthropicOptions, to_anthropic
from relay.core.translate.request_to_openai import OpenAIOptions, to_openai
from relay.core.translate.spelling import encode
from tests.core.translate import playing
from tests.core.translate.playing import CREATED
from tests.core.translate.test_requests import HOSTILE, KEYS, MESSAGES
from tests.support.badprovider import BadProvider
from tests.support.fixtures import ROOT, ErrorAnswer, Transcript, errors, read_json, response, transcripts
from tests.support.http import Response
from tests.support.relay import Relay, message
from tests.support.sse import parse
from tests.support.upstream import JSON, answer, replay

PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
MODELS = {"anthropic": "anthropic/claude-x", "openai": "openai/gpt-x"}
ANTHROPIC = transcripts("anthropic")
# The Responses API is no surface of the relay's.
OPENAI = [each for each in transcripts("openai") if not each.name.startswith("responses")]
PAIRS = {path.stem: read_json(path) for path in sorted((ROOT / "translate" / "streams").glob("*.json"))}
CUTS = [3, 64, 10**9]

HELLO = [{"role": "user", "content": "Hello"}]
ASKED = {"include_usage": True}


def chat(model: str = MODELS["anthropic"], **members: Any) -> dict[str, Any]:
    return {"model": model, "messages": HELLO, "max_tokens": 20, **members}


async def ask(relay: Relay, surface: str, body: Any, headers: Any = ()) -> Response:
    return await relay.post(PATHS[surface], body, headers)


def payloads(answered: Response) -> list[Any]:
    """The data of every event, made at the same time as all others."""
    assert answered.headers.get("content-type") == "text/event-stream; charset=utf-8"
    events: list[Any] = [data if data == "[DONE]" else json.loads(data) for _, data in parse(answered.body)]
    return [event | {"created": CREATED} if "created" in event else event for event in events]


def cut(stream: bytes, size: int) -> list[int]:
    """In pieces of this size, as long as that are not too many of them."""
    return list(range(size, len(stream), max(size, len(stream) // 400)))


# --- answers that stream


@pytest.mark.parametrize("recorded", ANTHROPIC, ids=lambda each: each.name)
async def test_a_messages_stream_on_openais_surface(
    recorded: Transcript, translating: Relay, upstream: BadProvider
) -> None:
    pair = PAIRS.get(recorded.name, {"include_usage": True})
    expected = playing.to_openai(recorded.stream, include_usage=pair["include_usage"])
    body = chat(stream=True) | ({"stream_options": ASKED} if pair["include_usage"] else {})
    for size in CUTS:
        upstream.script = replay(recorded.stream, cut_at=cut(recorded.stream, size))
        answered = await ask(translating, "openai", body)
        if not expected.meter.visible and expected.translator.error:  # nothing was shown, so it is an answer of its own
            assert (answered.status, answered.json["error"]["code"]) == (502, expected.translator.error.code)
            continue
        assert answered.status == 200
        assert payloads(answered) == expected.data
        if "expected_data" in pair and recorded.name != "truncated-connection":  # whose message is free
            assert bare(payloads(answered)) == bare(pair["expected_data"])


def bare(value: Any) -> Any:
    """Without members that are null, which are as good as absent."""
    if isinstance(value, dict):
        return {name: bare(each) for name, each in value.items() if each is not None}
    return [bare(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("recorded", OPENAI, ids=lambda each: each.name)
async def test_a_completion_stream_on_anthropics_surface(
    recorded: Transcript, translating: Relay, upstream: BadProvider
) -> None:
    expected = playing.to_anthropic(recorded.stream)
    for size in CUTS:
        upstream.script = replay(recorded.stream, cut_at=cut(recorded.stream, size))
        answered = await ask(translating, "anthropic", message(MODELS["openai"], stream=True))
        assert (answered.status, payloads(answered)) == (200, expected.data)
        assert [name for name, _ in parse(answered.body)] == [event["type"] for event in expected.data]


async def test_a_stream_that_names_nothing_is_named_after_its_job(translating: Relay, upstream: BadProvider) -> None:
    said = 'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    upstream.script = replay(said.encode())
    answered = await ask(translating, "anthropic", message(MODELS["openai"], stream=True))
    begun = payloads(answered)[0]["message"]
    assert (begun["id"], begun["model"]) == (f"msg_{answered.headers.get('x-relay-job-id')}", "gpt-x")


# --- answers that come whole


def recorded_answers(dialect: str) -> list[str]:
    names = [path.stem for path in sorted((ROOT / "responses" / dialect).glob("*.json"))]
    return [name for name in names if not name.endswith(".expected") and not name.startswith("responses")]


@pytest.mark.parametrize("name", recorded_answers("anthropic"))
async def test_a_message_on_openais_surface(name: str, translating: Relay, upstream: BadProvider) -> None:
    body, meter = response("anthropic", name), AnthropicMeter()
    meter.see_body(body)
    upstream.script = answer(body)
    answered = await ask(translating, "openai", chat())
    assert answered.status == 200
    assert answered.json | {"created": CREATED} == json.loads(answer_to_openai.translate(body, meter, created=CREATED))
    assert answered.headers.get("x-request-id") == "req_scripted"
    assert answered.headers.get("content-type") == "application/json"


@pytest.mark.parametrize("name", recorded_answers("openai"))
async def test_a_completion_on_anthropics_surface(name: str, translating: Relay, upstream: BadProvider) -> None:
    body, meter = response("openai", name), OpenAIMeter()
    meter.see_body(body)
    upstream.script = answer(body)
    answered = await ask(translating, "anthropic", message(MODELS["openai"]))
    assert answered.status == 200
    assert answered.json == json.loads(answer_to_anthropic.translate(body, meter))
    assert answered.headers.get("request-id") == "req_scripted"


# --- errors


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("error", errors("anthropic"), ids=lambda each: each.name)
async def test_an_error_of_anthropics_on_openais_surface(
    error: ErrorAnswer, stream: bool, translating: Relay, upstream: BadProvider
) -> None:
    expected = error.expected["openai_surface"]
    upstream.script = answer(error.body, status=error.status, headers=error.headers)
    answered = await ask(translating, "openai", chat(stream=stream))
    assert answered.status == expected["status"]
    assert answered.headers.get("content-type") == "application/json"
    shown = answered.json["error"]
    assert {name: shown[name] for name in expected["error"]} == expected["error"]
    assert shown["message"] == (error.expected["message"] or shown["message"])
    assert answered.headers.get("x-request-id") == error.expected["request_id"]
    if "now" not in error.expected:  # else it was a date
        assert answered.headers.get("retry-after") == expected["retry_after_header"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("error", errors("openai"), ids=lambda each: each.name)
async def test_an_error_of_openais_on_anthropics_surface(
    error: ErrorAnswer, stream: bool, translating: Relay, upstream: BadProvider
) -> None:
    upstream.script = answer(error.body, status=error.status, headers=error.headers)
    answered = await ask(translating, "anthropic", message(MODELS["openai"], stream=stream))
    assert answered.status == error.status
    shown = answered.json
    assert (shown["type"], shown["error"]["message"]) == ("error", error.expected["message"])
    assert shown["request_id"] == f"req_{answered.headers.get('x-relay-job-id')}"
    assert answered.headers.get("request-id") == error.expected["request_id"]


async def test_a_date_to_retry_at_becomes_a_time_to_wait(translating: Relay, upstream: BadProvider) -> None:
    """OpenAI's SDKs read seconds only."""
    at = [("retry-after", "Wed, 21 Oct 2099 07:28:00 GMT")]
    upstream.script = answer(b"{}", status=429, headers=[*JSON, *at])
    answered = await ask(translating, "openai", chat())
    assert int(answered.headers.get("retry-after") or "") > 10**9


@pytest.mark.parametrize("surface", PATHS)
async def test_a_json_answer_that_is_none_of_the_api_is_an_error_of_ours(
    surface: str, translating: Relay, upstream: BadProvider
) -> None:
    other = "openai" if surface == "anthropic" else "anthropic"
    upstream.script = answer(b'{"hello":"world"}')
    answered = await ask(translating, surface, message(MODELS[other]))
    assert (answered.status, b"upstream_protocol_error" in answered.body) == (502, True)


# --- usage on OpenAI's surface

COUNTS = {"prompt_tokens": 23, "completion_tokens": 20, "total_tokens": 43}
OPTIONS: list[Any] = [{}, None, {"include_usage": False}, {"include_obfuscation": False}]


@pytest.mark.parametrize("model", ["openai/gpt-x@", "anthropic/claude-x@"])
@pytest.mark.parametrize("members", [{}, *[{"stream_options": options} for options in OPTIONS]])
async def test_usage_is_for_who_asked(
    members: dict[str, Any], model: str, translating: Relay, upstream: BadProvider
) -> None:
    answered = await ask(translating, "openai", chat(model, stream=True, **members))
    said = payloads(answered)
    assert said[-1] == "[DONE]"
    assert not [event for event in said[:-1] if event.get("usage") or not event["choices"]]
    if model.startswith("openai"):
        asked = (members.get("stream_options") or {}) | ASKED
        assert upstream.calls[0].json["stream_options"] == asked
        assert upstream.calls[0].body.count(b'"include_usage"') == 1


@pytest.mark.parametrize("model", ["openai/gpt-x@", "anthropic/claude-x@"])
async def test_who_asked_gets_it_in_a_last_chunk(model: str, translating: Relay, upstream: BadProvider) -> None:
    answered = await ask(translating, "openai", chat(model, stream=True, stream_options=ASKED))
    *_, last, done = payloads(answered)
    assert (last["choices"], COUNTS.items() <= last["usage"].items(), done) == ([], True, "[DONE]")


@pytest.mark.parametrize("members", [{}, {"stream_options": {}}])
async def test_a_server_that_takes_no_such_question_is_not_asked(
    members: dict[str, Any], translating: Relay, upstream: BadProvider
) -> None:
    body = chat("unaskable/gpt-x@", stream=True, **members)
    answered = await ask(translating, "openai", body)
    assert upstream.calls[0].json == body | {"model": "gpt-x@"}
    assert [event for event in payloads(answered)[:-1] if event.get("usage")], "what it says unasked is passed on"


@pytest.mark.parametrize("size", [10, 100_000, 3 << 20], ids=["inline", "one piece", "several pieces"])
async def test_to_ask_for_it_is_all_that_is_added(size: int, translating: Relay, upstream: BadProvider) -> None:
    body = b'{ "model" :"gpt-x@" ,"messages":[{"role":"user","content":"\\u0041%b"}],\n"stream":true,"x":1.10 }\n'
    body %= b"z" * size
    await ask(translating, "openai", body)
    [call] = upstream.calls
    assert call.body == body.rstrip()[:-1] + b',"stream_options":{"include_usage":true}}'


async def test_what_needs_nothing_goes_as_it_is(translating: Relay, upstream: BadProvider) -> None:
    asked = b',"stream_options":{"include_usage":true,"x":1.0}'
    for more in (b"", b',"stream":false', b',"stream":true' + asked):
        upstream.reset()
        body = b'{"messages" : [{"role":"user","content":"\\u0041 1e3"}], "model":"gpt-x@"%b }' % more
        assert (await ask(translating, "openai", body)).status == 200
        assert upstream.calls[0].body == body


# --- requests


@pytest.mark.parametrize("fixture", sorted((ROOT / "translate" / "requests").glob("*.json")))
async def test_a_translated_request_arrives_as_the_contract_says(
    fixture: Any, translating: Relay, upstream: BadProvider
) -> None:
    pair = read_json(fixture)
    if pair["options"]:  # of providers that are not set up here
        return
    await ask(translating, "openai", pair["openai"] | {"model": "anthropic/claude-x@"})
    [call] = upstream.calls
    assert call.json == pair["anthropic"] | {"model": "claude-x@"}


@pytest.mark.parametrize("prompt", ["x" * 300_000, "x" * 1_100_000, ",a" * 200_000], ids=["prose", "much", "dense"])
async def test_a_big_request_is_translated_as_a_small_one(
    prompt: str, translating: Relay, upstream: BadProvider
) -> None:
    """In a process of its own, if it is not all prose."""
    request = {"model": "claude-x@", "messages": [{"role": "user", "content": prompt}], "stop": ["a"]}
    await ask(translating, "openai", request)
    assert upstream.calls[0].body == encode(to_anthropic(request, AnthropicOptions()).request)
    request = message("gpt-x@", prompt, stop_sequences=["a"])
    await ask(translating, "anthropic", request)
    assert upstream.calls[1].body == encode(to_openai(request, OpenAIOptions()).request)


async def test_a_big_request_that_cannot_be_served_is_refused_as_a_small_one(
    translating: Relay, upstream: BadProvider
) -> None:
    for prompt in ("x", ",a" * 200_000):
        answered = await ask(translating, "openai", chat(messages=[{"role": "user", "content": prompt}], n=2))
        assert (answered.status, answered.json["error"]["param"]) == (400, "n")
    assert not upstream.calls


async def test_what_is_of_one_dialect_does_not_cross(translating: Relay, upstream: BadProvider) -> None:
    """A query, versions and betas; where the trace goes does."""
    trace = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    said = [("anthropic-beta", "b-1"), trace]
    await translating.post("/v1/messages?beta=true", message("openai/gpt-x@"), said)
    await translating.post("/v1/chat/completions?api-version=1", chat("anthropic/claude-x@"), said)
    to_gpt, to_claude = upstream.calls
    assert (to_gpt.path, to_claude.path) == ("/v1/chat/completions", "/v1/messages")
    assert to_gpt.headers.get("anthropic-version") is None
    assert to_claude.headers.get("anthropic-version") == "2023-06-01"
    for call in (to_gpt, to_claude):
        assert call.headers.get("anthropic-beta") is None
        assert call.headers.get("traceparent") == trace[1]
    assert to_gpt.headers.get("authorization") == "Bearer a-provider-key"
    assert to_claude.headers.get("x-api-key") == "a-provider-key"


async def test_tokens_are_counted_by_who_can(translating: Relay, upstream: BadProvider) -> None:
    path = "/v1/messages/count_tokens"
    refused = await translating.post(path, message("openai/gpt-x"))
    assert (refused.status, refused.json["error"]["type"]) == (400, "invalid_request_error")
    assert "'openai/gpt-x'" in refused.json["error"]["message"]
    upstream.script = answer(b'{"input_tokens":3}')
    counted = await translating.post(path, message("either"))
    assert (counted.status, counted.json) == (200, {"input_tokens": 3})
    assert upstream.calls[0].json["model"] == "claude-second@"


# --- what is wrong


def malformed(dialect: str) -> pytest.MarkDecorator:
    folder = ROOT / "requests" / dialect / "invalid"
    return pytest.mark.parametrize("path", sorted(folder.glob("*.json")), ids=lambda path: path.stem)


def error_of(answered: Response, surface: str) -> dict[str, Any]:
    """The error, if it has the form of the surface."""
    shown = answered.json
    assert shown["error"]["type"] == "invalid_request_error"
    assert shown["error"]["message"]
    if surface == "anthropic":
        assert (shown["type"], "request_id" in shown) == ("error", True)
    else:
        assert {"message", "type", "param", "code"} == shown["error"].keys()
    return dict(shown["error"])


@malformed("openai")
async def test_what_anthropic_cannot_serve_is_refused_in_openais_form(
    path: Any, translating: Relay, upstream: BadProvider
) -> None:
    fixture = read_json(path)
    answered = await ask(translating, "openai", fixture["request"] | {"model": MODELS["anthropic"]})
    assert answered.status == 400
    assert fixture["expected"]["error"]["message_contains"] in error_of(answered, "openai")["message"]
    assert not upstream.calls


@malformed("openai")
async def test_to_its_own_provider_only_bad_markers_are_stopped(
    path: Any, translating: Relay, upstream: BadProvider
) -> None:
    request = read_json(path)["request"] | {"model": "openai/gpt-x@"}
    answered = await ask(translating, "openai", request)
    if b"cache_control" in orjson.dumps(request):
        assert answered.status == 400
        error_of(answered, "openai")
    else:
        assert (answered.status, upstream.calls[0].json) == (200, request | {"model": "gpt-x@"})


@malformed("anthropic")
@pytest.mark.parametrize("model", ["openai/gpt-x@", "anthropic/claude-x@"])
async def test_a_malformed_messages_request_is_refused_or_left_to_the_provider(
    path: Any, model: str, translating: Relay, upstream: BadProvider
) -> None:
    fixture = read_json(path)
    answered = await ask(translating, "anthropic", fixture["request"] | {"model": model})
    if answered.status == 400:
        error_of(answered, "anthropic")
        assert not upstream.calls
    else:
        assert (answered.status, fixture["expected"].get("relay")) == (200, "pass")


@given(members=st.dictionaries(st.sampled_from(KEYS), HOSTILE), messages=MESSAGES, surface=st.sampled_from([*PATHS]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_request_is_a_fault_of_ours(
    translating: Relay, upstream: BadProvider, members: dict[str, Any], messages: list[Any], surface: str
) -> None:
    other = "openai" if surface == "anthropic" else "anthropic"
    body = {"messages": messages, **members, "model": f"{other}/m@", "max_tokens": 5, "stream": False}
    answered = await ask(translating, surface, json.dumps(body).encode())
    assert answered.status in (200, 400), answered
    if answered.status == 400:
        error_of(answered, surface)


# --- several targets


@pytest.mark.parametrize("surface", PATHS)
@pytest.mark.parametrize("alias", ["either", "other-way"])
async def test_an_alias_of_several_targets_is_served_by_the_one_that_can(
    alias: str, surface: str, translating: Relay, upstream: BadProvider
) -> None:
    answered = await ask(translating, surface, message(alias))
    first, second = upstream.calls
    assert (first.json["model"].split("-")[1][:5], second.json["model"].split("-")[1]) == ("first", "second@")
    assert answered.status == 200
    assert second.id.encode() in answered.body
    assert answered.json["model"] == "x", "as the provider names it"


async def test_a_target_that_cannot_take_the_request_is_passed_over(translating: Relay, upstream: BadProvider) -> None:
    upstream.script = answer(response("openai", "plain"))
    answered = await ask(translating, "openai", chat("able", n=2))
    assert (answered.status, [call.json["model"] for call in upstream.calls]) == (200, ["gpt-able"])


async def test_an_alias_is_in_the_list_of_models(translating: Relay) -> None:
    listed = await translating.get("/v1/models")
    assert {"either", "other-way", "able"} <= {model["id"] for model in listed.json["data"]}
