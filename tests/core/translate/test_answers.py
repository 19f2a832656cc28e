"""Whole answers between the dialects: the recorded pairs, every line of the mapping, and both ways in a row."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import anthropic.types
import openai.types.chat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.anthropic import AnthropicMeter
from relay.core.errors import UpstreamProtocolError
from relay.core.openai import OpenAIMeter
from relay.core.translate import answer_to_anthropic, answer_to_openai
from relay.core.translate.usage_shapes import in_anthropic_shape, in_openai_shape
from relay.core.usage import Usage
from tests.core.translate.odd_json import ODD, some_of, sometimes_odd
from tests.support.fixtures import ROOT, read_json

CREATED = 1790000000
PAIRS = {path.stem: read_json(path) for path in sorted((ROOT / "translate" / "responses").glob("*.json"))}
MESSAGES = sorted(path for path in (ROOT / "responses" / "anthropic").glob("*.json") if "expected" not in path.name)
COMPLETIONS = [
    path
    for path in sorted((ROOT / "responses" / "openai").glob("*.json"))
    # The Responses API is no surface of the relay's.
    if "expected" not in path.name and not path.name.startswith("responses")
]


def completion_of(body: bytes | dict[str, Any], **settings: Any) -> dict[str, Any]:
    """The completion for a message, which OpenAI's SDK must be able to read."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    meter = AnthropicMeter()
    meter.see_body(body)
    translated = answer_to_openai.translate(body, meter, created=CREATED, **settings)
    assert answer_to_openai.translate(body, meter, created=CREATED, **settings) == translated
    openai.types.chat.ChatCompletion.model_validate_json(translated)
    made = dict(json.loads(translated))
    assert made.keys() <= openai.types.chat.ChatCompletion.model_fields.keys()
    return made


def message_of(body: bytes | dict[str, Any], **settings: Any) -> dict[str, Any]:
    """The message for a completion, which Anthropic's SDK must be able to read."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    meter = OpenAIMeter()
    meter.see_body(body)
    translated = answer_to_anthropic.translate(body, meter, **settings)
    assert answer_to_anthropic.translate(body, meter, **settings) == translated
    anthropic.types.Message.model_validate_json(translated)
    made = dict(json.loads(translated))
    assert made.keys() <= anthropic.types.Message.model_fields.keys()
    return made


def message(*content: Any, stop_reason: str | None = "end_turn", **members: Any) -> dict[str, Any]:
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "c", "content": list(content)}
    return {**head, "stop_reason": stop_reason, "usage": {"input_tokens": 3, "output_tokens": 2}, **members}


def completion(finish_reason: str | None = "stop", **said: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": None, **said}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    return {"id": "cc_1", "object": "chat.completion", "model": "g", "choices": [choice], "usage": usage}


def call(arguments: Any, **members: Any) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": arguments}, **members}


def told(*content: Any, **members: Any) -> dict[str, Any]:
    """What a completion's message says of these blocks."""
    return dict(completion_of(message(*content, **members))["choices"][0]["message"])


TEXT = {"type": "text", "text": "hi"}
TOOL_USE = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"b": 1, "a": [2.5, None]}}
THINKING = {"type": "thinking", "thinking": "hm", "signature": "s"}
REDACTED = {"type": "redacted_thinking", "data": "x"}


# --- Anthropic's answer on OpenAI's surface


def bare(value: Any) -> Any:
    """Without members that are null: they are as good as absent, but for the content of a message."""
    if isinstance(value, dict):
        return {name: bare(each) for name, each in value.items() if each is not None or name == "content"}
    return [bare(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", PAIRS)
def test_a_recorded_message_becomes_its_completion(name: str) -> None:
    pair = PAIRS[name]

    assert pair["created"] == CREATED
    assert bare(completion_of((ROOT / pair["response"]).read_bytes())) == bare(pair["expected"])


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: path.stem)
def test_every_recorded_message_says_in_a_completion_what_is_expected_of_it(path: Any) -> None:
    expected = read_json(path.with_suffix(".expected.json"))
    got = completion_of(path.read_bytes())

    assert (got["id"], got["model"]) == (expected["message_id"], expected["model"])
    assert got["usage"]["prompt_tokens"] == expected["usage"]["prompt_tokens"]
    assert got["usage"]["total_tokens"] == expected["usage"]["total_tokens"]


@pytest.mark.parametrize(
    ("stop_reason", "finish_reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("from_the_future", "stop"),
        (None, "stop"),
    ],
)
def test_every_stop_reason_has_its_finish_reason(stop_reason: str | None, finish_reason: str) -> None:
    assert completion_of(message(TEXT, stop_reason=stop_reason))["choices"][0]["finish_reason"] == finish_reason


def test_texts_are_joined_with_nothing_between() -> None:
    assert told(TEXT, {"type": "text", "text": " there"})["content"] == "hi there"


@pytest.mark.parametrize(
    ("blocks", "stop_reason", "content"),
    [([], "end_turn", ""), ([THINKING], "end_turn", ""), ([TOOL_USE], "tool_use", None), ([], "refusal", None)],
)
def test_no_text_is_null_beside_calls_or_a_refusal(blocks: list[Any], stop_reason: str, content: str | None) -> None:
    assert told(*blocks, stop_reason=stop_reason)["content"] == content


def test_a_refusal_tells_its_explanation_and_nothing_else_does() -> None:
    details = {"type": "refusal", "category": "bio", "explanation": "No."}

    assert told(stop_reason="refusal", stop_details=details)["refusal"] == "No."
    assert told(TEXT, stop_reason="refusal", stop_details=None)["refusal"] is None
    assert told(TEXT, stop_details=details)["refusal"] is None


def test_thoughts_are_shown_and_kept_whole() -> None:
    said = told(THINKING, REDACTED, THINKING | {"thinking": " so"}, TEXT)

    assert said["reasoning_content"] == "hm so"
    assert said["thinking_blocks"] == [THINKING, REDACTED, THINKING | {"thinking": " so"}]
    assert "reasoning_content" not in told(REDACTED, TEXT)
    assert "thinking_blocks" not in told(TEXT)


def test_a_call_has_compact_arguments_in_their_own_order() -> None:
    [made] = told(TOOL_USE, stop_reason="tool_use")["tool_calls"]

    function = {"name": "f", "arguments": '{"b":1,"a":[2.5,null]}'}
    assert made == {"id": "toolu_1", "type": "function", "function": function}


def test_server_tools_citations_and_blocks_of_the_future_are_left_out() -> None:
    server = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    cited = TEXT | {"citations": [{"type": "page_location"}]}

    said = told(server, {"type": "web_search_tool_result"}, {"type": "hologram", "text": "x"}, cited)

    assert said == {"role": "assistant", "content": "hi", "refusal": None}


def test_an_answer_without_names_or_usage_gets_the_jobs_names_and_no_zeros() -> None:
    got = completion_of({"content": [TEXT]}, answer_id="chatcmpl-7", model="asked")

    assert (got["id"], got["model"], got["created"]) == ("chatcmpl-7", "asked", CREATED)
    assert "usage" not in got


@pytest.mark.parametrize("body", [b"{}", b"[]", b"<html>", b'{"content": "x"}', b'{"content": null}'])
def test_json_that_is_no_message_is_the_providers_error(body: bytes) -> None:
    with pytest.raises(UpstreamProtocolError, match="no message"):
        completion_of(body)


def test_nesting_that_cannot_be_written_again_is_the_providers_error() -> None:
    deep = b'{"content":[{"type":"tool_use","input":' + b'{"a":' * 300 + b"1" + b"}" * 300 + b"}]}"

    with pytest.raises(UpstreamProtocolError, match="nested too deep"):
        completion_of(deep)


# --- OpenAI's answer on Anthropic's surface


@pytest.mark.parametrize("path", COMPLETIONS, ids=lambda path: path.stem)
def test_every_recorded_completion_says_in_a_message_what_is_expected_of_it(path: Any) -> None:
    expected = read_json(path.with_suffix(".expected.json"))
    got = message_of(path.read_bytes())

    assert (got["id"], got["model"]) == (expected["message_id"], expected["model"])
    assert "".join(block["text"] for block in got["content"] if block["type"] == "text") == expected["text"]
    usage = expected["usage"] or dict.fromkeys(["input_tokens", "cache_read_tokens", "output_tokens"], 0)
    shape = got["usage"]
    assert (shape["input_tokens"], shape["output_tokens"]) == (usage["input_tokens"], usage["output_tokens"])
    assert shape["cache_read_input_tokens"] == usage["cache_read_tokens"]


@pytest.mark.parametrize(
    ("finish_reason", "stop_reason"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("tool_calls", "tool_use"),
        ("function_call", "tool_use"),
        ("content_filter", "refusal"),
        ("from_the_future", "end_turn"),
        (None, "end_turn"),
    ],
)
def test_every_finish_reason_has_its_stop_reason(finish_reason: str | None, stop_reason: str) -> None:
    got = message_of(completion(finish_reason, content="x"))

    assert (got["stop_reason"], got["stop_sequence"], got["container"]) == (stop_reason, None, None)


def test_a_message_has_thought_text_and_calls_in_this_order() -> None:
    got = message_of(completion("tool_calls", content="hi", reasoning_content="hm", tool_calls=[call('{"a": 1}')]))

    assert got["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        TEXT,
        {"type": "tool_use", "id": "call_1", "name": "f", "input": {"a": 1}},
    ]
    assert (got["type"], got["role"]) == ("message", "assistant")


def test_thinking_blocks_win_over_the_reasoning_they_repeat() -> None:
    blocks = [THINKING | {"index": 0}, REDACTED, {"type": "future"}]

    assert message_of(completion(reasoning_content="hm", thinking_blocks=blocks))["content"] == [THINKING, REDACTED]


def test_content_in_parts_becomes_a_block_for_each() -> None:
    parts = [TEXT, {"type": "text", "text": ""}, {"type": "chart", "text": "x"}, TEXT]

    assert message_of(completion(content=parts))["content"] == [TEXT, TEXT]
    assert message_of(completion(content=""))["content"] == []


@pytest.mark.parametrize("finish_reason", ["stop", "content_filter", "length"])
def test_a_refusal_becomes_the_explanation_of_the_stop(finish_reason: str) -> None:
    got = message_of(completion(finish_reason, refusal="I cannot."))

    assert got["content"] == []
    assert got["stop_reason"] == "refusal"
    assert got["stop_details"] == {"type": "refusal", "category": None, "explanation": "I cannot."}


def test_a_filter_without_words_explains_nothing() -> None:
    assert message_of(completion("content_filter"))["stop_details"]["explanation"] is None
    assert message_of(completion("stop", refusal=""))["stop_details"] is None


@pytest.mark.parametrize(("finish", "reason"), [("stop", "tool_use"), (None, "tool_use"), ("length", "max_tokens")])
def test_a_stop_beside_calls_means_that_they_are_to_be_made(finish: str | None, reason: str) -> None:
    assert message_of(completion(finish, tool_calls=[call("{}")]))["stop_reason"] == reason


@pytest.mark.parametrize("arguments", ["", " ", "null", "{}", None, {}, 7])
def test_no_arguments_in_whatever_form_are_an_empty_object(arguments: Any) -> None:
    assert message_of(completion("tool_calls", tool_calls=[call(arguments)]))["content"][0]["input"] == {}


def test_arguments_that_are_an_object_already_are_taken() -> None:
    assert message_of(completion(tool_calls=[call({"a": 1})]))["content"][0]["input"] == {"a": 1}


@pytest.mark.parametrize("arguments", ['{"a":', "[1]", '"x"', "1", "call f"])
def test_arguments_that_are_no_object_are_an_error_unless_they_were_cut(arguments: str) -> None:
    with pytest.raises(UpstreamProtocolError, match="tool 'f' with arguments that are no JSON object"):
        message_of(completion("tool_calls", tool_calls=[call(arguments)]))

    assert message_of(completion("length", tool_calls=[call(arguments)]))["content"][0]["input"] == {}


def test_a_call_without_an_id_gets_one_from_its_message_and_place() -> None:
    calls = [call("{}", id=None), call("{}", id="b"), call("{}", id="")]

    got = message_of(completion("tool_calls", content="hi", tool_calls=calls))

    assert [block["id"] for block in got["content"][1:]] == ["cc_1_1", "b", "cc_1_3"]


def test_only_the_first_choice_is_told() -> None:
    body = completion(content="zero")
    body["choices"].insert(0, {"index": 1, "message": {"content": "one"}, "finish_reason": "length"})

    got = message_of(body)

    assert (got["content"], got["stop_reason"]) == ([{"type": "text", "text": "zero"}], "end_turn")


def test_a_completion_without_names_or_usage_gets_the_jobs_names_and_the_zeros_its_sdk_needs() -> None:
    body = completion(content="x") | {"id": None, "model": None, "usage": None}
    body["choices"][0].pop("index")

    got = message_of(body, answer_id="msg_7", model="asked")

    assert (got["id"], got["model"]) == ("msg_7", "asked")
    assert got["usage"] == {
        "input_tokens": 0,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "cache_creation": None,
        "output_tokens": 0,
    }


@pytest.mark.parametrize("body", [b"{}", b"[]", b"<html>", b'{"choices": []}', b'{"choices": [{"index": 1}]}'])
def test_json_that_is_no_completion_is_the_providers_error(body: bytes) -> None:
    with pytest.raises(UpstreamProtocolError, match="no completion"):
        message_of(body)


# --- usage


def test_usage_has_the_names_of_each_surface() -> None:
    usage = Usage(
        input_tokens=100,
        cache_read_tokens=20,
        cache_write_by_ttl={"5m": 3, "1h": 4},
        output_tokens=7,
        reasoning_tokens=5,
        service_tier="default",
    )

    assert in_openai_shape(usage) == {
        "prompt_tokens": 127,
        "completion_tokens": 7,
        "total_tokens": 134,
        "prompt_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 7},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }
    assert in_anthropic_shape(usage) == {
        "input_tokens": 100,
        "cache_creation_input_tokens": 7,
        "cache_read_input_tokens": 20,
        "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4},
        "output_tokens": 7,
        "output_tokens_details": {"thinking_tokens": 5},
        "service_tier": "standard",
    }


def test_reasoning_that_was_not_reported_is_not_told() -> None:
    assert "completion_tokens_details" not in in_openai_shape(Usage())
    assert "output_tokens_details" not in in_anthropic_shape(Usage())
    assert in_openai_shape(Usage(reasoning_tokens=0))["completion_tokens_details"] == {"reasoning_tokens": 0}


def test_openais_times_of_writes_join_the_nearer_of_anthropics() -> None:
    split = in_anthropic_shape(Usage(cache_write_by_ttl={"30m": 1, "12h": 2, "5m": 4}))["cache_creation"]

    assert split == {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 2}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("default", "standard"),
        ("standard", "standard"),
        ("priority", "priority"),
        ("fast", "priority"),
        ("flex", None),
        ("auto", None),
        (None, None),
    ],
)
def test_a_tier_is_told_where_anthropic_has_a_word_for_it(theirs: str | None, ours: str | None) -> None:
    assert in_anthropic_shape(Usage(service_tier=theirs)).get("service_tier") == ours


# --- both ways

NAMES = st.text(min_size=1, max_size=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
CALLS = st.lists(st.tuples(NAMES, st.dictionaries(NAMES, JSON, max_size=2)), max_size=3)


@given(st.text(max_size=5), st.text(max_size=5), CALLS, st.booleans(), *[st.integers(0, 10**6)] * 4)
@settings(max_examples=60)
def test_there_and_back_keeps_text_calls_reason_and_usage(
    text: str,
    reasoning: str,
    calls: list[Any],
    cut: bool,
    read: int,
    written: int,
    plain: int,
    output: int,
) -> None:
    reason = "length" if cut else "tool_calls" if calls else "stop"
    made = [
        {"id": f"c{k}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for k, (name, arguments) in enumerate(calls)
    ]
    body = completion(reason, content=text, reasoning_content=reasoning, tool_calls=made)
    body["usage"] = {
        "prompt_tokens": read + written + plain,
        "completion_tokens": output,
        "total_tokens": read + written + plain + output,
        "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
    }

    back = completion_of(message_of(body))

    choice = back["choices"][0]
    said = choice["message"]
    assert (said["content"] or "", said.get("reasoning_content", "")) == (text, reasoning)
    assert [
        (c["id"], c["function"]["name"], json.loads(c["function"]["arguments"])) for c in said.get("tool_calls", [])
    ] == [(f"c{k}", name, arguments) for k, (name, arguments) in enumerate(calls)]
    assert choice["finish_reason"] == reason
    assert back["usage"] == body["usage"]
    assert (back["id"], back["model"]) == (body["id"], body["model"])


def test_a_thought_keeps_its_signature_there_and_back() -> None:
    blocks = [THINKING, REDACTED, TEXT, TOOL_USE]

    assert message_of(completion_of(message(*blocks, stop_reason="tool_use")))["content"] == blocks


STRINGS = {name: st.text(max_size=3) for name in ("text", "thinking", "data", "id", "name")}
BLOCK = some_of(
    {"type": st.sampled_from(["text", "thinking", "redacted_thinking", "tool_use"]), "input": ODD, **STRINGS}
)
MESSAGE = some_of({"content": st.lists(BLOCK, max_size=3), "stop_reason": st.just("refusal"), "stop_details": ODD})
FUNCTION = some_of({"name": st.text(max_size=2), "arguments": st.sampled_from(["", "{", "{}", "1", "null"])})
SAID = some_of(
    {
        "content": st.text(max_size=3) | st.lists(BLOCK, max_size=2),
        "refusal": st.text(max_size=3),
        "reasoning_content": st.text(max_size=3),
        "thinking_blocks": st.lists(BLOCK, max_size=2),
        "tool_calls": st.lists(some_of({"id": st.text(max_size=3), "function": FUNCTION}), max_size=2),
    }
)
CHOICE = some_of({"index": st.integers(0, 1), "message": SAID, "finish_reason": st.sampled_from(["stop", "length"])})
COMPLETION = some_of({"choices": st.lists(sometimes_odd(CHOICE), max_size=2), "usage": ODD, "id": st.text(max_size=3)})


@given(sometimes_odd(MESSAGE | COMPLETION))
@settings(max_examples=100)
def test_no_answer_makes_it_raise_anything_but_the_providers_error(body: Any) -> None:
    raw = json.dumps(body).encode()
    for meter, translate in (
        (AnthropicMeter(), lambda meter: answer_to_openai.translate(raw, meter, created=CREATED)),
        (OpenAIMeter(), lambda meter: answer_to_anthropic.translate(raw, meter)),
    ):
        meter.see_body(raw)
        with suppress(UpstreamProtocolError):
            json.loads(translate(meter))
