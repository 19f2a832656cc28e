"""Messages to Chat Completions, row by row."""

import base64
import hashlib
import json
from typing import Any

import pytest

from relay.core.capabilities import Capability, Change
from relay.core.errors import InvalidRequest
from relay.core.translate.request_to_openai import OpenAIOptions, to_openai
from relay.core.translate.translation import Translation
from tests.core.translate.strategies import Json

EPHEMERAL = {"type": "ephemeral"}
ONE_HOUR = {"type": "ephemeral", "ttl": "1h"}
TOOL = {"name": "f", "input_schema": {"type": "object"}}
USER = {"role": "user", "content": "q"}


def translated(*messages: Json, options: OpenAIOptions | None = None, **members: Any) -> Translation:
    request = {"model": "m", "max_tokens": 5, "messages": list(messages or [USER])} | members
    return to_openai(request, options or OpenAIOptions())


def sent(*messages: Json, **members: Any) -> Json:
    return translated(*messages, **members).request


def kept(*messages: Json, capability: Capability = "keep", **members: Any) -> Translation:
    return translated(*messages, options=OpenAIOptions(cache_control=capability), **members)


def refused(*messages: Json, **members: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as error:
        translated(*messages, **members)
    return error.value


def text(content: str, marker: Json | None = None) -> Json:
    return {"type": "text", "text": content} | ({"cache_control": marker} if marker else {})


def user(*blocks: Any) -> Json:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> Json:
    return {"role": "assistant", "content": list(blocks)}


def tool_use(marker: Json | None = None, **members: Any) -> Json:
    block = {"type": "tool_use", "id": "c", "name": "f", "input": {}} | members
    return block | ({"cache_control": marker} if marker else {})


def result(content: Any = ..., marker: Json | None = None, **members: Any) -> Json:
    block = {"type": "tool_result", "tool_use_id": "c"} | ({} if content is ... else {"content": content}) | members
    return block | ({"cache_control": marker} if marker else {})


# ── members at the top ───────────────────────────────────────────────────────────────────────────────────────────────


def test_members_come_in_one_order_and_messages_last() -> None:
    everything = {
        "tools": [TOOL],
        "cache_control": EPHEMERAL,
        "service_tier": "auto",
        "seed": 5,
        "metadata": {"user_id": "u"},
        "output_config": {"format": {"type": "json_schema", "schema": {}}, "effort": "low"},
        "top_p": 1,
        "temperature": 1,
        "stop_sequences": ["x"],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        "stream": True,
        "system": "s",
    }
    request = kept(**everything).request
    order = "model max_completion_tokens stream stream_options stop temperature top_p safety_identifier service_tier "
    order += "reasoning_effort response_format seed cache_control tools tool_choice parallel_tool_calls messages"
    assert list(request) == order.split()
    assert list(request["messages"][0]) == ["role", "content"]


def test_a_bare_request_stays_bare() -> None:
    assert translated() == Translation({"model": "m", "max_completion_tokens": 5, "messages": [USER]}, (), ())


def test_null_is_absent_everywhere() -> None:
    names = "system tools tool_choice stop_sequences temperature top_p output_config thinking metadata service_tier "
    names += "stream cache_control top_k container mcp_servers seed"
    blocks = [text("q") | {"cache_control": None, "citations": None}]
    blocks += [{"type": "image", "source": {"type": "url", "url": "u"}, "transformations": None}]
    tool = TOOL | {"type": None, "description": None, "strict": None, "cache_control": None}
    nothing = dict.fromkeys(names.split())
    assert translated(**nothing) == translated()
    assert translated(user(*blocks), **(nothing | {"tools": [tool]})).dropped == ()
    assert sent(tools=[tool]) == sent(tools=[TOOL])
    config = {"effort": None, "format": None}
    assert translated(output_config=config, metadata={"user_id": None}, thinking={"type": None}) == translated()


@pytest.mark.parametrize(
    ("members", "name", "value"),
    [
        ({"max_tokens": 0}, "max_completion_tokens", 0),
        ({"stop_sequences": ["a", "b"]}, "stop", ["a", "b"]),
        ({"stop_sequences": []}, "stop", None),
        ({"temperature": 0}, "temperature", 0),
        ({"top_p": 0.5}, "top_p", 0.5),
        ({"output_config": {"effort": "xhigh"}}, "reasoning_effort", "xhigh"),
        ({"thinking": {"type": "disabled"}}, "reasoning_effort", "none"),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "low"}}, "reasoning_effort", "none"),
        ({"reasoning_effort": "minimal", "output_config": {"effort": "low"}}, "reasoning_effort", "minimal"),
        ({"metadata": {"user_id": "u" * 64}}, "safety_identifier", "u" * 64),
        ({"metadata": {}}, "safety_identifier", None),
        ({"service_tier": "auto"}, "service_tier", "auto"),
        ({"service_tier": "standard_only"}, "service_tier", "default"),
        ({"stream": False}, "stream", False),
        ({"stream": False}, "stream_options", None),
        ({"stream": True}, "stream", True),
        ({"stream": True}, "stream_options", {"include_usage": True}),
        ({"tools": []}, "tools", None),
        ({"mcp_servers": []}, "mcp_servers", None),
    ],
)
def test_a_member_has_this_counterpart_and_nothing_is_lost(members: Json, name: str, value: Any) -> None:
    translation = translated(**members)
    assert translation.request.get(name) == value
    assert (name in translation.request) == (value is not None)
    assert [each for each in translation.dropped if each != "mcp_servers"] == []


def test_a_users_name_that_is_too_long_becomes_its_digest() -> None:
    name = "é\ud800" + "u" * 63
    digest = hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()
    assert sent(metadata={"user_id": name})["safety_identifier"] == digest
    assert len(digest) == 64


def test_a_format_becomes_a_strict_schema() -> None:
    schema = {"z": 1, "a": {"cache_control": 5}}
    request = sent(output_config={"format": {"type": "json_schema", "schema": schema}})
    expected = {"type": "json_schema", "json_schema": {"name": "output", "strict": True, "schema": schema}}
    assert request["response_format"] == expected


@pytest.mark.parametrize(
    "name",
    [
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning_effort",
        "verbosity",
        "seed",
        "frequency_penalty",
        "presence_penalty",
        "logit_bias",
    ],
)
def test_a_member_of_openais_own_passes(name: str) -> None:
    translation = translated(**{name: {"any": "value"}})
    assert (translation.request[name], translation.dropped) == ({"any": "value"}, ())


@pytest.mark.parametrize(
    ("members", "dropped"),
    [
        ({"top_k": 5, "container": "c", "x": 0}, ("top_k", "container", "x")),
        ({"service_tier": "flex"}, ("service_tier",)),
        ({"service_tier": {}}, ("service_tier",)),
        ({"thinking": {"type": "adaptive"}}, ("thinking",)),
        ({"metadata": {"team": "a"}}, ("metadata.team",)),
        ({"output_config": {"x": 1}}, ("output_config.x",)),
        ({"n": 2}, ("n",)),
    ],
)
def test_what_has_no_counterpart_is_dropped_and_listed(members: Json, dropped: tuple[str, ...]) -> None:
    translation = translated(**members)
    assert (translation.request, translation.dropped) == (sent(), dropped)


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"mcp_servers": [{"url": "u"}]}, "mcp_servers.0"),
        ({"mcp_servers": 5}, "mcp_servers"),
        ({"output_config": 5}, "output_config"),
        ({"output_config": {"effort": 5}}, "output_config.effort"),
        ({"output_config": {"format": 5}}, "output_config.format"),
        ({"output_config": {"format": {"type": "grammar"}}}, "output_config.format.type"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"thinking": 5}, "thinking"),
        ({"metadata": 5}, "metadata"),
        ({"metadata": {"user_id": 5}}, "metadata.user_id"),
        ({"messages": {}}, "messages"),
        ({"messages": [5]}, "messages.0"),
        ({"system": 5}, "system"),
        ({"system": [5]}, "system.0"),
        ({"system": [{"type": "image"}]}, "system.0.type"),
        ({"tools": 5}, "tools"),
        ({"tools": [5]}, "tools.0"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(members: Json, param: str) -> None:
    error = refused(**members)
    assert error.param == param
    assert error.message.startswith(f"{param}: ")


def test_a_refusal_says_what_it_found() -> None:
    image = {"type": "image", "source": {"type": "file"}}
    document = {"type": "document", "source": {"type": "url"}}
    assert refused(user(image)).message.endswith(', got "file"')
    assert refused(user(document)).message.endswith(', got "url"')
    assert refused(tools=[{"type": "bash_20250124"}]).message.endswith(', got "bash_20250124"')
    assert refused(mcp_servers=[{}]).message.endswith(", got an object")
    assert refused(output_config={"format": {"type": "grammar"}}).message.endswith(', got "grammar"')


def test_a_provider_is_as_openai_was_unless_it_says_otherwise() -> None:
    assert OpenAIOptions() == OpenAIOptions("strip", "drop")


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("system", "content"),
    [("s", "s"), ([text("s")], "s"), ([text("s"), text("t")], [text("s"), text("t")])],
)
def test_the_system_prompt_is_one_message_before_all_others(system: Any, content: Any) -> None:
    assert sent(system=system)["messages"] == [{"role": "system", "content": content}, USER]


@pytest.mark.parametrize("system", ["", [], None])
def test_no_system_prompt_is_no_message(system: Any) -> None:
    assert sent(system=system)["messages"] == [USER]


def test_a_system_message_stays_where_it_stands() -> None:
    request = sent(USER, {"role": "system", "content": [text("s")]}, assistant(text("a")))
    assert [message["role"] for message in request["messages"]] == ["user", "system", "assistant"]
    assert request["messages"][1]["content"] == "s"


def test_results_become_messages_before_what_else_the_user_says() -> None:
    request = sent(user(text("a"), result("x"), text("b"), result([text("y"), text("z")], tool_use_id="d")))
    assert request["messages"] == [
        {"role": "tool", "tool_call_id": "c", "content": "x"},
        {"role": "tool", "tool_call_id": "d", "content": [text("y"), text("z")]},
        {"role": "user", "content": [text("a"), text("b")]},
    ]


IMAGE = {"type": "image", "source": {"type": "url", "url": "u"}}
IMAGE_PART = {"type": "image_url", "image_url": {"url": "u"}}


def test_what_a_tool_message_cannot_hold_begins_the_users_message() -> None:
    request = sent(user(result([text("x"), IMAGE]), result([IMAGE], tool_use_id="d"), text("q")))
    assert request["messages"] == [
        {"role": "tool", "tool_call_id": "c", "content": "x"},
        {"role": "tool", "tool_call_id": "d", "content": ""},
        {"role": "user", "content": [IMAGE_PART, IMAGE_PART, text("q")]},
    ]


@pytest.mark.parametrize("content", [..., None, "", []])
def test_a_result_without_content_is_empty(content: Any) -> None:
    assert sent(user(result(content)))["messages"] == [{"role": "tool", "tool_call_id": "c", "content": ""}]


@pytest.mark.parametrize("content", ["", None, []])
@pytest.mark.parametrize("role", ["user", "assistant", "system"])
def test_a_message_without_content_goes(role: str, content: Any) -> None:
    assert sent(USER, {"role": role, "content": content})["messages"] == [USER]


def test_an_assistants_text_comes_before_its_calls() -> None:
    answer = assistant(text("a"), tool_use(input={"b": [1], "a": "é"}), text("b"), tool_use(id="d", name="g"))
    function = {"name": "f", "arguments": '{"b":[1],"a":"é"}'}
    calls = [
        {"id": "c", "type": "function", "function": function},
        {"id": "d", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    assert sent(answer)["messages"] == [{"role": "assistant", "content": [text("a"), text("b")], "tool_calls": calls}]
    assert sent(assistant(tool_use()))["messages"][0]["content"] is None
    assert sent({"role": "assistant", "content": "a"})["messages"] == [{"role": "assistant", "content": "a"}]


def test_thinking_goes_or_travels_as_our_extension() -> None:
    thoughts = [
        {"type": "thinking", "thinking": "one", "signature": "s"},
        {"type": "redacted_thinking", "data": "d"},
        {"type": "thinking", "thinking": "", "signature": "t"},
        {"type": "thinking", "thinking": "two", "signature": "u"},
    ]
    dropped = translated(assistant(*thoughts, text("a")))
    assert dropped.request["messages"] == [{"role": "assistant", "content": "a"}]
    assert dropped.dropped == ("messages.content.thinking", "messages.content.redacted_thinking")
    assert sent(USER, assistant(*thoughts))["messages"] == [USER]
    extension = OpenAIOptions(reasoning="extension")
    said = translated(assistant(*thoughts, text("a"), tool_use()), options=extension)
    assert said.dropped == ()
    assert list(said.request["messages"][0].items())[:4] == [
        ("role", "assistant"),
        ("content", "a"),
        ("reasoning_content", "onetwo"),
        ("thinking_blocks", thoughts),
    ]
    hidden = sent(assistant(thoughts[1]), options=extension)
    assert hidden["messages"] == [{"role": "assistant", "content": None, "thinking_blocks": [thoughts[1]]}]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"content": "q"}, "role"),
        ({"role": 5, "content": "q"}, "role"),
        ({"role": "tool", "content": "q"}, "role"),
        ({"role": "user", "content": 5}, "content"),
        ({"role": "assistant", "content": 5}, "content"),
        ({"role": "system", "content": 5}, "content"),
        (user(5), "content.0"),
        (assistant(5), "content.0"),
        (user({}), "content.0.type"),
        (user({"type": ["text"]}), "content.0.type"),
        (user(text("a"), {"type": "search_result"}), "content.1.type"),
        (user(tool_use()), "content.0.type"),
        (user({"type": "text"}), "content.0.text"),
        (assistant({"type": "server_tool_use"}), "content.0.type"),
        (assistant({"type": "web_search_tool_result"}), "content.0.type"),
        (assistant(IMAGE), "content.0.type"),
        (assistant(tool_use(id=None)), "content.0.id"),
        (assistant(tool_use(name=5)), "content.0.name"),
        (assistant(tool_use(input=[])), "content.0.input"),
        (user(result(tool_use_id=None)), "content.0.tool_use_id"),
        (user(result(5)), "content.0.content"),
        (user(result([{"type": "tool_reference"}])), "content.0.content.0.type"),
        ({"role": "system", "content": [IMAGE]}, "content.0.type"),
        (user({"type": "image"}), "content.0.source"),
        (user({"type": "image", "source": {"type": "file", "file_id": "f"}}), "content.0.source.type"),
        (user({"type": "image", "source": {}}), "content.0.source.type"),
        (user({"type": "image", "source": {"type": "url"}}), "content.0.source.url"),
        (user({"type": "image", "source": {"type": "base64", "data": "d"}}), "content.0.source.media_type"),
        (user({"type": "image", "source": {"type": "base64", "media_type": "m"}}), "content.0.source.data"),
        (user({"type": "document", "source": 5}), "content.0.source"),
        (user({"type": "document", "source": {"type": "url", "url": "u"}}), "content.0.source.type"),
        (user({"type": "document", "source": {"type": "text"}}), "content.0.source.data"),
        (user({"type": "document", "source": {"type": "text", "data": "\ud800"}}), "content.0.source.data"),
        (user({"type": "document", "source": {"type": "file"}}), "content.0.source.file_id"),
        (user({"type": "document", "source": {"type": "content", "content": 5}}), "content.0.source.content"),
        (
            user({"type": "document", "source": {"type": "content", "content": [{"type": "x"}]}}),
            "content.0.source.content.0.type",
        ),
    ],
)
def test_a_message_that_cannot_be_served_is_refused_by_its_place(message: Json, param: str) -> None:
    error = refused(USER, message)
    assert error.param == f"messages.1.{param}"
    assert error.message.startswith(f"messages.1.{param}: ")


def data_url(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def base64_source(media_type: str, data: bytes) -> Json:
    return {"type": "base64", "media_type": media_type, "data": base64.b64encode(data).decode()}


@pytest.mark.parametrize(
    ("block", "part"),
    [
        (IMAGE, IMAGE_PART),
        (
            {"type": "image", "source": base64_source("image/png", b"ABC")},
            {"type": "image_url", "image_url": {"url": data_url("image/png", b"ABC")}},
        ),
        (
            {"type": "document", "source": base64_source("application/pdf", b"%PDF"), "title": "t"},
            {"type": "file", "file": {"file_data": data_url("application/pdf", b"%PDF"), "filename": "t"}},
        ),
        (
            {"type": "document", "source": base64_source("application/pdf", b"%PDF")},
            {"type": "file", "file": {"file_data": data_url("application/pdf", b"%PDF")}},
        ),
        (
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "é"}, "title": "t"},
            {"type": "file", "file": {"file_data": data_url("text/plain", "é".encode()), "filename": "t"}},
        ),
        (
            {"type": "document", "source": {"type": "file", "file_id": "f"}},
            {"type": "file", "file": {"file_id": "f"}},
        ),
    ],
)
def test_an_image_or_document_becomes_a_part(block: Json, part: Json) -> None:
    translation = translated(user(block))
    assert translation.request["messages"] == [{"role": "user", "content": [part]}]
    assert translation.dropped == ()
    marked = kept(user(block | {"cache_control": ONE_HOUR})).request
    assert marked["messages"][0]["content"] == [part | {"cache_control": ONE_HOUR}]


def test_a_document_of_blocks_becomes_their_parts() -> None:
    block = {
        "type": "document",
        "source": {"type": "content", "content": [text("a"), IMAGE]},
        "cache_control": ONE_HOUR,
    }
    (message,) = kept(user(block)).request["messages"]
    assert message["content"] == [text("a"), IMAGE_PART | {"cache_control": ONE_HOUR}]
    block = {"type": "document", "source": {"type": "content", "content": "a"}, "cache_control": ONE_HOUR}
    assert kept(user(block)).request["messages"][0]["content"] == [text("a", ONE_HOUR)]


def test_members_of_messages_and_blocks_that_are_dropped_are_listed() -> None:
    document = {"type": "document", "context": "c", "title": "t"}
    translation = translated(
        user(
            text("a") | {"citations": []},
            IMAGE | {"transformations": {}},
            document | {"source": {"type": "file", "file_id": "f"}},
            result("x", is_error=True),
        )
        | {"name": "bob"},
        assistant(tool_use(caller={"type": "direct"})),
        tools=[TOOL | {"defer_loading": True}],
    )
    content = ("citations", "transformations", "context", "title", "is_error", "caller")
    assert sorted(translation.dropped) == sorted(
        ["tools.defer_loading", "messages.name", *(f"messages.content.{name}" for name in content)]
    )
    by_blocks = document | {"source": {"type": "content", "content": "x"}}
    assert "messages.content.title" in translated(user(by_blocks)).dropped
    with_text = document | {"source": {"type": "text", "data": "x"}}
    assert "messages.content.title" not in translated(user(with_text)).dropped


# ── tools ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("tool", "function"),
    [
        (TOOL, {"name": "f", "parameters": {"type": "object"}}),
        (TOOL | {"type": "custom", "strict": False}, {"name": "f", "parameters": {"type": "object"}}),
        (
            {"strict": True, "input_schema": {"z": 1, "a": 2}, "description": "", "name": "f"},
            {"name": "f", "description": "", "parameters": {"z": 1, "a": 2}, "strict": True},
        ),
    ],
)
def test_a_tool_becomes_a_function(tool: Json, function: Json) -> None:
    translation = translated(tools=[tool])
    assert json.dumps(translation.request["tools"]) == json.dumps([{"type": "function", "function": function}])
    assert translation.dropped == ()


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({"type": "web_search_20250305", "name": "web_search"}, "type"),
        ({"input_schema": {}}, "name"),
        ({"name": "f"}, "input_schema"),
        ({"name": "f", "input_schema": 5}, "input_schema"),
    ],
)
def test_a_tool_without_a_counterpart_is_refused(tool: Json, param: str) -> None:
    assert refused(tools=[TOOL, tool]).param == f"tools.1.{param}"


@pytest.mark.parametrize(
    ("choice", "expected", "parallel"),
    [
        ({"type": "auto"}, "auto", None),
        ({"type": "none"}, "none", None),
        ({"type": "any", "disable_parallel_tool_use": True}, "required", False),
        ({"type": "any", "disable_parallel_tool_use": False}, "required", None),
        (
            {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
            {"type": "function", "function": {"name": "f"}},
            False,
        ),
    ],
)
def test_a_choice_becomes_a_choice_if_there_are_tools(choice: Json, expected: Any, parallel: bool | None) -> None:
    request = sent(tools=[TOOL], tool_choice=choice)
    assert (request["tool_choice"], request.get("parallel_tool_calls")) == (expected, parallel)
    assert sent(tool_choice=choice) == sent()


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        ("auto", "tool_choice"),
        ({}, "tool_choice.type"),
        ({"type": 5}, "tool_choice.type"),
        ({"type": "required"}, "tool_choice.type"),
        ({"type": "tool"}, "tool_choice.name"),
    ],
)
def test_a_choice_without_a_counterpart_is_refused(choice: Any, param: str) -> None:
    assert refused(tools=[TOOL], tool_choice=choice).param == param


# ── markers ──────────────────────────────────────────────────────────────────────────────────────────────────────────

MARKED = (
    user(text("a", ONE_HOUR), text("b")),
    assistant(text("c", EPHEMERAL), tool_use(EPHEMERAL)),
    user(result("x", EPHEMERAL), result([text("y"), text("z")], EPHEMERAL, tool_use_id="d"), text("e")),
)
FRAME: Json = {
    "tools": [TOOL | {"cache_control": ONE_HOUR}],
    "system": [text("s", ONE_HOUR)],
    "cache_control": EPHEMERAL,
}


def test_markers_stay_on_their_parts_whole_where_the_provider_takes_them() -> None:
    translation = kept(*MARKED, **FRAME)
    request, messages = translation.request, translation.request["messages"]
    assert translation.changes == ()
    assert request["cache_control"] == EPHEMERAL
    assert request["tools"][0]["cache_control"] == ONE_HOUR
    assert messages[0]["content"] == [text("s", ONE_HOUR)]
    assert messages[1]["content"] == [text("a", ONE_HOUR), text("b")]
    assert messages[2]["content"] == [text("c", EPHEMERAL)]
    assert messages[2]["tool_calls"][0]["cache_control"] == EPHEMERAL
    assert messages[3]["content"] == [text("x", EPHEMERAL)]
    assert messages[4]["content"] == [text("y"), text("z", EPHEMERAL)]


def test_a_provider_that_takes_none_gets_none_and_every_one_is_said() -> None:
    translation = translated(*MARKED, **FRAME)
    assert "cache_control" not in json.dumps(translation.request)
    assert translation.changes == (
        Change("tools.0", "1h"),
        Change("system.0", "1h"),
        Change("messages.0.content.0", "1h"),
        Change("messages.1.content.0", "5m"),
        Change("messages.1.content.1", "5m"),
        Change("messages.2.content.0", "5m"),
        Change("messages.2.content.1", "5m"),
        Change("", "5m"),
    )


def test_a_provider_with_breakpoints_of_its_own_gets_those_on_parts() -> None:
    translation = kept(*MARKED, capability="explicit_breakpoints", **FRAME)
    messages = translation.request["messages"]
    assert "cache_control" not in json.dumps(translation.request)
    assert messages[0]["content"] == [text("s") | {"prompt_cache_breakpoint": {"mode": "explicit", "ttl": "12h"}}]
    assert messages[4]["content"] == [text("y"), text("z") | {"prompt_cache_breakpoint": {"mode": "explicit"}}]
    assert translation.changes == (
        Change("tools.0", "1h"),
        Change("system.0", "1h", "12h"),
        Change("messages.0.content.0", "1h", "12h"),
        Change("messages.1.content.0", "5m", "30m"),
        Change("messages.1.content.1", "5m"),
        Change("messages.2.content.0", "5m", "30m"),
        Change("messages.2.content.1", "5m", "30m"),
        Change("", "5m"),
    )


def test_the_marker_of_a_result_falls_on_what_is_made_of_it() -> None:
    translation = kept(user(result([text("x"), IMAGE], ONE_HOUR)))
    tool, said = translation.request["messages"]
    assert (tool["content"], said["content"]) == ([text("x", ONE_HOUR)], [IMAGE_PART])
    tool, said = kept(user(result([IMAGE], ONE_HOUR))).request["messages"]
    assert (tool["content"], said["content"]) == ("", [IMAGE_PART | {"cache_control": ONE_HOUR}])
    translation = kept(user(result("", ONE_HOUR)))
    expected = {"role": "tool", "tool_call_id": "c", "content": "", "cache_control": ONE_HOUR}
    assert (translation.request["messages"], translation.changes) == ([expected], ())
    nested = kept(user(result([text("x", EPHEMERAL)], ONE_HOUR)))
    assert nested.request["messages"][0]["content"] == [text("x", EPHEMERAL)]
    assert nested.changes == (Change("messages.0.content.0", "1h"),)
