"""What is answered to what."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.sandbox.answer import compose
from relay.sandbox.dialect import Ask
from relay.sandbox.order import Order
from relay.sandbox.refusal import Refusal

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}}


def ask(said: str = "How are you?", **members: Any) -> Ask:
    return Ask(body={}, model="claude-sonnet-4-6", stream=False, blocks=(), said=said, orders="", **members)


def test_the_answer_shows_the_question_and_is_always_the_same() -> None:
    answer = compose(ask(), Order())
    assert "".join(answer.text).startswith("Sandbox answer to: How are you? No model was called")
    assert answer == compose(ask(), Order())
    assert answer.stop == "end"


def test_a_long_question_is_shortened_to_one_line() -> None:
    text = "".join(compose(ask("word\n" * 100), Order()).text)
    assert "word word" in text
    assert "…" in text
    assert len(text) < 250


@given(st.integers(0, 300))
def test_as_many_pieces_as_ordered(events: int) -> None:
    answer = compose(ask(), Order(events=events))
    assert len(answer.text) == answer.output_tokens == events


@given(st.integers(1, 60))
def test_an_answer_never_exceeds_the_limit_of_the_request(limit: int) -> None:
    members = {"thinks": True, "tools": {"weather": WEATHER}, "limit": limit}
    whole = compose(ask(**(members | {"limit": None})), Order(tool=("weather", "weather")))
    answer = compose(ask(**members), Order(tool=("weather", "weather")))
    assert answer.output_tokens == min(limit, whole.output_tokens)
    assert answer.stop == ("length" if limit < whole.output_tokens else "tool")


def test_a_forced_tool_is_called_without_a_word() -> None:
    answer = compose(ask(tools={"weather": WEATHER}, must_call=("weather",)), Order())
    assert answer.text == ()
    assert answer.stop == "tool"
    assert json.loads("".join(answer.calls[0].pieces)) == {"city": "How are you?"}
    assert len(answer.calls[0].pieces) > 1


def test_a_tool_without_parameters_is_called_without_pieces() -> None:
    answer = compose(ask(tools={"now": {"type": "object", "properties": {}}}), Order(tool=("now",)))
    assert "".join(answer.text) == "Calling now."
    assert answer.calls[0].pieces == ()


def test_only_one_tool_is_called_where_the_request_wants_no_more() -> None:
    answer = compose(ask(tools={"weather": WEATHER}, one_call=True), Order(tool=("weather", "weather")))
    assert [call.name for call in answer.calls] == ["weather"]
    assert "".join(answer.text) == "Calling weather."


def test_a_tool_the_request_does_not_have_cannot_be_ordered() -> None:
    with pytest.raises(Refusal, match="'weather'"):
        compose(ask(), Order(tool=("weather",)))


def test_a_schema_is_answered_with_json() -> None:
    assert json.loads("".join(compose(ask(schema=WEATHER), Order()).text)) == {"city": "How are you?"}


def test_the_answer_ends_before_a_stop_sequence() -> None:
    answer = compose(ask(stop_at=("called", "No model")), Order())
    assert "".join(answer.text) == "Sandbox answer to: How are you? "
    assert (answer.stop, answer.stop_sequence) == ("sequence", "No model")


def test_thinking_comes_before_text_and_counts_as_output() -> None:
    answer = compose(ask(thinks=True), Order(events=3))
    assert answer.thinking
    assert answer.output_tokens == len(answer.thinking) + 3
