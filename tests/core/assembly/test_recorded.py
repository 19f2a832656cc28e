"""The recorded streams: what their bodies say, and the law of the snapshot and its tail, cut everywhere."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.anthropic import AnthropicMeter
from relay.core.assembly.assembly import Assembly
from relay.core.frame import EVENTS, Frame, split_events
from relay.core.job import Dialect
from relay.core.meter import Meter
from relay.core.openai import OpenAIMeter
from relay.core.sse import Decoder
from tests.core.assembly.logs import COMPLETIONS, LOGS, MESSAGES, RESPONSES, Log, body_of, fed, payloads, snapshot_of

every_log = pytest.mark.parametrize("log", LOGS, ids=str)
WITH_BODY = [log for log in LOGS if log.name != "error-first-event"]
SHORT = [log for log in LOGS if len(log.stream) < 10_000]


def meter_of(dialect: Dialect) -> Meter:
    return AnthropicMeter() if dialect == "anthropic" else OpenAIMeter()


def seen(dialect: Dialect, events: list[bytes]) -> dict[str, Any]:
    """Everything that a worker would note of these events, but for the provider's first usage as it came."""
    meter = meter_of(dialect)
    for event in Decoder().feed(b"".join(events)):
        meter.see(event)
    names = ("outcome", "error", "stop_reason", "refusal_category", "model", "message_id", "visible", "ended")
    usage = meter.usage and replace(meter.usage, first_raw=None)
    return {"usage": usage, **{name: getattr(meter, name) for name in names}}


def text_of(message: dict[str, Any]) -> str:
    return "".join(block["text"] for block in message["content"] if block["type"] == "text")


# --- bodies


@pytest.mark.parametrize("log", [log for log in MESSAGES if log in WITH_BODY], ids=str)
def test_a_message_says_what_is_expected_of_its_stream(log: Log) -> None:
    message, expected = body_of("anthropic", log.events), log.expected
    thoughts = [block for block in message["content"] if "thinking" in block["type"]]
    calls = [{name: block[name] for name in ("id", "name", "input")} for block in message["content"] if is_call(block)]
    citations = sum(len(block.get("citations", [])) for block in message["content"])

    assert (text_of(message), thoughts) == (expected["text"], expected.get("thinking", []))
    # A whole message cannot hold half an object.
    assert calls == [
        {"id": call["id"], "name": call["name"], "input": call["input"] or {}}
        for call in expected.get("tool_calls", [])
    ]
    for name in ("stop_sequence", "stop_details"):
        assert name not in expected or message[name] == expected[name]
    assert citations == expected.get("citations", 1 if log.name == "server-tool-use" else 0)


def is_call(block: dict[str, Any]) -> bool:
    return bool(block["type"] == "tool_use")


@pytest.mark.parametrize("log", COMPLETIONS, ids=str)
def test_a_completion_says_what_is_expected_of_its_stream(log: Log) -> None:
    completion, expected = body_of("openai", log.events), log.expected
    first, *more = completion["choices"]
    message = first["message"]
    calls = [{"id": call["id"], **call["function"]} for call in message.get("tool_calls", [])]

    reason = None if expected["outcome"] == "error" else expected["finish_reason"]
    assert (message["content"] or "", first["finish_reason"]) == (expected["text"], reason)
    assert calls == expected.get("tool_calls", [])
    assert message.get("refusal") == expected.get("refusal")
    assert message.get("reasoning_content") == expected.get("reasoning")
    assert all(set(call) == {"id", "type", "function"} for call in message.get("tool_calls", []))
    texts = [(each["index"], each["message"]["content"]) for each in completion["choices"]]
    assert not more or texts == [(each["index"], each["text"]) for each in expected["choices"]]


@pytest.mark.parametrize("log", WITH_BODY, ids=str)
def test_the_account_of_a_body_is_that_of_its_stream(log: Log) -> None:
    """The usage as it would be billed, though the markers of the request are unknown here."""
    meter, expected = meter_of(log.dialect), log.expected

    meter.see_body(fed(log.dialect, log.events).body() or b"")

    assert (meter.message_id, meter.model) == (expected["message_id"], expected["model"])
    usage = meter.usage and {**meter.usage.as_dict(), "final": (expected["usage"] or {}).get("final")}
    assert usage == expected["usage"]


def test_a_stream_that_only_failed_has_no_body() -> None:
    (log,) = [log for log in LOGS if log not in WITH_BODY]

    assembly = fed(log.dialect, log.events)

    assert assembly.body() is None
    assert assembly.snapshot() == log.events


# --- snapshots


@every_log
def test_a_snapshot_and_the_tail_add_up_to_the_whole_at_every_cut(log: Log) -> None:
    whole = fed(log.dialect, log.events)

    for cut in range(len(log.events) + 1):
        late = fed(log.dialect, [*snapshot_of(log.dialect, log.events[:cut]), *log.events[cut:]])
        assert (late.body(), late.snapshot()) == (whole.body(), whole.snapshot())


@every_log
def test_a_snapshot_tells_a_meter_what_its_events_told(log: Log) -> None:
    for cut in range(len(log.events) + 1):
        assert seen(log.dialect, snapshot_of(log.dialect, log.events[:cut])) == seen(log.dialect, log.events[:cut])


@pytest.mark.parametrize("log", MESSAGES, ids=str)
def test_a_snapshot_of_a_message_has_one_delta_for_each_kind_in_a_block(log: Log) -> None:
    said = payloads(snapshot_of("anthropic", log.events))
    deltas = [(each["index"], each["delta"]["type"]) for each in said if each["type"] == "content_block_delta"]

    assert all(delta != following for delta, following in pairwise(deltas))
    # A citation keeps its place between two pieces of text.
    assert len(deltas) == len(set(deltas)) or log.expected.get("citations") or log.name == "server-tool-use"
    assert {"type": "ping"} not in said


@pytest.mark.parametrize("log", COMPLETIONS, ids=str)
def test_a_snapshot_of_a_completion_has_one_chunk_for_each_choice(log: Log) -> None:
    said = payloads(snapshot_of("openai", log.events))
    chunks = [each for each in said if "choices" in each and "error" not in each]

    indexes = [choice["index"] for each in chunks for choice in each["choices"]]
    assert indexes == list(range(len(log.expected.get("choices", [0]))))
    assert [bool(each["choices"]) for each in chunks] == [True] * len(indexes) + [False] * (len(chunks) - len(indexes))
    assert all(each["object"] == "chat.completion.chunk" for each in chunks)
    assert len(chunks) - len(indexes) == (log.expected["usage"] is not None)


@pytest.mark.parametrize("log", RESPONSES, ids=str)
def test_events_of_another_api_pass_unchanged(log: Log) -> None:
    assembly = fed("openai", log.events)

    assert assembly.body() is None
    assert assembly.snapshot() == log.events


# --- feeding


@every_log
@pytest.mark.parametrize("size", [1, 7, 64, 1024])
def test_the_cuts_of_the_bytes_do_not_matter(log: Log, size: int) -> None:
    size = size if log in SHORT else 4096
    pieces = [log.stream[at : at + size] for at in range(0, len(log.stream), size)]

    assert fed(log.dialect, pieces).snapshot() == fed(log.dialect, [log.stream]).snapshot()


@given(st.sampled_from(SHORT), st.lists(st.floats(0, 1), max_size=20))
def test_any_cuts_of_the_bytes_do_not_matter(log: Log, places: list[float]) -> None:
    cuts = [0, *sorted(int(place * len(log.stream)) for place in places), len(log.stream)]

    cut = fed(log.dialect, [log.stream[start:end] for start, end in pairwise(cuts)])

    whole = fed(log.dialect, [log.stream])
    assert (cut.body(), cut.snapshot()) == (whole.body(), whole.snapshot())


@every_log
def test_a_frame_and_its_single_events_are_the_same(log: Log) -> None:
    frame = Frame(1, len(log.events), len(log.events), EVENTS, log.stream)

    assert fed(log.dialect, [frame.data]).snapshot() == fed(log.dialect, split_events(frame)).snapshot()


@every_log
def test_asking_at_every_event_changes_nothing(log: Log) -> None:
    asked = Assembly(log.dialect)
    for event in log.events:
        asked.feed(event)
        assert (asked.body(), asked.snapshot()) == (asked.body(), asked.snapshot())

    assert asked.snapshot() == snapshot_of(log.dialect, log.events)
