"""Streams between the dialects: the recorded pairs, every split of them, the laws, and hostile providers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.anthropic import AnthropicMeter
from relay.core.meter import Meter, object_in
from relay.core.openai import OpenAIMeter
from relay.core.sse import Event
from relay.core.translate import answer_to_anthropic, answer_to_openai
from relay.core.translate.stream_to_anthropic import StreamToAnthropic
from relay.core.translate.stream_to_openai import StreamToOpenAI
from tests.core.translate.odd_json import ODD, some_of, sometimes_odd
from tests.core.translate.playing import (
    CHUNK_SIZES,
    CREATED,
    Played,
    call_piece,
    chunk,
    read_chunks,
    read_message,
    sse,
    to_anthropic,
    to_openai,
)
from tests.support.fixtures import ROOT, Transcript, read_json, transcripts
from tests.support.sse import parse

PAIRS = {path.stem: read_json(path) for path in sorted((ROOT / "translate" / "streams").glob("*.json"))}
ANTHROPIC = transcripts("anthropic")
# The Responses API is no surface of the relay's.
OPENAI = [each for each in transcripts("openai") if not each.name.startswith("responses")]

REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


def bare(value: Any) -> Any:
    """Without members that are null: they are as good as absent, but for the usage of a chunk."""
    if isinstance(value, list):
        return [bare(each) for each in value]
    if isinstance(value, dict):
        return {name: bare(each) for name, each in value.items() if each is not None or name in ("usage", "content")}
    return value


# --- the recorded pairs


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
@pytest.mark.parametrize("name", PAIRS)
def test_a_recorded_stream_becomes_its_chunks(name: str, chunk_size: int) -> None:
    pair = PAIRS[name]
    body = (ROOT / pair["stream"]).read_bytes()

    got, expected = to_openai(body, chunk_size, include_usage=pair["include_usage"]).data, pair["expected_data"]

    assert pair["created"] == CREATED
    if name == "truncated-connection":  # whose message is free
        expected[-1]["error"]["message"] = got[-1]["error"]["message"]
    assert bare(got) == bare(expected)


@pytest.mark.parametrize("transcript", ANTHROPIC, ids=lambda each: each.name)
@pytest.mark.parametrize("include_usage", [True, False])
def test_a_messages_stream_gives_the_same_bytes_at_every_split(transcript: Transcript, include_usage: bool) -> None:
    whole = to_openai(transcript.stream, include_usage=include_usage)

    sizes = CHUNK_SIZES if len(transcript.stream) < 10_000 else [64, 1024]
    assert {to_openai(transcript.stream, size, include_usage=include_usage).body for size in sizes} == {whole.body}


@pytest.mark.parametrize("transcript", OPENAI, ids=lambda each: each.name)
def test_a_completion_stream_gives_the_same_bytes_at_every_split(transcript: Transcript) -> None:
    bodies = {to_anthropic(transcript.stream, size).body for size in CHUNK_SIZES}

    assert len(bodies) == 1


@pytest.mark.parametrize("transcript", ANTHROPIC, ids=lambda each: each.name)
def test_every_messages_stream_says_in_chunks_what_is_expected_of_it(transcript: Transcript) -> None:
    expected = transcript.expected
    played = to_openai(transcript.stream, include_usage=True)
    read = read_chunks(played.data)

    assert read.text == expected.get("text", "")
    assert outcome(played, read.error) == expected["outcome"]
    if expected["outcome"] == "completed" and expected["usage"]:
        usage = expected["usage"]
        assert read.usage == {
            "prompt_tokens": usage["prompt_tokens"],
            "completion_tokens": usage["output_tokens"],
            "total_tokens": usage["total_tokens"],
            "prompt_tokens_details": {
                "cached_tokens": usage["cache_read_tokens"],
                "cache_write_tokens": usage["cache_write_tokens"],
            },
        } | (
            {}
            if usage["reasoning_tokens"] is None
            else {"completion_tokens_details": {"reasoning_tokens": usage["reasoning_tokens"]}}
        )


@pytest.mark.parametrize("transcript", OPENAI, ids=lambda each: each.name)
def test_every_completion_stream_says_in_events_what_is_expected_of_it(transcript: Transcript) -> None:
    expected = transcript.expected
    played = to_anthropic(transcript.stream)
    message = read_message(played.data)

    said: dict[str, list[Any]] = {"text": [], "thinking": [], "tool_use": []}
    for block in message["content"]:
        said[block["type"]].append(block)
    assert "".join(block["text"] for block in said["text"]) == expected.get("text", "")
    assert "".join(block["thinking"] for block in said["thinking"]) == expected.get("reasoning", "")
    calls = [{"id": each["id"], "name": each["name"], "arguments": each["json"]} for each in said["tool_use"]]
    assert calls == expected.get("tool_calls", [])
    assert outcome(played, message.get("error")) == expected["outcome"]
    if expected["outcome"] == "completed":
        reason = "refusal" if "refusal" in expected else REASONS[expected["finish_reason"]]
        assert (message["id"], message["model"], message["stop_reason"]) == ("chatcmpl-fx", expected["model"], reason)
        assert (message["stop_details"] or {}).get("explanation") == expected.get("refusal")
        assert_counts(message["usage"], expected["usage"])


def outcome(played: Played, error: dict[str, Any] | None) -> str:
    if error is None:
        return "completed"
    if (error.get("code") or error.get("details", {}).get("error_code")) == "upstream_truncated":
        assert played.translator.error and played.translator.error.code == "upstream_truncated"
        return "truncated"
    assert played.translator.error is None
    return "error"


def assert_counts(shape: dict[str, Any], usage: dict[str, Any] | None) -> None:
    """The usage of a message says what the record does; zeros where nothing was reported."""
    usage = usage or dict.fromkeys(["input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens"], 0)
    assert shape["input_tokens"] == usage["input_tokens"]
    assert shape["cache_read_input_tokens"] == usage["cache_read_tokens"]
    assert shape["cache_creation_input_tokens"] == usage["cache_write_tokens"]
    assert shape["output_tokens"] == usage["output_tokens"]
    assert sum((shape["cache_creation"] or {}).values()) == usage["cache_write_tokens"]
    assert shape.get("output_tokens_details", {}).get("thinking_tokens") == usage.get("reasoning_tokens")


# --- laws

PIECES = st.lists(st.text(max_size=6).filter(str.strip), max_size=4)
ARGUMENTS = st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=4), max_size=2).map(json.dumps)
COUNTS = st.integers(0, 10**6)


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The chunks of a well-behaved answer, its calls in any interleaving; and the same answer whole."""
    reasoning, texts = draw(PIECES), draw(PIECES)
    calls = [(f"call_{k}", draw(st.sampled_from("fgh")), draw(ARGUMENTS)) for k in range(draw(st.integers(0, 3)))]
    reason = draw(st.sampled_from(["length", "tool_calls"] if calls else ["stop", "length", "content_filter"]))
    read, written, plain = draw(COUNTS), draw(COUNTS), draw(COUNTS)
    usage = {
        "prompt_tokens": read + written + plain,
        "completion_tokens": draw(COUNTS),
        "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    deltas = [{"role": "assistant", "content": ""}, *[{"reasoning_content": piece} for piece in reasoning]]
    deltas += [{"content": piece} for piece in texts]
    deltas += draw(interleaved([call_deltas(draw, k, call) for k, call in enumerate(calls)]))
    message = {
        "role": "assistant",
        "content": "".join(texts),
        "reasoning_content": "".join(reasoning),
        "tool_calls": [{"id": i, "type": "function", "function": {"name": n, "arguments": a}} for i, n, a in calls],
    }
    head = {"id": "cc_1", "model": "g"}
    chunks = [chunk(delta) for delta in deltas] + [chunk({}, reason), {**head, "choices": [], "usage": usage}]
    choices = [{"index": 0, "message": message, "finish_reason": reason}]
    return chunks, {**head, "object": "chat.completion", "choices": choices, "usage": usage}


def call_deltas(draw: st.DrawFn, index: int, call: tuple[str, str, str]) -> list[dict[str, Any]]:
    call_id, name, arguments = call
    cut = draw(st.integers(0, len(arguments)))
    first = call_piece("", index=index, id=call_id, name=name)
    return [first, call_piece(arguments[:cut], index=index), call_piece(arguments[cut:], index=index)]


@st.composite
def interleaved(draw: st.DrawFn, rows: list[list[Any]]) -> list[Any]:
    """The rows' items in any order that keeps each row's own, and the order of the first ones."""
    out = []
    started = 0
    while any(rows):
        choices = [k for k, row in enumerate(rows) if row and k <= started]
        k = draw(st.sampled_from(choices))
        started = max(started, k + 1)
        out.append(rows[k].pop(0))
    return out


@given(answers())
@settings(max_examples=60)
def test_there_and_back_keeps_text_calls_reason_and_usage(answer: tuple[list[Any], dict[str, Any]]) -> None:
    chunks, whole = answer
    there = to_anthropic(sse(*chunks, "[DONE]"))
    back = read_chunks(to_openai(there.body, include_usage=True).data)

    choice = whole["choices"][0]
    message, usage = choice["message"], whole["usage"]
    assert (back.text, back.reasoning) == (message["content"], message["reasoning_content"])
    calls = [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in message["tool_calls"]]
    assert back.calls == calls
    assert back.reason == choice["finish_reason"]
    assert back.usage == usage | {"total_tokens": usage["prompt_tokens"] + usage["completion_tokens"]}


@given(answers())
@settings(max_examples=60)
def test_a_stream_adds_up_to_the_whole_answer_on_the_anthropic_surface(
    answer: tuple[list[Any], dict[str, Any]],
) -> None:
    chunks, whole = answer
    body, meter = orjson.dumps(whole), OpenAIMeter()
    meter.see_body(body)

    message = read_message(to_anthropic(sse(*chunks)).data)
    for block in message["content"]:
        if block["type"] == "tool_use":
            block["input"] = json.loads(block.pop("json"))

    assert message == json.loads(answer_to_anthropic.translate(body, meter))


@pytest.mark.parametrize("transcript", ANTHROPIC, ids=lambda each: each.name)
def test_a_stream_adds_up_to_the_whole_answer_on_the_openai_surface(transcript: Transcript) -> None:
    """The message of each recorded stream, translated whole, says what its translated stream says."""
    if transcript.expected["outcome"] != "completed":
        return
    body, meter = whole_message(transcript), AnthropicMeter()
    meter.see_body(body)
    choice = json.loads(answer_to_openai.translate(body, meter, created=CREATED))["choices"][0]
    message = choice["message"]

    read = read_chunks(to_openai(transcript.stream).data)

    assert read.text == (message["content"] or "")
    assert read.reasoning == message.get("reasoning_content", "")
    assert read.thoughts == message.get("thinking_blocks", [])
    assert (read.refusal, read.reason) == (message["refusal"], choice["finish_reason"])
    if transcript.name == "max-tokens-inside-tool":  # half an object fits into a stream only
        return
    whole = [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls", [])]
    assert [(i, n, json.loads(a)) for i, n, a in read.calls] == [(i, n, json.loads(a)) for i, n, a in whole]


def whole_message(transcript: Transcript) -> bytes:
    """The message that a recorded stream adds up to."""
    message = recorded_message(transcript.stream)
    for block in message["content"]:
        if "json" in block:
            block["input"] = object_in(block.pop("json").encode())
    return json.dumps(message).encode()


def recorded_message(stream: bytes) -> dict[str, Any]:
    return read_message(json.loads(data) for _, data in parse(stream + b"\n\n"))


# --- signatures


def test_a_thought_keeps_its_signature_there_and_back() -> None:
    stream = next(each for each in ANTHROPIC if each.name == "thinking-signature").stream

    there = to_openai(stream)
    back = read_message(to_anthropic(there.body).data)

    [thinking, _] = recorded_message(stream)["content"]
    assert back["content"][0] == thinking
    assert back["content"][0]["signature"]


def test_omitted_and_redacted_thoughts_keep_their_place_there_and_back() -> None:
    stream = next(each for each in ANTHROPIC if each.name == "thinking-omitted-redacted").stream

    back = read_message(to_anthropic(to_openai(stream).body).data)

    assert back["content"] == recorded_message(stream)["content"]


# --- hostile providers

INDEX = st.integers(-1, 3)
BLOCK_TYPES = st.sampled_from(["text", "thinking", "redacted_thinking", "tool_use", "server_tool_use", "x"])
STRINGS = {name: st.text(max_size=3) for name in ("text", "thinking", "signature", "partial_json", "id", "name")}
DELTA_TYPES = st.sampled_from(["text_delta", "thinking_delta", "signature_delta", "input_json_delta", "x"])
STOP = some_of({"stop_reason": st.sampled_from(["end_turn", "refusal"]), "stop_details": ODD})
MESSAGES_EVENTS = some_of(
    {
        "type": st.sampled_from(
            ["message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta"] * 4
            + ["message_stop", "error", "ping"]
        ),
        "index": INDEX,
        "message": some_of({"id": st.text(max_size=3), "model": st.text(max_size=3), "usage": ODD}),
        "content_block": some_of({"type": BLOCK_TYPES, "input": ODD, **STRINGS}),
        "delta": some_of({"type": DELTA_TYPES, **STRINGS}) | STOP,
        "usage": some_of({"output_tokens": COUNTS, "input_tokens": COUNTS}),
        "error": some_of({"type": st.just("overloaded_error"), "message": st.text(max_size=3)}),
    }
)
FUNCTION = some_of({"name": st.text(max_size=2), "arguments": st.sampled_from(["", "{", "}", "{}", " ", "1", "null"])})
CALL = some_of({"index": INDEX, "id": st.sampled_from(["", "a", "b"]), "function": FUNCTION})
THOUGHT = some_of({"type": BLOCK_TYPES, "index": INDEX, **STRINGS})
DELTA = some_of(
    {
        "role": st.just("assistant"),
        "content": st.text(max_size=3),
        "reasoning_content": st.text(max_size=3),
        "refusal": st.text(max_size=3),
        "tool_calls": st.lists(CALL, max_size=3),
        "thinking_blocks": st.lists(THOUGHT, max_size=2),
    }
)
FINISH = st.sampled_from([None, None, None, *REASONS, "error"])
CHOICE = some_of({"index": st.integers(0, 1), "delta": DELTA, "finish_reason": FINISH})
CHUNKS = some_of({"id": st.text(max_size=3), "choices": st.lists(sometimes_odd(CHOICE), max_size=2), "usage": ODD})


@given(st.lists(sometimes_odd(MESSAGES_EVENTS), max_size=12), st.booleans())
@settings(max_examples=100)
def test_no_messages_stream_makes_it_raise_or_end_without_a_word(events: list[Any], include_usage: bool) -> None:
    played = to_openai(sse(*events), include_usage=include_usage)

    last = played.data[-1]
    assert last == "[DONE]" or "error" in last
    read_chunks(played.data)


@given(st.lists(sometimes_odd(CHUNKS) | st.just("[DONE]"), max_size=12))
@settings(max_examples=100)
def test_no_completion_stream_makes_it_raise_or_end_without_a_word(chunks: list[Any]) -> None:
    played = to_anthropic(sse(*chunks))

    assert played.data[-1]["type"] in ("message_stop", "error")
    read_message(played.data)


@pytest.mark.parametrize("make", [lambda: to_openai, lambda: to_anthropic])
def test_nesting_that_cannot_be_written_again_ends_in_an_error(make: Callable[[], Callable[[bytes], Played]]) -> None:
    deep: Any = {}
    for _ in range(300):
        deep = {"deeper": deep}
    thought = {"type": "redacted_thinking", "data": deep}
    start = {"type": "content_block_start", "index": 0, "content_block": thought}
    stop = {"type": "content_block_stop", "index": 0}

    played = make()(sse(start, stop, chunk({"thinking_blocks": [thought]})))

    assert played.translator.error and played.translator.error.code == "upstream_protocol_error"
    assert b"nested too deep" in played.body


def test_nothing_follows_the_end_of_a_stream() -> None:
    openai = StreamToOpenAI(ended_meter(AnthropicMeter(), b'{"type":"message_stop"}'), created=CREATED)
    openai.feed(Event(b"", b'{"type":"message_stop"}', b""))
    anthropic = StreamToAnthropic(OpenAIMeter())
    anthropic.feed(Event(b"", b"[DONE]", b""))

    for translator in (openai, anthropic):
        assert translator.ended
        assert translator.feed(Event(b"", b'{"type":"message_start","choices":[{"delta":{"content":"x"}}]}', b"")) == []
        assert translator.close() == []


def ended_meter(meter: Meter, data: bytes) -> Meter:
    meter.see(Event(b"", data, b""))
    return meter


@pytest.mark.parametrize("tail", [b'{"error":{"type":"overloaded_error","message":"Busy"}}'])
def test_an_error_that_was_no_event_is_shown_at_the_end(tail: bytes) -> None:
    for meter, make, form in (
        (AnthropicMeter(), lambda meter: StreamToOpenAI(meter, created=CREATED), b'"code":"overloaded_error"'),
        (OpenAIMeter(), StreamToAnthropic, b'"type":"overloaded_error"'),
    ):
        meter.see_body(tail)
        translator = make(meter)
        [event] = translator.close()
        assert form in event and b"Busy" in event
        assert translator.ended and translator.error is None
