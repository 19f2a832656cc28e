"""An assembled body is the one that the provider would have answered unstreamed.

Two witnesses: every recorded whole answer, taken apart into a stream by the documented rules, in pieces of any size;
and the sandbox, which writes the same answer in both forms.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.job import Dialect
from relay.sandbox import anthropic, openai
from relay.sandbox.answer import compose
from relay.sandbox.cache import PrefixCache
from relay.sandbox.dialect import Reply
from relay.sandbox.order import parse
from tests.core.assembly.logs import bare, body_of
from tests.core.assembly.streaming import streamed_completion, streamed_message
from tests.core.translate.playing import sse
from tests.support.fixtures import ROOT, read_json

Json = dict[str, Any]


def answers(dialect: Dialect) -> list[Path]:
    found = sorted((ROOT / "responses" / dialect).glob("*.json"))
    # The Responses API is no surface of the relay's.
    return [path for path in found if "expected" not in path.name and not path.name.startswith("responses")]


MESSAGES, COMPLETIONS = answers("anthropic"), answers("openai")


# --- every recorded answer


@given(st.sampled_from(MESSAGES), st.integers(1, 20))
def test_a_recorded_message_comes_out_of_its_stream_as_it_was(path: Path, size: int) -> None:
    message = read_json(path)

    assert bare(body_of("anthropic", [sse(*streamed_message(message, size))])) == bare(message)


def without_empty_annotations(completion: Json) -> Json:
    """A stream without annotations does not mention them."""
    for choice in completion["choices"]:
        assert choice["message"].pop("annotations", []) == []
    return completion


@given(st.sampled_from(COMPLETIONS), st.integers(1, 20))
def test_a_recorded_completion_comes_out_of_its_stream_as_it_was(path: Path, size: int) -> None:
    completion = read_json(path)

    assembled = body_of("openai", [sse(*streamed_completion(completion, size))])

    assert bare(assembled) == bare(without_empty_annotations(completion))


# --- the sandbox, which writes both forms

DOCUMENT = {"type": "document", "source": {"type": "text", "data": "A lease."}, "citations": {"enabled": True}}
CITED = [{"role": "user", "content": [DOCUMENT, {"type": "text", "text": "How long?"}]}]
HELLO = [{"role": "user", "content": "What is a relay?"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
TOOL = {"name": "get_weather", "input_schema": SCHEMA}
BARE_TOOL = {"name": "get_time", "input_schema": {"type": "object", "properties": {}}}
FUNCTIONS = [{"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}]

ASKED_OF_ANTHROPIC: dict[str, Json] = {
    "text": {},
    "limit": {"max_tokens": 2},
    "stop sequence": {"stop_sequences": ["relay"]},
    "thinking": {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    "hidden thinking": {"thinking": {"type": "enabled", "budget_tokens": 1024, "display": "omitted"}},
    "tool": {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "get_weather"}},
    "tool without input": {"tools": [BARE_TOOL], "tool_choice": {"type": "tool", "name": "get_time"}},
    "citation": {"messages": CITED},
    "cache": {"cache_control": {"type": "ephemeral", "ttl": "1h"}, "system": "A long reference. " * 900},
}
ASKED_OF_OPENAI: dict[str, Json] = {
    "text": {},
    "limit": {"max_completion_tokens": 2},
    "choices": {"n": 3},
    "tool": {"tools": FUNCTIONS, "tool_choice": "required"},
    "tool for each choice": {"tools": FUNCTIONS, "tool_choice": "required", "n": 2},
}
ASKED = {
    **{f"anthropic: {name}": (anthropic.DIALECT, body) for name, body in ASKED_OF_ANTHROPIC.items()},
    **{f"openai: {name}": (openai.DIALECT, body) for name, body in ASKED_OF_OPENAI.items()},
}


@pytest.mark.parametrize("name", ASKED)
def test_the_sandbox_says_the_same_in_a_stream_and_in_one_piece(name: str) -> None:
    dialect, members = ASKED[name]
    model = {"anthropic": "claude-sonnet-4-6", "openai": "gpt-4o"}[dialect.name]
    body = {"model": model, "max_tokens": 4000, "messages": HELLO, "stream": True} | members
    if dialect.name == "openai":
        body["stream_options"] = {"include_usage": True}
    ask = dialect.read(body, {"anthropic-version": "2023-06-01"})
    reply = Reply(ask, compose(ask, parse()), dialect.plan(PrefixCache(), ask, b"scope", 0.0), "id", 1790000000)

    assembled = body_of(dialect.name, [event.raw for event in dialect.events(reply)])

    assert bare(assembled) == bare(dialect.whole(reply))
