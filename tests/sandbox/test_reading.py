"""Requests with anything anywhere: the sandbox answers or refuses, it never trips."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relay.sandbox.answer import compose
from relay.sandbox.anthropic import DIALECT as ANTHROPIC
from relay.sandbox.cache import PrefixCache
from relay.sandbox.dialect import Dialect, Reply
from relay.sandbox.openai import DIALECT as OPENAI
from relay.sandbox.order import parse as parse_order
from relay.sandbox.reading import parse
from relay.sandbox.refusal import Refusal

FIXTURES = Path(__file__).parent / "fixtures/requests"
DEEP = json.loads('{"a":' * 400 + "0" + "}" * 400)
ODD: list[Any] = [None, True, 0, -1.5, "x", "", [], [1], [[]], {}, {"type": 1}, [{"type": "text"}], {"a": {"b": []}}]
ODD += ["gpt-" + "9" * 5000, 1 << 60, {"type": "auto", "a": DEEP}, {"const": DEEP, "type": "object"}, [DEEP]]
TEXT = {"type": "text", "text": "Hello", "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "30m"}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "array", "items": {"$ref": "#/x"}, "minItems": 1}}}

RICH_ANTHROPIC: dict[str, Any] = {
    "model": "claude-sonnet-4-6",
    "max_tokens": 2000,
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    "thinking": {"type": "enabled", "budget_tokens": 1024, "display": "omitted"},
    "stop_sequences": ["stop"],
    "stream": True,
    "tools": [{"name": "f", "input_schema": SCHEMA}],
    "tool_choice": {"type": "auto"},
    "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    "cache_control": {"type": "ephemeral"},
    "messages": [
        {
            "role": "user",
            "content": [
                {
                    "type": "document",
                    "title": "t",
                    "citations": {"enabled": True},
                    "source": {"type": "content", "content": [{"type": "text", "text": "x"}]},
                },
                {"type": "text", "text": "SANDBOX(tool=f)"},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "s"},
                {"type": "tool_use", "id": "t", "name": "f", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "y"}]}],
        },
    ],
}
RICH_OPENAI: dict[str, Any] = {
    "model": "gpt-6.1-sol",
    "max_completion_tokens": 50,
    "messages": [
        {"role": "system", "content": [TEXT]},
        {"role": "user", "content": [TEXT, {"type": "image_url", "image_url": {"url": "https://a.example/x"}}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c", "content": "y"},
    ],
    "stream": True,
    "stream_options": {"include_usage": True},
    "n": 2,
    "stop": ["stop"],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}],
    "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [CALL]}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
    "reasoning_effort": "low",
    "prompt_cache_options": {"mode": "implicit", "ttl": "30m"},
    "prompt_cache_retention": "24h",
}


def serve(dialect: Dialect, body: Any) -> None:
    """Everything between the request's bytes and the answer's, in both shapes of answer."""
    ask = dialect.read(parse(json.dumps(body).encode()), {"anthropic-version": "2023-06-01"})
    answer = compose(ask, parse_order(ask.orders))
    cache = PrefixCache()
    for now in (0.0, 1.0):
        plan = dialect.plan(cache, ask, b"", now)
        assert plan.uncached_tokens >= 0
        cache.begin(plan)
    reply = Reply(ask, answer, plan, "id", 0)
    choices = ask.body.get("n") or 1
    assert sum(event.tokens for event in dialect.events(reply)) == answer.output_tokens * choices
    assert dialect.whole(reply)["usage"]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


def with_value(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = json.loads(json.dumps(body))
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return changed


@pytest.mark.parametrize(("dialect", "body"), [(ANTHROPIC, RICH_ANTHROPIC), (OPENAI, RICH_OPENAI)], ids=lambda _: "")
def test_any_value_in_any_place_is_answered_or_refused(dialect: Dialect, body: dict[str, Any]) -> None:
    serve(dialect, body)
    for path in places(body):
        for value in ODD:
            try:
                serve(dialect, with_value(body, path, value))
            except Refusal as refusal:
                assert refusal.status in (400, 404), (path, value)
            except Exception as error:
                raise AssertionError(f"{path} = {value!r}") from error


@pytest.mark.parametrize("name", sorted(path.stem for path in (FIXTURES / "anthropic/valid").iterdir()))
def test_every_valid_fixture_is_answered(name: str) -> None:
    serve(ANTHROPIC, json.loads((FIXTURES / f"anthropic/valid/{name}.json").read_text())["request"])
