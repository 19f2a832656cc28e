"""Translating a stream and putting it together is the same as putting it together and translating the whole.

Where it cannot be the same, the last tests say so, each with its reason.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.anthropic import AnthropicMeter
from relay.core.openai import OpenAIMeter
from relay.core.translate import answer_to_anthropic, answer_to_openai
from tests.core.assembly.logs import COMPLETIONS, MESSAGES, Log, bare, body_of, fed, log_of
from tests.core.assembly.streaming import streamed_completion, streamed_message
from tests.core.translate.playing import CREATED, sse, to_anthropic, to_openai

Json = dict[str, Any]

# Arguments that were cut, a model that is named too late, a member without a place in the stream: see below.
OWN_WAY = {"max-tokens-inside-tool", "server-side-fallback", "obfuscation-service-tier"}


def whole_then_completion(events: list[bytes], marker_ttls: tuple[str, ...] = ()) -> Json:
    message = fed("anthropic", events).body() or b""
    meter = AnthropicMeter(marker_ttls)
    meter.see_body(message)
    return read(json.loads(answer_to_openai.translate(message, meter, created=CREATED)))


def completion_of_stream(events: list[bytes]) -> Json:
    return read(body_of("openai", to_openai(b"".join(events), include_usage=True).events))


def whole_then_message(events: list[bytes]) -> Json:
    completion = fed("openai", events).body() or b""
    meter = OpenAIMeter()
    meter.see_body(completion)
    return dict(bare(json.loads(answer_to_anthropic.translate(completion, meter))))


def message_of_stream(events: list[bytes]) -> Json:
    return dict(bare(body_of("anthropic", to_anthropic(b"".join(events)).events)))


def read(completion: Json) -> Json:
    """With the arguments of calls as values: in a stream they keep the spelling of the provider."""
    for choice in completion["choices"]:
        for call in choice["message"].get("tool_calls", []):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return dict(bare(completion))


def defined(logs: list[Log]) -> Any:
    found = [log for log in logs if log.expected["outcome"] == "completed" and log.name not in OWN_WAY]
    return pytest.mark.parametrize("log", found, ids=str)


@defined(MESSAGES)
def test_a_recorded_messages_stream_gives_the_same_completion_both_ways(log: Log) -> None:
    ttls = tuple(log.expected.get("request_context", {}).get("marker_ttls", ()))

    assert completion_of_stream(log.events) == whole_then_completion(log.events, ttls)


@defined(COMPLETIONS)
def test_a_recorded_completion_stream_gives_the_same_message_both_ways(log: Log) -> None:
    assert message_of_stream(log.events) == whole_then_message(log.events)


# --- any answer

texts = st.sampled_from(["a", "Bonjour, \u00e9t\u00e9", "\u2028 and \U0001f600", "{}", "a longer text than that"])
inputs = st.sampled_from([{}, {"z": 1, "a": "\u00e9"}, {"deep": [{"z": [True, {}], "a": -1.5e-7}], "n": None}])
numbers = st.integers(0, 9)
blocks = st.one_of(
    texts.map(lambda text: {"type": "text", "text": text}),
    texts.map(lambda text: {"type": "text", "text": text, "citations": [{"type": "char_location"}]}),
    texts.map(lambda text: {"type": "thinking", "thinking": text, "signature": "c2ln"}),
    st.just({"type": "thinking", "thinking": "", "signature": "c2ln"}),
    st.just({"type": "redacted_thinking", "data": "eA=="}),
    st.tuples(numbers, inputs).map(
        lambda drawn: {"type": "tool_use", "id": f"toolu_{drawn[0]}", "name": "f", "input": drawn[1]}
    ),
    st.just({"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "q"}}),
    st.just({"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}),
)
stops = st.one_of(
    st.sampled_from(["end_turn", "max_tokens", "stop_sequence", "tool_use", "pause_turn", "of_tomorrow"]).map(
        lambda reason: {"stop_reason": reason, "stop_details": None}
    ),
    st.sampled_from([None, "No."]).map(
        lambda why: {"stop_reason": "refusal", "stop_details": {"type": "refusal", "explanation": why}}
    ),
)
message_usages = st.fixed_dictionaries(
    {"input_tokens": numbers, "output_tokens": numbers, "cache_read_input_tokens": numbers},
    optional={"output_tokens_details": numbers.map(lambda count: {"thinking_tokens": count})},
)
messages = st.tuples(st.lists(blocks, max_size=5), stops, message_usages).map(
    lambda drawn: {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "c",
        "content": drawn[0],
        **drawn[1],
        "usage": drawn[2],
    }
)


@given(messages, st.integers(1, 9))
def test_any_messages_stream_gives_the_same_completion_both_ways(message: Json, size: int) -> None:
    events = log_of(sse(*streamed_message(message, size)))

    assert bare(body_of("anthropic", events)) == bare(message)
    assert completion_of_stream(events) == whole_then_completion(events)


calls = st.tuples(numbers, inputs).map(
    lambda drawn: {
        "id": f"call_{drawn[0]}",
        "type": "function",
        "function": {"name": "f", "arguments": json.dumps(drawn[1])},
    }
)
said = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": st.none() | texts, "refusal": st.none() | texts},
    optional={
        "reasoning_content": texts,
        "tool_calls": st.lists(calls, min_size=1, max_size=3, unique_by=lambda call: str(call["id"])),
    },
)
completion_usages = st.tuples(numbers, numbers).map(
    lambda drawn: {
        "prompt_tokens": 9 + drawn[0],
        "completion_tokens": drawn[1],
        "prompt_tokens_details": {"cached_tokens": drawn[0]},
    }
)
reasons = st.sampled_from(["stop", "length", "tool_calls", "content_filter", "of_tomorrow"])
completions = st.tuples(said, reasons, completion_usages).map(
    lambda drawn: {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": CREATED,
        "model": "g",
        "choices": [{"index": 0, "message": drawn[0], "finish_reason": drawn[1]}],
        "usage": drawn[2],
    }
)


@given(completions, st.integers(1, 9))
def test_any_completion_stream_gives_the_same_message_both_ways(completion: Json, size: int) -> None:
    events = log_of(sse(*streamed_completion(completion, size)))

    assert bare(body_of("openai", events)) == bare(completion)
    assert message_of_stream(events) == whole_then_message(events)


# --- where the two ways part


def recorded(name: str) -> list[bytes]:
    return next(log.events for log in [*MESSAGES, *COMPLETIONS] if log.name == name)


def test_arguments_that_were_cut_are_in_the_stream_as_they_came() -> None:
    events = recorded("max-tokens-inside-tool")
    streamed = body_of("openai", to_openai(b"".join(events), include_usage=True).events)

    (call,) = streamed["choices"][0]["message"]["tool_calls"]
    assert call["function"]["arguments"] == '{"path":"a.txt","content":"unfinis'
    (call,) = whole_then_completion(events)["choices"][0]["message"]["tool_calls"]
    assert call["function"]["arguments"] == {}


def test_a_stream_keeps_the_model_that_its_first_chunk_named() -> None:
    events = recorded("server-side-fallback")

    whole = whole_then_completion(events)
    assert whole["model"] == "claude-opus-4-8"
    assert completion_of_stream(events) == {**whole, "model": "claude-fable-5"}


def test_a_message_stream_has_no_place_for_a_service_tier_that_is_known_at_the_end() -> None:
    events = recorded("obfuscation-service-tier")

    whole = whole_then_message(events)
    assert whole["usage"].pop("service_tier") == "standard"
    assert message_of_stream(events) == whole
