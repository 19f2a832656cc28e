"""Requests that both dialects can express, as strategies: conversations as clients build them, turn after turn.

A request of these has at most three markers, all of one ttl, so that it is legal wherever its blocks go.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from hypothesis import strategies as st

Json = dict[str, Any]

texts = st.sampled_from(["a", "Bonjour, été", "\u2028 and \U0001f600", "{}", '"cache_control"', "a longer text"])
names = st.sampled_from(["get_weather", "now", "lookup-2"])
data = st.binary(min_size=1, max_size=6).map(lambda raw: base64.b64encode(raw).decode())
inputs = st.sampled_from(
    [
        {},
        {"z": 1, "a": "é"},
        {"cache_control": {"type": "ephemeral"}, "n": None},
        {"deep": [{"z": [True, {}], "a": -1.5e-7}], "big": 10**25},
    ]
)
schemas = inputs.map(lambda properties: {"type": "object", "properties": properties})


@st.composite
def openai_tools(draw: st.DrawFn) -> list[Json]:
    functions = []
    for name in draw(st.lists(names, max_size=3, unique=True)):
        function: Json = {"name": name}
        if draw(st.booleans()):
            function["description"] = draw(texts)
        function["parameters"] = draw(schemas)
        if draw(st.booleans()):
            function["strict"] = True
        functions.append({"type": "function", "function": function})
    return functions


text_parts = texts.map(lambda text: {"type": "text", "text": text})
image_parts = st.one_of(
    data.map(lambda d: {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{d}"}}),
    st.just({"type": "image_url", "image_url": {"url": "https://img.example/a.png"}}),
)
plain_files = texts.map(lambda text: "data:text/plain;base64," + base64.b64encode(text.encode()).decode())
file_data = plain_files | data.map(lambda d: f"data:application/pdf;base64,{d}")
files = st.fixed_dictionaries({"file_data": file_data}, optional={"filename": st.just("f")})
file_parts = (files | st.just({"file_id": "file_1"})).map(lambda file: {"type": "file", "file": file})
parts = text_parts | image_parts | file_parts


def content(kinds: st.SearchStrategy[Json]) -> st.SearchStrategy[Any]:
    return texts | st.lists(kinds, min_size=1, max_size=3)


@st.composite
def openai_turn(draw: st.DrawFn, number: int) -> list[Json]:
    """What is added to a conversation between two requests: an answer, what its tools said, and a new question."""
    calls = [f"call_{number}_{i}" for i in range(draw(st.integers(0, 2)))]
    answer: Json = {"role": "assistant", "content": draw(content(text_parts))}
    if calls:
        answer["content"] = draw(st.sampled_from([None, "Checking."]))
        answer["tool_calls"] = [
            {"id": call, "type": "function", "function": {"name": draw(names), "arguments": json.dumps(draw(inputs))}}
            for call in calls
        ]
    results = [{"role": "tool", "tool_call_id": call, "content": draw(content(text_parts))} for call in calls]
    question = [{"role": "user", "content": draw(content(parts))}]
    return [answer, *results, *(question if not calls or draw(st.booleans()) else [])]


@st.composite
def openai_conversations(draw: st.DrawFn, turns_max: int = 3) -> list[list[Json]]:
    """The turns of a conversation; joined up to any of them they are the messages of a request."""
    system = st.fixed_dictionaries({"role": st.sampled_from(["system", "developer"]), "content": content(text_parts)})
    opening = draw(st.lists(system, max_size=2))
    opening.append({"role": "user", "content": draw(content(parts))})
    turns = draw(st.integers(0, turns_max))
    return [opening, *(draw(openai_turn(number)) for number in range(turns))]


@st.composite
def openai_requests(draw: st.DrawFn, *, marks: bool = True) -> Json:
    """Any member that has a counterpart, in any order."""
    messages = [message for turn in draw(openai_conversations()) for message in turn]
    optional: dict[str, st.SearchStrategy[Any]] = {
        "max_completion_tokens": st.integers(1, 9999),
        "stop": st.lists(st.sampled_from(["END", "##"]), min_size=1, max_size=2),
        "temperature": st.sampled_from([0, 0.5, 1]),
        "top_p": st.just(0.9),
        "reasoning_effort": st.sampled_from(["none", "low", "medium", "high", "xhigh", "max"]),
        "response_format": schemas.map(_response_format),
        "safety_identifier": st.just("user-1"),
        "service_tier": st.sampled_from(["auto", "default"]),
        "stream": st.booleans(),
    }
    members = draw(st.fixed_dictionaries({}, optional=optional))
    if tools := draw(openai_tools()):
        members["tools"] = tools
        named = st.sampled_from(tools).map(lambda tool: {"type": "function", "function": {"name": _name(tool)}})
        members |= draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "tool_choice": st.sampled_from(["none", "auto", "required"]) | named,
                    "parallel_tool_calls": st.booleans(),
                },
            )
        )
    request: Json = json.loads(json.dumps({"model": "m", "messages": messages} | members))  # nothing shared
    if marks:
        mark(request, draw)
    return {name: request[name] for name in draw(st.permutations(list(request)))}


def mark(request: Json, draw: st.DrawFn) -> None:
    """Up to three markers in places that both dialects have."""
    marker: Json = {"type": "ephemeral"} | draw(st.sampled_from([{}, {"ttl": "5m"}, {"ttl": "1h"}]))
    marked_parts = [
        message["content"][-1] if message["role"] == "tool" else part
        for message in request["messages"]
        if isinstance(message["content"], list)
        for part in message["content"]
    ]
    calls = [call for message in request["messages"] for call in message.get("tool_calls", [])]
    places = [*request.get("tools", []), *marked_parts, *calls, request]
    for at in draw(st.lists(st.integers(0, len(places) - 1), max_size=3)):
        places[at]["cache_control"] = marker


def _response_format(schema: Json) -> Json:
    return {"type": "json_schema", "json_schema": {"name": "output", "strict": True, "schema": schema}}


def _name(tool: Json) -> str:
    return str(tool["function"]["name"])
