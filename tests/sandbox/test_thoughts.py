"""Thoughts handed back: what the provider refuses in them, the sandbox refuses too."""

from typing import Any

import pytest

from relay.sandbox.refusal import Refusal
from relay.sandbox.thoughts import check, sign

THOUGHT = {"type": "thinking", "thinking": "It may rain.", "signature": sign("It may rain.")}
CALL = {"type": "tool_use", "id": "t", "name": "weather", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "t", "content": "rain"}
ENABLED = {"type": "enabled", "budget_tokens": 1024}


def conversation(*answer: dict[str, Any], thinking: dict[str, Any] | None = None) -> dict[str, Any]:
    answered = {"role": "assistant", "content": list(answer)}
    asked = {"role": "user", "content": "Will it rain?"}
    return {"messages": [asked, answered, {"role": "user", "content": [RESULT]}], "thinking": thinking}


def test_a_thought_comes_back_as_it_was() -> None:
    check(conversation(THOUGHT, CALL, thinking=ENABLED))


def test_a_thought_that_was_not_shown_comes_back_empty() -> None:
    check(conversation(THOUGHT | {"thinking": ""}, CALL, thinking=ENABLED))


@pytest.mark.parametrize("change", [{"thinking": "It may snow."}, {"signature": sign("It may snow.")}])
def test_a_changed_thought_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(Refusal, match=r"^messages\.1\.content\.0: Invalid `signature`") as refused:
        check(conversation(THOUGHT | change, CALL))
    assert refused.value.status == 400


def test_what_others_signed_is_theirs_to_judge() -> None:
    check(conversation(THOUGHT | {"signature": "EqQBCgIYAhIM"}, CALL, thinking=ENABLED))


def test_results_without_the_thought_that_led_to_the_calls_are_refused() -> None:
    with pytest.raises(Refusal, match=r"^messages\.1\.content\.0\.type: Expected `thinking`.* found `tool_use`"):
        check(conversation(CALL, thinking=ENABLED))


@pytest.mark.parametrize("thinking", [None, {"type": "adaptive"}, {"type": "disabled"}])
def test_only_enabled_thinking_asks_for_the_thought(thinking: dict[str, Any] | None) -> None:
    check(conversation(CALL, thinking=thinking))


def test_a_redacted_thought_is_one() -> None:
    check(conversation({"type": "redacted_thinking", "data": "x"}, CALL, thinking=ENABLED))


def test_an_answer_without_calls_needs_none() -> None:
    check(conversation({"type": "text", "text": "Perhaps."}, thinking=ENABLED))
    check({"messages": [{"role": "assistant", "content": "Perhaps."}], "thinking": ENABLED})
