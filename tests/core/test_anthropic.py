"""The Anthropic meter on answers no fixture has: bad framing, bad servers, bad ends."""

import json
from typing import Any

import pytest

from relay.core.anthropic import AnthropicMeter
from relay.core.sse import Event

START = {
    "type": "message_start",
    "message": {"id": "m", "model": "c", "usage": {"input_tokens": 11, "output_tokens": 1}},
}
OPEN = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
TEXT = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}}
CLOSE = {"type": "content_block_stop", "index": 0}
END = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 20}}
STOP = {"type": "message_stop"}
ERROR = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}


def event(payload: Any, name: bytes = b"") -> Event:
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return Event(name, data, b"")


def meter_after(*payloads: Any) -> AnthropicMeter:
    meter = AnthropicMeter()
    for payload in payloads:
        meter.see(event(payload))
    return meter


def output_tokens(meter: AnthropicMeter) -> int:
    assert meter.usage is not None
    return meter.usage.output_tokens


# --- content


@pytest.mark.parametrize("payload", [OPEN, TEXT, {"index": 0, "delta": {}, "type": "content_block_delta"}])
def test_a_block_is_visible(payload: Any) -> None:
    assert meter_after(START, payload).visible


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_a_delta_is_visible_however_the_server_spaces_its_json(separators: tuple[str, str]) -> None:
    assert meter_after(json.dumps(TEXT, separators=separators).encode()).visible


@pytest.mark.parametrize("payload", [{"type": "ping"}, {"type": "brand_new_thing", "a": [1]}, END, STOP, ERROR])
def test_what_brings_no_content_is_not_visible(payload: Any) -> None:
    assert not meter_after(START, payload).visible


def test_the_event_name_does_not_matter() -> None:
    meter = AnthropicMeter()
    for payload in (START, TEXT, END, STOP):
        meter.see(event(payload, name=b"error"))

    assert (meter.outcome, output_tokens(meter)) == ("completed", 20)


# --- the end


def test_a_final_message_delta_is_not_the_end() -> None:
    meter = meter_after(START, OPEN, TEXT, CLOSE, END)

    assert (meter.outcome, meter.ended) == ("truncated", False)
    assert meter.usage is not None and meter.usage.final


def test_usage_given_before_the_stop_reason_is_not_final() -> None:
    running = {"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": 7}}

    meter = meter_after(START, TEXT, running)

    assert meter.usage is not None
    assert (meter.usage.output_tokens, meter.usage.final) == (7, False)


def test_an_error_is_the_outcome_whatever_came_before_or_comes_after() -> None:
    meter = meter_after(START, TEXT, END, ERROR, STOP)

    assert (meter.outcome, meter.ended) == ("error", True)
    assert meter.error == {"type": "overloaded_error", "message": "Overloaded", "code": None}
    assert meter.usage is not None and meter.usage.final


def test_nothing_counts_after_message_stop() -> None:
    later = {"type": "message_delta", "delta": {"stop_reason": "refusal"}, "usage": {"output_tokens": 999}}

    meter = meter_after(START, END, STOP, later, TEXT, ERROR)

    assert (meter.outcome, meter.stop_reason, output_tokens(meter)) == ("completed", "end_turn", 20)
    assert (meter.visible, meter.error) == (False, None)


def test_closing_usage_given_twice_counts_once() -> None:
    later = {**END, "usage": {"output_tokens": 21}}

    assert output_tokens(meter_after(START, END, later, STOP)) == 21


# --- errors in every place


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        ({"type": "error"}, {"type": None, "message": "", "code": None}),
        ({"type": "error", "error": "no"}, {"type": None, "message": "no", "code": None}),
        ({"error": {"code": 503, "message": "busy"}}, {"type": None, "message": "busy", "code": "503"}),
        (
            {
                "type": "error",
                "error": {"type": "rate_limit_error", "message": "m", "details": {"error_code": "spend"}},
            },
            {"type": "rate_limit_error", "message": "m", "code": "spend"},
        ),
        (
            {"type": "error", "error": {"type": ["x"], "message": {"a": 1}, "details": "?", "code": [1]}},
            {"type": None, "message": "", "code": None},
        ),
    ],
)
def test_an_error_is_read_in_any_shape(payload: Any, error: dict[str, Any]) -> None:
    assert meter_after(payload).error == error


def test_a_200_with_an_error_body_is_an_error() -> None:
    meter = AnthropicMeter()
    meter.see_body(json.dumps(ERROR).encode())

    assert (meter.outcome, meter.ended, meter.visible) == ("error", True, False)


def test_a_bare_error_after_the_last_event_is_an_error() -> None:
    meter = meter_after(START, TEXT)
    meter.see_body(b'{"error":{"code":503,"message":"high demand"}}')

    assert (meter.outcome, meter.visible) == ("error", True)


@pytest.mark.parametrize("body", [b"", b"<html>gateway</html>", b"[]", b"null", b"{}", b'{"input_tokens":9}', b"\xff"])
def test_a_body_that_is_no_message_is_no_success(body: bytes) -> None:
    meter = AnthropicMeter()
    meter.see_body(body)

    assert (meter.outcome, meter.ended, meter.usage) == ("truncated", False, None)


def test_a_message_with_a_broken_character_is_still_counted() -> None:
    """A model cut by max_tokens may end on half of a surrogate pair."""
    meter = AnthropicMeter()
    text = rb'{"type":"text","text":"\ud83d"}'
    meter.see_body(b'{"type":"message","content":[%b],"usage":{"input_tokens":3,"output_tokens":4}}' % text)

    assert (meter.outcome, output_tokens(meter)) == ("completed", 4)
    assert meter.usage is not None and meter.usage.final


# --- a fallback


def test_the_model_of_a_body_is_the_one_that_served() -> None:
    block = {"type": "fallback", "from": {"model": "first"}, "to": {"model": "second"}}
    passes = [{"type": "message", "model": "first"}, {"type": "fallback_message", "model": "second"}]
    by_block, by_usage = AnthropicMeter(), AnthropicMeter()

    by_block.see_body(json.dumps({"model": "first", "content": [block]}).encode())
    by_usage.see_body(json.dumps({"model": "first", "content": [], "usage": {"iterations": passes}}).encode())

    assert (by_block.model, by_usage.model) == ("second", "second")


# --- nothing raises


@pytest.mark.parametrize(
    "data",
    [
        b'{"type":"content_block_delta","del',
        b'{"x":"\xff\xfe\x80"}',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"type":"x","n":' + b"9" * 5000 + b"}",
        b'{"type":["message_stop"]}',
        b'{"type":"message_start","message":null}',
        b'{"type":"message_start","message":{"id":7,"model":[],"usage":"much"}}',
        b'{"type":"message_delta","delta":"end","usage":[1]}',
        b'{"type":"message_delta","usage":{"iterations":[null,1,{"type":[]}],"cache_creation":5}}',
        b'{"type":"content_block_start","content_block":{"type":"fallback","to":"x"}}',
        b"",
        b"null",
        b"7",
    ],
)
def test_an_event_that_makes_no_sense_changes_nothing_that_was_known(data: bytes) -> None:
    meter = meter_after(START, TEXT, data, END, STOP)

    assert (meter.outcome, meter.message_id, meter.model, meter.stop_reason) == ("completed", "m", "c", "end_turn")
    assert meter.usage is not None
    assert (meter.usage.input_tokens, meter.usage.output_tokens) == (11, 20)


def test_names_are_cut_to_what_a_record_may_hold() -> None:
    huge = {"type": "message_start", "message": {"id": "x" * 10**6, "model": "y" * 10**6}}
    meter = meter_after(huge, {"type": "error", "error": {"type": "z" * 10**6, "message": "m" * 10**6}})

    assert len(json.dumps([meter.message_id, meter.model, meter.error])) < 6000
