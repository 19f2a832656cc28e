"""A Chat Completion stream as Messages events: what no recorded stream has, the order of blocks above all."""

from __future__ import annotations

from typing import Any

import pytest

from relay.core.translate import block_row
from tests.core.translate.playing import call_piece, chunk, read_message, sse, to_anthropic

ROLE = chunk({"role": "assistant", "content": ""})
START_A = call_piece("", index=0, id="call_a", name="f")
START_B = call_piece("", index=1, id="call_b", name="g")


def stream(*deltas: dict[str, Any], finish: str = "stop") -> bytes:
    """A stream of these deltas after the usual first one, to its end."""
    return sse(ROLE, *[chunk(delta) for delta in deltas], chunk({}, finish), "[DONE]")


def message(*deltas: dict[str, Any], finish: str = "stop") -> dict[str, Any]:
    return read_message(to_anthropic(stream(*deltas, finish=finish)).data)


def calls(*deltas: dict[str, Any]) -> list[tuple[str, str, str]]:
    blocks = message(*deltas, finish="tool_calls")["content"]
    return [(block["id"], block["name"], block.get("json", "")) for block in blocks]


def steps(*deltas: dict[str, Any]) -> list[list[str]]:
    """What each delta sets free, in short: start, stop, or the piece."""
    out, before = [], len(to_anthropic(sse(ROLE)).data) - 1
    for count in range(1, len(deltas) + 1):
        data = to_anthropic(sse(ROLE, *[chunk(delta) for delta in deltas[:count]])).data[:-1]  # but for the error
        out.append([short(event) for event in data[before:]])
        before = len(data)
    return out


def short(event: dict[str, Any]) -> str:
    if event["type"] == "content_block_delta":
        return str(next(value for name, value in event["delta"].items() if name != "type"))
    return f"{event['type'].removeprefix('content_block_')} {event['index']}"


# --- the whole form


def test_a_message_starts_empty_and_ends_with_its_reason_and_usage() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}

    data = to_anthropic(sse(ROLE, chunk({"content": "hi"}), chunk({}, "stop", usage=usage), "[DONE]")).data

    zeros = {"input_tokens": 0, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    start = {"id": "cc_1", "type": "message", "role": "assistant", "model": "g", "content": []}
    stop = {"stop_reason": None, "stop_sequence": None, "stop_details": None, "container": None}
    unknown = zeros | {"cache_creation": None, "output_tokens": 0}
    assert data[0] == {"type": "message_start", "message": start | stop | {"usage": unknown}}
    counts = zeros | {"input_tokens": 5, "cache_read_input_tokens": 4, "output_tokens": 3}
    split = {"cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}}
    assert data[-2:] == [
        {"type": "message_delta", "delta": stop | {"stop_reason": "end_turn"}, "usage": counts | split},
        {"type": "message_stop"},
    ]


def test_usage_on_every_chunk_is_told_at_the_start_too() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 0}
    later = usage | {"completion_tokens": 3}

    data = to_anthropic(sse(ROLE | {"usage": usage}, chunk({}, "stop", usage=later), "[DONE]")).data

    assert data[0]["message"]["usage"]["input_tokens"] == data[-2]["usage"]["input_tokens"] == 9
    assert (data[0]["message"]["usage"]["output_tokens"], data[-2]["usage"]["output_tokens"]) == (0, 3)


@pytest.mark.parametrize("where", ["on the finish chunk", "in the last chunk", "in a chunk without choices"])
def test_usage_is_found_wherever_it_stands(where: str) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 3}
    finish, last = chunk({}, "stop"), chunk({})
    if where == "on the finish chunk":
        finish["usage"] = usage
    else:
        last |= {"usage": usage} | ({"choices": []} if "without" in where else {})

    assert read_message(to_anthropic(sse(ROLE, finish, last, "[DONE]")).data)["usage"]["input_tokens"] == 9


def test_the_tier_is_told_at_the_start_if_it_is_known_and_never_at_the_end() -> None:
    known = {"usage": {"prompt_tokens": 1, "completion_tokens": 1}, "service_tier": "default"}

    first, *_, last, _ = to_anthropic(sse(ROLE | known, chunk({}, "stop", **known), "[DONE]")).data

    assert first["message"]["usage"]["service_tier"] == "standard"
    assert "service_tier" not in last["usage"]


def test_a_provider_without_names_gets_those_of_the_job() -> None:
    nameless = {"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]}

    start = to_anthropic(sse(nameless), answer_id="msg_7", model="asked").data[0]["message"]

    assert (start["id"], start["model"]) == ("msg_7", "asked")


def test_the_message_starts_with_the_first_choice_not_with_azures_filter_report() -> None:
    report = {"id": "", "model": "", "choices": [], "prompt_filter_results": []}

    assert to_anthropic(sse(report, ROLE, chunk({}, "stop"))).data[0]["message"]["id"] == "cc_1"


def test_text_of_any_script_and_with_any_character_is_kept() -> None:
    text = 'é "\\ \n\t\x00 \u2028 \u0085 𝄞 </script>'

    assert message({"content": text})["content"] == [{"type": "text", "text": text}]


def test_content_in_parts_and_whole_messages_in_chunks_are_read() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "chart"}, {"type": "text", "text": "b"}]
    whole = {"id": "cc_1", "choices": [{"message": {"role": "assistant", "content": "c"}, "finish_reason": "stop"}]}

    assert message({"content": parts})["content"] == [{"type": "text", "text": "ab"}]
    assert read_message(to_anthropic(sse(whole)).data)["content"] == [{"type": "text", "text": "c"}]


def test_only_the_first_choice_is_told() -> None:
    other = {"index": 1, "delta": {"content": "b"}, "finish_reason": "stop"}

    data = to_anthropic(sse(ROLE, {"choices": [other]}, chunk({"content": "a"}), chunk({}, "length"))).data

    assert read_message(data)["content"] == [{"type": "text", "text": "a"}]
    assert read_message(data)["stop_reason"] == "max_tokens"


# --- the end


@pytest.mark.parametrize(
    ("finish_reason", "stop_reason"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("tool_calls", "tool_use"),
        ("function_call", "tool_use"),
        ("content_filter", "refusal"),
        ("from_the_future", "end_turn"),
    ],
)
def test_every_finish_reason_has_its_stop_reason(finish_reason: str, stop_reason: str) -> None:
    assert message({"content": "x"}, finish=finish_reason)["stop_reason"] == stop_reason


@pytest.mark.parametrize(("finish", "reason"), [("stop", "tool_use"), ("odd", "tool_use"), ("length", "max_tokens")])
def test_a_stop_beside_calls_means_that_they_are_to_be_made(finish: str, reason: str) -> None:
    assert message(START_A, call_piece("{}"), finish=finish)["stop_reason"] == reason


@pytest.mark.parametrize("finish", ["stop", "content_filter"])
def test_a_refusal_becomes_the_explanation_of_the_stop(finish: str) -> None:
    refused = message({"content": None, "refusal": "I can"}, {"refusal": "not."}, finish=finish)

    details = {"type": "refusal", "category": None, "explanation": "I cannot."}
    assert (refused["stop_reason"], refused["stop_details"], refused["content"]) == ("refusal", details, [])


def test_a_filter_without_words_is_a_refusal_without_them() -> None:
    details = {"type": "refusal", "category": None, "explanation": None}

    assert message({"content": "Par"}, finish="content_filter")["stop_details"] == details
    assert message({"content": "all"})["stop_details"] is None


def test_the_longest_refusal_is_cut() -> None:
    assert len(message({"refusal": "x" * 5000})["stop_details"]["explanation"]) == 4096


def test_a_finish_reason_without_done_is_an_end() -> None:
    assert read_message(to_anthropic(sse(ROLE, chunk({"content": "a"}, "stop"))).data)["stop_reason"] == "end_turn"


@pytest.mark.parametrize("end", [["[DONE]"], []])
def test_a_stream_without_a_finish_reason_is_an_error_of_ours(end: list[str]) -> None:
    played = to_anthropic(sse(ROLE, chunk({"content": "a"}), *end))

    told = read_message(played.data)["error"]
    assert (told["type"], told["details"]) == ("api_error", {"error_code": "upstream_truncated"})
    assert played.translator.error and played.translator.error.status == 502


def test_an_answer_that_is_no_completion_is_an_error() -> None:
    finished = {"type": "response.completed", "response": {"status": "completed"}}

    assert "error" in read_message(to_anthropic(sse(finished)).data)


def test_an_error_has_anthropics_form_and_is_the_last_word() -> None:
    error = {"error": {"message": "Slow down", "type": "tokens", "code": "rate_limit_exceeded"}}

    data = to_anthropic(sse(ROLE, chunk({"content": "a"}), error, chunk({"content": "b"}), "[DONE]")).data

    told = {"type": "rate_limit_error", "message": "Slow down", "details": {"error_code": "rate_limit_exceeded"}}
    assert data[-1] == {"type": "error", "error": told}


def test_what_waits_for_an_unfinished_call_is_lost_with_the_stream() -> None:
    data = to_anthropic(sse(ROLE, chunk(START_A), chunk(call_piece("{")), chunk(START_B))).data

    assert [event["type"] for event in data] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "error",
    ]


# --- the order of blocks


def test_pieces_of_one_kind_share_a_block_and_another_kind_opens_the_next() -> None:
    said = steps({"reasoning_content": "x"}, {"reasoning_content": "y"}, {"content": "a"}, {"content": "b"}, START_A)

    assert said == [["start 0", "x"], ["y"], ["stop 0", "start 1", "a"], ["b"], ["stop 1", "start 2"]]


def test_a_call_streams_at_once_and_gives_way_when_it_is_whole() -> None:
    said = steps(START_A, call_piece('{"a":'), call_piece("1}"), START_B, call_piece("{}", index=1))

    assert said == [["start 0"], ['{"a":'], ["1}"], ["stop 0", "start 1"], ["{}"]]


def test_a_call_that_comes_before_the_other_is_whole_waits_for_the_end() -> None:
    said = steps(START_A, call_piece("{"), START_B, call_piece('{"b"', index=1), call_piece("}"))

    assert said == [["start 0"], ["{"], [], [], ["}"]]
    assert calls(START_A, call_piece("{"), START_B, call_piece('{"b":2}', index=1), call_piece("}")) == [
        ("call_a", "f", "{}"),
        ("call_b", "g", '{"b":2}'),
    ]


def test_a_waiting_call_may_start_once_a_third_shows_that_the_first_is_whole() -> None:
    third = call_piece("", index=2, id="call_c", name="h")

    said = steps(START_A, START_B, call_piece("{}", index=1), call_piece("{}"), third)

    assert said == [["start 0"], [], [], ["{}"], ["stop 0", "start 1", "{}", "stop 1", "start 2"]]


def test_text_behind_a_call_waits_for_it() -> None:
    said = message(START_A, {"content": "a"}, {"content": "b"}, {"reasoning_content": "r"}, call_piece("{}"))

    kinds = [
        (block["type"], block.get("text") or block.get("thinking") or block.get("json")) for block in said["content"]
    ]
    assert kinds == [("tool_use", "{}"), ("text", "ab"), ("thinking", "r")]


@pytest.mark.parametrize("unfinished", ["", "1", '"x"', "[]", "[{}", '{"a":1', '{"a":1}}', "{} x"])
def test_only_a_whole_object_gives_way(unfinished: str) -> None:
    assert steps(START_A, call_piece(unfinished), START_B)[-1] == []


def test_a_call_that_goes_on_after_it_was_whole_is_an_error() -> None:
    error = message(START_A, call_piece("{}"), START_B, call_piece('{"a":1}'))["error"]

    assert error["details"] == {"error_code": "upstream_protocol_error"}
    assert calls(START_A, call_piece("{} "), START_B, call_piece("")) == [("call_a", "f", "{} "), ("call_b", "g", "")]


# --- tool calls of sloppy servers


def test_a_call_without_arguments_sends_no_piece() -> None:
    assert "json" not in message(START_A, call_piece(None), call_piece(" "))["content"][0]


def test_blanks_before_the_arguments_are_left_out() -> None:
    assert calls(START_A, call_piece(" "), call_piece(' {"a"'), call_piece(": 1}")) == [("call_a", "f", '{"a": 1}')]


def test_arguments_that_are_an_object_are_written() -> None:
    whole = {"tool_calls": [{"index": 0, "id": "x", "function": {"name": "f", "arguments": {"a": [1]}}}]}

    assert calls(whole) == [("x", "f", '{"a":[1]}')]


def test_a_repeated_id_or_name_is_not_appended() -> None:
    again = call_piece("}", id="call_a", name="f")

    assert calls(START_A, call_piece("{", name="f"), again) == [("call_a", "f", "{}")]


def test_without_an_index_the_id_tells_the_call() -> None:
    a, b = (call_piece("{", index=None, id=each, name="f") for each in "ab")

    got = calls(a, b, call_piece("}", index=None, id="a"), call_piece(" }", index=None, id="b"))

    assert got == [("a", "f", "{}"), ("b", "f", "{ }")]


def test_without_index_and_id_a_piece_belongs_to_the_last_call() -> None:
    b = call_piece("{", index=None, id="b", name="g")

    got = calls(call_piece("{}", index=None, id="a", name="f"), b, call_piece("}", index=None))

    assert got == [("a", "f", "{}"), ("b", "g", "{}")]


def test_one_index_for_all_calls_is_told_apart_by_ids() -> None:
    a = call_piece('{"a":1}', index=0, id="a", name="f")
    b = call_piece("{", index=0, id="b", name="f")

    assert calls(a, b, call_piece("}", index=0)) == [("a", "f", '{"a":1}'), ("b", "f", "{}")]
    # An id that changes without a name is a whim of the server's.
    assert calls(a, call_piece(" ", index=0, id="b")) == [("a", "f", '{"a":1} ')]


def test_a_call_without_an_id_gets_one_from_its_message_and_place() -> None:
    nameless = call_piece("{}", index=0, name="f")

    assert message({"content": "x"}, nameless)["content"][1]["id"] == "cc_1_1"


def test_a_name_may_come_late() -> None:
    late = [call_piece('{"a"', index=0, id="a"), call_piece(":1}", name="f")]

    assert steps(*late) == [[], ["start 0", '{"a":1}']]
    assert calls(call_piece("{}", index=0, id="a")) == [("a", "", "{}")]
    assert steps(late[0], {"content": "x"}, {"content": "y"}) == [[], [], []]


def test_other_entries_of_tool_calls_are_no_calls() -> None:
    assert message({"tool_calls": ["x", None]}, {"tool_calls": {"index": 0}})["content"] == []


# --- thinking


def thoughts(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"thinking_blocks": [{"index": k, **block} for k, block in enumerate(blocks)]}


def test_reasoning_without_a_signature_has_an_empty_one() -> None:
    assert message({"reasoning_content": "hm"})["content"] == [{"type": "thinking", "thinking": "hm", "signature": ""}]
    assert message({"reasoning": "hm"})["content"][0]["thinking"] == "hm"
    assert message({"reasoning_content": "a", "reasoning": "b"})["content"][0]["thinking"] == "a"


def test_a_signature_closes_the_thought_that_was_shown() -> None:
    whole = {"type": "thinking", "thinking": "ab", "signature": "s"}

    said = message({"reasoning_content": "a"}, {"reasoning_content": "b"}, thoughts(whole), {"reasoning_content": "c"})

    assert said["content"] == [whole, {"type": "thinking", "thinking": "c", "signature": ""}]


def test_a_thought_that_was_not_shown_comes_whole() -> None:
    omitted = {"type": "thinking", "thinking": "", "signature": "s"}
    whole = {"type": "thinking", "thinking": "t", "signature": "u"}
    redacted = {"type": "redacted_thinking", "data": "x"}

    assert message(thoughts(omitted, redacted), thoughts(whole))["content"] == [omitted, redacted, whole]


def test_a_thought_without_a_signature_says_nothing_new() -> None:
    piece = {"type": "thinking", "thinking": "a"}

    said = message({"reasoning_content": "a"} | thoughts(piece), thoughts({"type": "future", "signature": "s"}))

    assert said["content"] == [piece | {"signature": ""}]


def test_a_thought_that_waits_is_signed_where_it_waits() -> None:
    whole = {"type": "thinking", "thinking": "r", "signature": "s"}

    said = message(START_A, {"reasoning_content": "r"}, thoughts(whole), {"reasoning_content": "q"})

    assert said["content"][1:] == [whole, {"type": "thinking", "thinking": "q", "signature": ""}]


# --- bounds


def test_more_calls_than_anybody_makes_are_refused() -> None:
    many = [call_piece("{}", index=k, id=f"c{k}", name="f") for k in range(129)]

    assert len(calls(*many[:128])) == 128
    assert "more than 128 tool calls" in message(*many)["error"]["message"]


def test_what_is_held_back_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_row, "MAX_HELD", 5)

    assert "error" not in message(START_A, call_piece('{"a":'))
    assert "more than 5 characters" in message(START_A, call_piece("{"), {"content": "12345"})["error"]["message"]
    assert "error" not in message({"content": "1234"}, {"content": "5678"})
