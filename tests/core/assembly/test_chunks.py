"""Completions from chunks: what no recorded stream has, sloppy servers above all."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relay.core.errors import UpstreamProtocolError
from tests.core.assembly.logs import body_of, fed, payloads, snapshot_of
from tests.core.translate.playing import call_piece, chunk, sse

Json = dict[str, Any]


def completion_of(*said: Any) -> Json:
    return dict(body_of("openai", [sse(*said)]))


def message_of(*deltas: Json, finish: str | None = None) -> Any:
    """The message that these deltas add up to."""
    return completion_of(*map(chunk, deltas), chunk({}, finish))["choices"][0]["message"]


def calls_of(*deltas: Json) -> list[tuple[str, str, str]]:
    """Id, name and arguments of the calls in these deltas; what a snapshot of some says of all is the same."""
    events = [sse(chunk(delta)) for delta in deltas]
    whole = body_of("openai", events)
    for cut in range(len(events)):
        assert body_of("openai", [*snapshot_of("openai", events[:cut]), *events[cut:]]) == whole
    calls = whole["choices"][0]["message"]["tool_calls"]
    return [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in calls]


# --- the message


def test_strings_are_appended_and_lists_grow() -> None:
    note = {"type": "url_citation", "url_citation": {"url": "https://a.example/"}}

    assert message_of(
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "a", "reasoning_content": "x"},
        {"content": "b", "reasoning_content": "y", "annotations": [note]},
        {"annotations": [note], "mood": "cal"},
        {"mood": "m"},
    ) == {
        "role": "assistant",
        "content": "ab",
        "refusal": None,
        "reasoning_content": "xy",
        "annotations": [note, note],
        "mood": "calm",
    }


def test_audio_grows_and_its_last_update_tells_when_it_expires() -> None:
    assert message_of(
        {"role": "assistant", "audio": {"id": "audio_1", "transcript": "Hel"}},
        {"audio": {"id": "audio_1", "data": "QUJD"}},
        {"audio": {"transcript": "lo", "data": "REVG"}},
        {"audio": {"expires_at": 1790000000}},
    )["audio"] == {"id": "audio_1", "transcript": "Hello", "data": "QUJDREVG", "expires_at": 1790000000}


def test_the_old_function_call_grows() -> None:
    said = message_of({"function_call": {"name": "f", "arguments": "{"}}, {"function_call": {"arguments": "}"}})

    assert said["function_call"] == {"name": "f", "arguments": "{}"}


def test_numbers_are_replaced_and_null_takes_nothing_back() -> None:
    assert message_of({"x": 1, "y": "a"}, {"x": 2, "y": None}) == {
        "role": "assistant",
        "content": None,
        "x": 2,
        "y": "a",
    }


def test_a_repeated_role_is_one_role() -> None:
    assert (
        message_of({"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"})["role"] == "assistant"
    )


def test_entries_with_an_index_grow_and_whole_blocks_lose_it() -> None:
    said = message_of(
        {"reasoning_details": [{"index": 0, "type": "reasoning.text", "format": "v1", "text": "a"}]},
        {"reasoning_details": [{"index": 0, "type": "reasoning.text", "format": "v1", "text": "b"}]},
        {"thinking_blocks": [{"index": 0, "type": "thinking", "thinking": "ab", "signature": "s"}]},
    )

    assert said["reasoning_details"] == [{"index": 0, "type": "reasoning.text", "format": "v1", "text": "ab"}]
    assert said["thinking_blocks"] == [{"type": "thinking", "thinking": "ab", "signature": "s"}]


def test_content_that_is_now_text_now_parts_loses_nothing() -> None:
    part = {"type": "thinking", "thinking": "hm"}

    assert message_of({"content": "a"}, {"content": [part]}, {"content": "b"})["content"] == [
        {"type": "text", "text": "a"},
        part,
        {"type": "text", "text": "b"},
    ]


@pytest.mark.parametrize(
    ("delta", "finish", "content"),
    [
        ({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]}, "tool_calls", None),
        ({"refusal": "No."}, "stop", None),
        ({}, "content_filter", None),
        ({"refusal": "", "tool_calls": []}, "stop", ""),
        ({}, "stop", ""),
        ({"reasoning_content": "hm"}, "length", ""),
    ],
)
def test_an_empty_text_is_null_where_something_else_was_said(delta: Json, finish: str, content: str | None) -> None:
    said = message_of({"role": "assistant", "content": ""}, delta, finish=finish)

    assert said["content"] == content


# --- calls


def test_calls_are_joined_by_index_whatever_their_order() -> None:
    assert calls_of(
        call_piece("", index=1, id="b", name="g"),
        call_piece("{", index=0, id="a", name="f"),
        call_piece('{"x":', index=1),
        call_piece("}", index=0),
        call_piece("1}", index=1),
    ) == [("a", "f", "{}"), ("b", "g", '{"x":1}')]


def test_names_and_ids_are_said_once() -> None:
    assert calls_of(call_piece("{", id="a", name="f"), call_piece("}", id="a", name="f")) == [("a", "f", "{}")]
    assert calls_of(call_piece("{", id="a", name="f"), call_piece("}", id="", name="")) == [("a", "f", "{}")]
    assert calls_of(call_piece("{"), call_piece("}", id="a", name="f")) == [("a", "f", "{}")]


def test_null_arguments_are_no_piece() -> None:
    nothing = {"tool_calls": [{"index": 0, "function": {"arguments": None}}]}

    assert calls_of(call_piece("{}", id="a", name="f"), nothing) == [("a", "f", "{}")]


def test_without_an_index_the_id_tells_or_else_the_last_call_is_meant() -> None:
    assert calls_of(
        call_piece("{", index=None, id="a", name="f"),
        call_piece("[", index=None, id="b", name="g"),
        call_piece("}", index=None, id="a"),
        call_piece("]", index=None),
    ) == [("a", "f", "{}"), ("b", "g", "[]")]


def test_another_id_and_name_at_the_same_index_are_another_call() -> None:
    assert calls_of(call_piece("{}", id="a", name="f"), call_piece("[", id="b", name="g"), call_piece("]")) == [
        ("a", "f", "{}"),
        ("b", "g", "[]"),
    ]


def test_several_pieces_of_a_call_may_come_in_one_chunk() -> None:
    first, second = (call_piece(piece, id="a", name="f")["tool_calls"][0] for piece in "{}")

    assert calls_of({"tool_calls": [first, second]}) == [("a", "f", "{}")]


# --- choices


def choice(index: int, **members: Any) -> Json:
    return {"id": "cc_1", "choices": [{"index": index, "delta": {}, **members}]}


def test_choices_come_in_order_of_their_index() -> None:
    completion = completion_of(choice(7, delta={"content": "b"}), choice(0, delta={"content": "a"}))

    assert [(each["index"], each["message"]["content"]) for each in completion["choices"]] == [(0, "a"), (7, "b")]


def test_more_choices_than_can_be_asked_for_are_refused() -> None:
    assembly = fed("openai", [sse(*[choice(index) for index in range(128)])])

    assembly.feed(sse(choice(0)))
    with pytest.raises(UpstreamProtocolError, match="128 choices"):
        assembly.feed(sse(choice(128)))
    with pytest.raises(UpstreamProtocolError, match="128 choices"):
        assembly.body()


def test_log_probabilities_are_gathered() -> None:
    entries = [{"token": token, "logprob": -0.5, "bytes": [97], "top_logprobs": []} for token in "ab"]
    said = [choice(0, logprobs=None), *[choice(0, logprobs={"content": [each], "refusal": None}) for each in entries]]

    (whole,) = completion_of(*said)["choices"]

    assert whole["logprobs"] == {"content": entries, "refusal": None}


def test_other_members_of_a_choice_are_those_said_last() -> None:
    said = [choice(0, content_filter_results={"hate": at}, native_finish_reason=None) for at in (1, 2)]

    (whole,) = completion_of(*said, choice(0, finish_reason="stop"), choice(0, finish_reason=None))["choices"]

    assert whole["content_filter_results"] == {"hate": 2}
    assert (whole["finish_reason"], whole["native_finish_reason"]) == ("stop", None)


def test_a_whole_message_in_the_only_chunk_is_taken() -> None:
    said = {"id": "cc_1", "choices": [{"index": 0, "message": {"role": "assistant", "content": "a"}}]}

    assert completion_of(said)["choices"][0]["message"] == {"role": "assistant", "content": "a"}


# --- around the choices


def test_names_are_the_first_that_say_something_and_the_rest_the_last() -> None:
    empty = {"id": "", "created": 0, "model": "", "object": "", "choices": [], "prompt_filter_results": [1]}
    first = chunk({"content": "a"}, created=5, service_tier="auto", system_fingerprint="fp_1")
    second = chunk({}, "stop", created=6, service_tier="default", system_fingerprint=None, obfuscation="xyz")

    completion = completion_of(empty, first, second | {"id": "cc_2"})

    assert (completion["id"], completion["created"], completion["model"]) == ("cc_1", 5, "g")
    assert (completion["service_tier"], completion["system_fingerprint"]) == ("default", "fp_1")
    assert (completion["object"], completion["prompt_filter_results"]) == ("chat.completion", [1])
    assert "obfuscation" not in completion


def test_the_last_usage_counts_and_one_in_a_choice_only_without_it() -> None:
    in_choice = choice(0, usage={"prompt_tokens": 1})

    assert completion_of(in_choice)["usage"] == {"prompt_tokens": 1}
    assert "usage" not in completion_of(in_choice)["choices"][0]
    totals = [{"choices": [], "usage": {"prompt_tokens": count}} for count in (2, 3)]
    assert completion_of(in_choice, *totals, {"choices": [], "usage": None})["usage"] == {"prompt_tokens": 3}
    assert "usage" not in completion_of(chunk({}, usage=None))


def test_nothing_counts_after_the_end() -> None:
    late = chunk({"content": "late"})

    assert completion_of(chunk({"content": "a"}), "[DONE]", late)["choices"][0]["message"]["content"] == "a"
    failed = completion_of(chunk({"content": "a"}), {"error": {"message": "no"}}, late)
    assert failed["choices"][0]["message"]["content"] == "a"


# --- snapshots


def test_a_snapshot_has_the_form_of_chunks() -> None:
    stream = [chunk({"role": "assistant", "content": ""}, created=5, usage=None, obfuscation="x")]
    stream += [chunk({"content": piece}, created=5, usage=None) for piece in "ab"]
    totals = {"id": "cc_1", "choices": [], "usage": {"prompt_tokens": 1}}

    said = payloads(snapshot_of("openai", [sse(*stream, totals, "[DONE]")]))

    head = {"id": "cc_1", "object": "chat.completion.chunk", "model": "g", "created": 5}
    whole = {"index": 0, "delta": {"role": "assistant", "content": "ab"}, "finish_reason": None}
    assert said == [
        {**head, "choices": [whole], "usage": None},
        {**head, "choices": [], "usage": {"prompt_tokens": 1}},
        "[DONE]",
    ]


def test_an_error_goes_on_as_it_came_after_what_was_said() -> None:
    error = b'event: error\ndata: {"message": "no"}\n\n'

    *said, last = snapshot_of("openai", [sse(chunk({"content": "a"})), error])

    assert [json.loads(each[6:])["choices"][0]["delta"] for each in said] == [{"content": "a"}]
    assert last == error
