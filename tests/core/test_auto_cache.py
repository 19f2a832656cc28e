"""``cache: auto``: where breakpoints go when the client sets none, as values and as bytes."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.auto_cache import insert, marked, places
from relay.core.cache_control import check
from relay.core.job import Dialect
from relay.core.translate.request_to_anthropic import AnthropicOptions, to_anthropic
from relay.core.translate.request_to_openai import OpenAIOptions, to_openai
from tests.core.translate.strategies import Json, openai_requests
from tests.support import fixtures

EPHEMERAL = {"type": "ephemeral"}


def text(content: str = "x", **members: Any) -> Json:
    return {"type": "text", "text": content, **members}


def said(role: str, content: Any = "x", **members: Any) -> Json:
    return {"role": role, "content": content, **members}


Q, A = said("user"), said("assistant")
RESULT = said("user", [{"type": "tool_result", "tool_use_id": "c", "content": "x"}])
CALL = said("assistant", [{"type": "tool_use", "id": "c", "name": "f", "input": {}}])


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"messages": [Q]}, []),
        ({}, []),
        ({"messages": [Q, A, Q]}, ["messages.1.content"]),
        ({"messages": [Q, A, Q, Q]}, ["messages.1.content"]),
        ({"messages": [Q, A, Q, A, Q]}, ["messages.3.content"]),
        ({"messages": [Q, A]}, []),
        ({"messages": [Q, A, Q, A]}, ["messages.1.content"]),
        ({"messages": [Q, CALL, RESULT]}, ["messages.2.content.0"]),
        ({"messages": [Q, CALL, RESULT, A]}, ["messages.2.content.0"]),
        ({"messages": [Q, CALL, RESULT, A, Q]}, ["messages.3.content"]),
        ({"messages": [Q, CALL, RESULT, Q]}, ["messages.3.content"]),
        ({"messages": [Q, CALL, said("user", [*RESULT["content"], text()])]}, ["messages.2.content.1"]),
        ({"messages": [Q, CALL, RESULT, said("system", [text()])]}, ["messages.2.content.0"]),
        ({"messages": [Q, said("assistant", [text(), {"type": "thinking"}]), Q]}, ["messages.1.content.0"]),
        ({"messages": [Q, said("assistant", [text(), text("")]), Q]}, ["messages.1.content.0"]),
        ({"messages": [Q, said("assistant", [{"type": ["text"]}, 5]), Q]}, ["messages.0.content"]),
        ({"messages": [Q, said("assistant", ""), Q]}, ["messages.0.content"]),
        ({"messages": [Q, said("assistant", [{"type": "text"}]), Q]}, ["messages.0.content"]),
        (
            {"messages": [said("user", [{"type": "image", "source": {}}]), said("assistant", None), Q]},
            ["messages.0.content.0"],
        ),
        ({"system": "s", "messages": [Q]}, ["system"]),
        ({"system": "", "messages": [Q]}, []),
        ({"system": [text(), text(), text("")], "messages": [Q]}, ["system.1"]),
        ({"system": 5, "messages": 5, "tools": 5}, []),
        ({"tools": [{"name": "a"}, {"name": "b"}], "messages": [Q]}, ["tools.1"]),
        ({"tools": [{"name": "a"}, {"name": "b", "defer_loading": True}], "messages": [Q]}, ["tools.0"]),
        ({"tools": [{"name": "a", "defer_loading": True}], "messages": [Q]}, []),
        (
            {"messages": [Q, A, Q], "system": [text()], "tools": [{"name": "a"}]},
            ["tools.0", "system.0", "messages.1.content"],
        ),
    ],
)
def test_after_tools_system_and_the_last_stable_turn(request_: Json, expected: list[str]) -> None:
    assert list(places(request_, "anthropic")) == expected


@pytest.mark.parametrize(
    "kind", ["image", "document", "search_result", "container_upload", "tool_use", "tool_result", "image_url", "file"]
)
def test_any_block_that_is_sure_to_take_a_marker_may_be_the_last(kind: str) -> None:
    messages = [Q, said("assistant", [text(), {"type": kind}]), Q]
    assert places({"messages": messages}, "anthropic") == ("messages.1.content.1",)


S = said("system")
TOOL = said("tool", tool_call_id="c")


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([S, Q], ["messages.0.content"]),
        ([S, said("developer", [text(), text()]), Q], ["messages.1.content.1"]),
        ([said("system", ""), Q], []),
        ([S, said("system", ""), Q], ["messages.0.content"]),
        ([S], ["messages.0.content"]),
        ([Q, S, A, Q], ["messages.2.content"]),
        ([Q, A, S, Q], ["messages.1.content"]),
        ([S, Q, A, Q], ["messages.0.content", "messages.2.content"]),
        ([Q, said("assistant", None, tool_calls=[{"id": "c"}]), TOOL], ["messages.2.content"]),
        ([Q, said("assistant", None, tool_calls=[{"id": "c"}]), said("tool", [text()])], ["messages.2.content.0"]),
        ([Q, said("assistant", None, tool_calls=[{"id": "c"}]), TOOL, A, Q], ["messages.3.content"]),
        ([said("user", [{"type": "image_url"}]), said("assistant", ""), Q], ["messages.0.content.0"]),
        ([said("user", [{"type": "file"}]), said("assistant", ""), Q], ["messages.0.content.0"]),
        ([said("user", [{"type": "input_audio"}]), said("assistant", ""), Q], []),
    ],
)
def test_in_the_other_dialect_the_system_prompt_is_what_leads(messages: list[Json], expected: list[str]) -> None:
    assert list(places({"messages": messages}, "openai")) == expected


@pytest.mark.parametrize(
    "request_",
    [
        {"messages": [Q, A, Q], "cache_control": EPHEMERAL},
        {"messages": [Q, A, said("user", [text(cache_control=EPHEMERAL)])]},
        {"messages": [Q, A, said("user", cache_control=EPHEMERAL)]},
        {"messages": [Q, A, said("user", [text(prompt_cache_breakpoint={"mode": "explicit"})])]},
        {"messages": [Q, A, Q], "prompt_cache_options": {"mode": "explicit"}},
        {"messages": [Q, A, Q], "tools": [{"function": {"cache_control": EPHEMERAL}}]},
        {"messages": [Q, said("assistant", "x", tool_calls=[{"cache_control": "nonsense"}]), Q]},
    ],
)
def test_a_client_that_says_anything_about_caching_is_left_alone(request_: Json) -> None:
    assert places(request_, "openai") == ()
    assert marked(request_, "openai") is request_
    body = json.dumps(request_).encode()
    assert insert(body, "openai") == body


def test_the_markers_are_written_into_the_bytes_and_nothing_else_changes() -> None:
    body = (
        b'{ "tools":[{"name":"f" , "input_schema":{"a":1.10}} ],"system" : "caf\\u00e9",'
        b'"messages":[{"role":"user","content":"q"},{"role":"assistant","content":[{"cache_control":null,"type":"text",'
        b'"text":"x"}]},{"role":"user","content":"q"}], "model":"m" }'
    )
    mark = b'"cache_control":{"type":"ephemeral"}'
    assert insert(body, "anthropic") == (
        b'{ "tools":[{"name":"f" , "input_schema":{"a":1.10},%b} ],"system" : [{"type":"text","text":"caf\\u00e9",%b}],'
        b'"messages":[{"role":"user","content":"q"},{"role":"assistant","content":[{"type":"text",'
        b'"text":"x",%b}]},{"role":"user","content":"q"}], "model":"m" }'
    ) % (mark, mark, mark)


def test_a_body_without_a_place_for_a_marker_is_the_very_same() -> None:
    body = b' {"messages" : [{"role":"user","content":"q"}]} '
    assert insert(body, "anthropic") == body


DIALECTS: Any = st.sampled_from(["anthropic", "openai"])


@settings(max_examples=50)
@given(openai_requests(marks=False), DIALECTS)
def test_bytes_and_values_get_the_same_legal_markers(request: Json, dialect: Dialect) -> None:
    if dialect == "anthropic":
        request = to_anthropic(request, AnthropicOptions()).request
    before = json.dumps(request)
    expected = marked(request, dialect)
    assert json.dumps(request) == before
    assert json.loads(insert(before.encode(), dialect)) == expected
    found = places(request, dialect)
    assert [mark.ttl for mark in check(expected, dialect)] == ["5m"] * len(found)
    assert len(found) <= 3
    assert places(expected, dialect) == (() if found else found)


@settings(max_examples=50)
@given(openai_requests(marks=False))
def test_what_is_marked_before_translation_is_marked_after_it(request: Json) -> None:
    expected = marked(request, "openai")
    translation = to_anthropic(expected, AnthropicOptions())
    assert len(check(translation.request, "anthropic")) == len(places(request, "openai"))
    assert translation.changes == ()
    there = to_anthropic(request, AnthropicOptions()).request
    back = to_openai(marked(there, "anthropic"), OpenAIOptions(cache_control="keep"))
    assert len(check(back.request, "openai")) == len(places(there, "anthropic"))
    assert back.changes == ()


@pytest.mark.parametrize("dialect", ["anthropic", "openai"])
def test_every_legal_request_stays_legal(dialect: Dialect) -> None:
    for request in fixtures.requests(dialect).values():
        check(json.loads(insert(json.dumps(request).encode(), dialect)), dialect)
