"""Messages from events: what no recorded stream has, sloppy servers above all."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.assembly.logs import body_of, fed, payloads, snapshot_of
from tests.core.translate.playing import block, message_end, message_start, sse

Json = dict[str, Any]

TEXT = {"type": "text", "text": ""}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}


def text(piece: str) -> Json:
    return {"type": "text_delta", "text": piece}


def piece_of_json(piece: str) -> Json:
    return {"type": "input_json_delta", "partial_json": piece}


def message_of(*said: Any) -> Json:
    return dict(body_of("anthropic", [sse(*said)]))


def content_of(*blocks: list[Json]) -> Any:
    """The content of a message with these blocks."""
    return message_of(message_start(), *[event for events in blocks for event in events], *message_end())["content"]


def usage_of(start: Json, *deltas: Json) -> Any:
    """The usage of a message that tells of it in its start and these deltas."""
    said = [{"type": "message_delta", "delta": {}, "usage": usage} for usage in deltas]
    return message_of(message_start(usage=start), *said)["usage"]


# --- blocks


def test_blocks_grow_by_their_deltas() -> None:
    thinking = {"type": "thinking", "thinking": "", "signature": ""}
    thoughts = [{"type": "thinking_delta", "thinking": piece} for piece in ("h", "m")]
    signature = {"type": "signature_delta", "signature": "c2ln"}
    summary = {"type": "compaction_delta", "content": "So far.", "encrypted_content": "eA=="}

    assert content_of(
        block(0, thinking, *thoughts, signature),
        block(1, TEXT, text("a"), text("b")),
        block(2, CALL, piece_of_json(""), piece_of_json('{"a"'), piece_of_json(": 1}")),
        block(3, {"type": "compaction", "content": None}, summary),
    ) == [
        {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
        {"type": "text", "text": "ab"},
        {**CALL, "input": {"a": 1}},
        {"type": "compaction", "content": "So far.", "encrypted_content": "eA=="},
    ]


def test_citations_are_gathered_in_order() -> None:
    cite = [{"type": "citations_delta", "citation": {"cited_text": cited}} for cited in "xy"]

    (quoting,) = content_of(block(0, TEXT | {"citations": []}, text("a"), cite[0], text("b"), cite[1]))

    assert quoting == {"type": "text", "text": "ab", "citations": [{"cited_text": "x"}, {"cited_text": "y"}]}


def test_what_a_server_puts_into_the_start_comes_first() -> None:
    whole = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}

    assert content_of(block(0, {"type": "text", "text": "a"}, text("b")), block(1, whole)) == [
        {"type": "text", "text": "ab"},
        whole,
    ]


@pytest.mark.parametrize("kind", ["server_tool_use", "mcp_tool_use", "tool_of_tomorrow"])
def test_the_input_of_any_tool_is_parsed(kind: str) -> None:
    (call,) = content_of(block(0, {"type": kind, "input": {}}, piece_of_json('{"q":'), piece_of_json('"x"}')))

    assert call["input"] == {"q": "x"}


def test_input_keeps_every_digit() -> None:
    digits = '{"n":123456789012345678901234567890,"x":0.10000000000000000000000001}'
    events = [sse(message_start(), *block(0, CALL, piece_of_json(digits)))]

    assert digits.encode() in (fed("anthropic", events).body() or b"")


@pytest.mark.parametrize("cut", ['{"a":', '{"a":1', '"', "nonsense"])
def test_input_that_is_no_json_is_as_it_started(cut: str) -> None:
    assert content_of(block(0, CALL, piece_of_json(cut))) == [CALL]


def test_blocks_that_are_open_at_once_do_not_mix() -> None:
    starts = [{"type": "content_block_start", "index": index, "content_block": TEXT} for index in (0, 1)]
    deltas = [
        {"type": "content_block_delta", "index": index, "delta": text(piece)}
        for index, piece in [(0, "a"), (1, "x"), (0, "b"), (1, "y")]
    ]

    events = [sse(message_start(), *starts, *deltas)]

    assert [each["text"] for each in body_of("anthropic", events)["content"]] == ["ab", "xy"]
    assert len(payloads(snapshot_of("anthropic", events))) == 1 + 2 + 2


def test_a_server_without_indexes_has_one_block_at_a_time() -> None:
    events = block(0, TEXT, text("a"), text("b")) + block(0, TEXT, text("c"))
    for event in events:
        del event["index"]

    assert content_of(events) == [{"type": "text", "text": "ab"}, {"type": "text", "text": "c"}]


@pytest.mark.parametrize("beside", [{"delta": text("b") | {"mood": "calm"}}, {"delta": text("b"), "mood": "calm"}])
def test_a_delta_that_says_more_than_its_piece_goes_on_whole(beside: Json) -> None:
    more = {"type": "content_block_delta", "index": 0, **beside}
    start, *deltas, stop = block(0, TEXT, text("a"), text("c"), text("d"))
    stream = [message_start(), start, deltas[0], more, *deltas[1:], stop]

    said = payloads(snapshot_of("anthropic", [sse(*stream)]))

    assert said[2:5] == [deltas[0], more, {**deltas[1], "delta": text("cd")}]
    assert message_of(*stream)["content"] == [{"type": "text", "text": "abcd"}]


def test_pieces_of_another_kind_are_not_joined() -> None:
    events = block(0, {"type": "of_tomorrow"}, text("a"), piece_of_json("{}"), text("b"))

    said = payloads(snapshot_of("anthropic", [sse(message_start(), *events)]))

    assert said[1:] == events
    assert content_of(events) == [{"type": "of_tomorrow", "text": "ab", "input": {}}]


# --- the message


def test_before_its_start_there_is_no_message() -> None:
    events = [sse({"type": "ping"}, *block(0, TEXT, text("a")))]

    assert body_of("anthropic", events) is None


def test_a_second_start_starts_nothing() -> None:
    assert message_of(message_start(), message_start(id="other"), *message_end())["id"] == "msg_1"


def test_nothing_counts_after_the_end() -> None:
    stop, end = message_end()

    assert message_of(message_start(), stop, end, *block(0, TEXT, text("late")))["content"] == []
    assert message_of(message_start(), {"type": "error"}, *block(0, TEXT, text("late")))["content"] == []


def test_the_end_tells_of_the_whole_message() -> None:
    container = {"id": "c_1", "expires_at": "2026-11-22T00:00:00Z"}
    stop, end = message_end("stop_sequence", stop_sequence="END", container=container, stop_details=None)

    message = message_of(message_start(container=None), stop | {"context_management": {"applied_edits": []}}, end)

    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "END")
    assert (message["container"], message["stop_details"]) == (container, None)
    assert message["context_management"] == {"applied_edits": []}


def test_null_takes_nothing_back() -> None:
    stop, end = message_end("end_turn", container={"id": "c_1"})
    later = {"type": "message_delta", "delta": {"stop_reason": None, "container": None}, "usage": {"output_tokens": 6}}

    message = message_of(message_start(), stop, later, end)

    assert (message["stop_reason"], message["container"]) == ("end_turn", {"id": "c_1"})
    assert message["usage"]["output_tokens"] == 6


def test_the_last_fallback_names_the_model() -> None:
    hops = [block(at, {"type": "fallback", "to": {"model": f"model-{at}"}}) for at in range(2)]

    assert message_of(message_start(), *hops[0], *hops[1])["model"] == "model-1"


# --- usage


def test_usage_is_running_totals() -> None:
    assert usage_of({"input_tokens": 3, "output_tokens": 1}, {"output_tokens": 5}, {"output_tokens": 9}) == {
        "input_tokens": 3,
        "output_tokens": 9,
    }


def test_zeros_and_nulls_of_the_end_take_nothing_back() -> None:
    start = {"input_tokens": 3, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 5, "output_tokens": 1}
    zeros = dict.fromkeys(start, 0)

    assert usage_of(start, zeros) == start | {"output_tokens": 0}
    assert usage_of(start, dict.fromkeys(start)) == start
    assert usage_of({"input_tokens": 0}, {"input_tokens": 7}) == {"input_tokens": 7}


def test_what_was_said_of_the_call_holds_and_unknown_members_are_merged() -> None:
    start = {"service_tier": "standard", "speed": None, "quantum_tokens": 1}

    assert usage_of(start, {"service_tier": "batch", "speed": "fast", "quantum_tokens": 2, "new": {}}) == {
        "service_tier": "standard",
        "speed": "fast",
        "quantum_tokens": 2,
        "new": {},
    }


def test_after_a_fallback_the_numbers_are_those_of_the_attempt_that_served() -> None:
    start = {"input_tokens": 3, "cache_creation_input_tokens": 5, "cache_creation": {"ephemeral_5m_input_tokens": 5}}
    split = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}
    passes = [{"type": "message"}, {"type": "fallback_message", "cache_creation": split}]

    usage = usage_of(start, {"input_tokens": 0, "cache_creation_input_tokens": 0, "iterations": passes})

    assert usage == {
        "input_tokens": 0,
        "cache_creation_input_tokens": 0,
        "cache_creation": split,
        "iterations": passes,
    }


@pytest.mark.parametrize(("searches", "short"), [(1, 7), (0, 4)])
def test_a_server_tools_own_writes_join_the_split(searches: int, short: int) -> None:
    split = {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 2}
    start = {"cache_creation_input_tokens": 6, "cache_creation": split}
    end = {"cache_creation_input_tokens": 9, "server_tool_use": {"web_search_requests": searches}}

    assert usage_of(start, end)["cache_creation"] == split | {"ephemeral_5m_input_tokens": short}


def test_no_split_is_made_up() -> None:
    end = {"cache_creation_input_tokens": 9, "server_tool_use": {"web_search_requests": 1}}

    assert "cache_creation" not in usage_of({"input_tokens": 1}, end)
    assert "usage" not in message_of({"type": "message_start", "message": {"id": "m"}})
