"""A Messages stream as chunks: what no recorded stream has, sloppy servers above all."""

from __future__ import annotations

from typing import Any

import pytest

from relay.core.translate import stream_to_openai
from tests.core.translate.playing import (
    CREATED,
    Read,
    block,
    message_end,
    message_start,
    read_chunks,
    sse,
    to_openai,
)

TEXT = block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "hi"})
CALL = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}


def arguments(piece: str) -> dict[str, Any]:
    return {"type": "input_json_delta", "partial_json": piece}


def read(*payloads: Any, **settings: Any) -> Read:
    return read_chunks(to_openai(sse(*payloads), **settings).data)


def said(*blocks: list[dict[str, Any]]) -> Read:
    """What a client reads of a message with these blocks."""
    return read(message_start(), *[event for events in blocks for event in events], *message_end())


# --- the whole form


def test_every_chunk_is_one_line_with_the_same_names() -> None:
    played = to_openai(sse(message_start(), *TEXT, *message_end()), include_usage=True)

    names = {"id": "msg_1", "object": "chat.completion.chunk", "created": CREATED, "model": "c"}
    *chunks, totals, done = played.data
    assert [each | names | {"usage": None} for each in chunks] == chunks
    assert totals["choices"] == [] and totals | names == totals
    assert done == "[DONE]"
    assert b'{"content":"hi"},"finish_reason":null}],"usage":null}\n\n' in played.body


def test_usage_is_told_only_to_who_asked() -> None:
    stream = sse(message_start(), *TEXT, *message_end())

    asked, unasked = to_openai(stream, include_usage=True), to_openai(stream)

    assert read_chunks(asked.data).usage == {
        "prompt_tokens": 15,
        "completion_tokens": 5,
        "total_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
    }
    assert b"usage" not in unasked.body


def test_unknown_usage_is_no_chunk_of_zeros() -> None:
    stop = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}

    played = to_openai(sse(message_start(usage=None), stop, {"type": "message_stop"}), include_usage=True)

    assert played.data[-2]["choices"][0]["finish_reason"] == "stop"
    assert played.data[-1] == "[DONE]"


def test_a_provider_without_names_gets_those_of_the_job() -> None:
    played = to_openai(sse(message_start(id=None, model=None), *message_end()), answer_id="chatcmpl-7", model="asked")

    assert {(each["id"], each["model"]) for each in played.data[:-1]} == {("chatcmpl-7", "asked")}


def test_text_of_any_script_and_with_any_character_is_kept() -> None:
    text = 'é "\\ \n\t\x00 \u2028 \u0085 𝄞 </script>'

    assert said(block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": text})).text == text


# --- the end


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
    ],
)
def test_every_stop_reason_has_its_finish_reason(stop_reason: str, finish_reason: str) -> None:
    assert read(message_start(), *message_end(stop_reason)).reason == finish_reason


def test_a_refusal_tells_its_explanation() -> None:
    details = {"type": "refusal", "category": "bio", "explanation": "No."}

    assert read(message_start(), *message_end("refusal", stop_details=details)).refusal == "No."
    assert read(message_start(), *message_end("refusal", stop_details={"explanation": None})).refusal is None
    assert read(message_start(), *message_end("end_turn", stop_details=details)).refusal is None


def test_a_message_that_stops_without_a_reason_has_stopped() -> None:
    assert read(message_start(), *TEXT, {"type": "message_stop"}).reason == "stop"


def test_a_reason_is_told_once_and_nothing_is_said_after_it() -> None:
    first, stop = message_end()

    after = read(message_start(), first, *TEXT, first, stop)

    assert (after.text, after.reason) == ("", "stop")


def test_a_message_delta_without_a_reason_is_no_end() -> None:
    early = {"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": 2}}

    assert read(message_start(), early, *TEXT, *message_end()).text == "hi"


def test_a_second_message_start_starts_nothing() -> None:
    payloads = to_openai(sse(message_start(), message_start(id="other"), *message_end())).data

    assert [each["choices"][0]["delta"] for each in payloads[:-1]] == [{"role": "assistant", "content": ""}, {}]


def test_an_error_has_openais_form_and_no_done_after_it() -> None:
    error = {"type": "error", "error": {"type": "rate_limit_error", "message": "Slow down"}}

    played = to_openai(sse(message_start(), *TEXT, error, *message_end()))

    told = {"message": "Slow down", "type": "rate_limit_error", "param": None, "code": "rate_limit_error"}
    assert played.data[-1] == {"error": told}
    assert played.translator.error is None  # the provider's, not ours


def test_a_body_that_just_ends_is_an_error_of_ours() -> None:
    played = to_openai(sse(message_start(), *TEXT))

    told = played.data[-1]["error"]
    assert (told["type"], told["code"]) == ("server_error", "upstream_truncated")
    assert played.translator.error and played.translator.error.status == 502


# --- tool calls


def test_only_the_clients_tools_are_counted() -> None:
    server = {"type": "server_tool_use", "id": "srv", "name": "web_search", "input": {}}
    result = {"type": "web_search_tool_result", "tool_use_id": "srv", "content": []}

    read = said(
        block(0, server, arguments('{"q":1}')),
        block(1, result),
        block(2, CALL, arguments('{"a":'), arguments(""), arguments("1}")),
        block(3, {"type": "mcp_tool_use", "id": "m", "name": "x", "input": {}}, arguments("{}")),
        block(4, CALL | {"id": "toolu_2"}),
    )

    assert read.calls == [("toolu_1", "f", '{"a":1}'), ("toolu_2", "f", "{}")]


def test_a_calls_first_chunk_has_its_names_and_the_others_only_its_index() -> None:
    data = to_openai(sse(message_start(), *block(0, CALL, arguments("{}")), *message_end("tool_use"))).data

    deltas = [each["choices"][0]["delta"] for each in data[1:3]]
    function = {"name": "f", "arguments": ""}
    assert deltas == [
        {"tool_calls": [{"index": 0, "id": "toolu_1", "type": "function", "function": function}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
    ]


def test_arguments_in_the_start_are_kept_unless_pieces_follow() -> None:
    whole = CALL | {"input": {"city": "Oslo"}}

    assert said(block(0, whole)).calls == [("toolu_1", "f", '{"city":"Oslo"}')]
    assert said(block(0, whole, arguments('{"city":"Bonn"}'))).calls == [("toolu_1", "f", '{"city":"Bonn"}')]


def test_calls_may_interleave() -> None:
    one, two = (block(i, CALL | {"id": f"toolu_{i}"}, arguments("{"), arguments("}")) for i in range(2))

    read = said([one[0], two[0], two[1], one[1], one[2], one[3], two[2], two[3]])

    assert read.calls == [("toolu_0", "f", "{}"), ("toolu_1", "f", "{}")]


# --- thinking


def thinking(*pieces: str, signature: str | None = "s1g") -> list[dict[str, Any]]:
    deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces]
    if signature is not None:
        deltas.append({"type": "signature_delta", "signature": signature})
    return block(0, {"type": "thinking", "thinking": "", "signature": ""}, *deltas)


def test_thinking_is_shown_at_once_and_handed_over_whole_at_its_stop() -> None:
    data = to_openai(sse(message_start(), *thinking("a", "b"), *message_end())).data

    whole = {"type": "thinking", "thinking": "ab", "signature": "s1g", "index": 0}
    deltas = [each["choices"][0]["delta"] for each in data[1:4]]
    assert deltas == [{"reasoning_content": "a"}, {"reasoning_content": "b"}, {"thinking_blocks": [whole]}]


def test_what_a_server_puts_into_a_start_is_kept() -> None:
    read = said(
        block(0, {"type": "thinking", "thinking": "so"}, {"type": "thinking_delta", "thinking": " then"}),
        block(1, {"type": "text", "text": "he"}, {"type": "text_delta", "text": "llo"}),
    )

    assert (read.reasoning, read.text) == ("so then", "hello")
    assert read.thoughts == [{"type": "thinking", "thinking": "so then"}]


def test_thoughts_are_counted_together_and_redacted_ones_show_nothing() -> None:
    redacted = block(1, {"type": "redacted_thinking", "data": "x"})

    read = said(thinking("a"), redacted, thinking("b", signature=None))

    assert read.reasoning == "ab"
    assert read.thoughts == [
        {"type": "thinking", "thinking": "a", "signature": "s1g"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "thinking", "thinking": "b", "signature": ""},
    ]


def test_a_thought_above_the_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_to_openai, "_MAX_THOUGHT", 3)

    assert said(thinking("ab", "c")).error is None
    error = said(thinking("ab", "cd")).error
    assert error and error["code"] == "upstream_protocol_error" and "more than 3 characters" in error["message"]


# --- sloppy servers


def test_events_without_an_index_mean_the_one_open_block() -> None:
    events = [*thinking("a"), *block(1, CALL, arguments('{"a":1}'))]
    for event in events:
        event.pop("index")

    read = said(events)

    assert read.calls == [("toolu_1", "f", '{"a":1}')]
    assert read.thoughts[0]["signature"] == "s1g"


def test_blocks_that_never_stop_end_with_the_message() -> None:
    read = said(thinking("a")[:-1], block(1, CALL)[:-1])

    assert read.thoughts == [{"type": "thinking", "thinking": "a", "signature": "s1g"}]
    assert read.calls == [("toolu_1", "f", "{}")]


def test_a_block_that_starts_again_ends_the_one_before() -> None:
    assert said(block(0, CALL)[:-1], block(0, CALL | {"id": "toolu_2"})).calls == [
        ("toolu_1", "f", "{}"),
        ("toolu_2", "f", "{}"),
    ]


def test_more_open_blocks_than_anybody_needs_are_refused() -> None:
    opened = [block(i, CALL)[0] for i in range(65)]

    assert said(opened[:64]).error is None
    error = said(opened).error
    assert error and "more than 64 content blocks" in error["message"]


def test_a_stream_may_lack_its_start() -> None:
    read = read_chunks(to_openai(sse(*TEXT[1:], *message_end()), answer_id="a").data)

    assert (read.text, read.reason) == ("hi", "stop")
    assert to_openai(sse(*TEXT, *message_end())).data[0]["choices"][0]["delta"]["role"] == "assistant"


def test_the_same_stream_gives_the_same_bytes() -> None:
    stream = sse(message_start(), *thinking("a"), *block(1, CALL), *message_end())

    assert to_openai(stream, include_usage=True).body == to_openai(stream, include_usage=True).body
