"""Chat Completions to Messages, row by row, where the fixtures leave something open."""

import base64
import json
from typing import Any

import pytest

from relay.core.capabilities import Change
from relay.core.errors import InvalidRequest
from relay.core.translate.request_to_anthropic import AnthropicOptions, to_anthropic
from relay.core.translate.translation import Translation
from tests.core.translate.strategies import Json

EPHEMERAL = {"type": "ephemeral"}
ONE_HOUR = {"type": "ephemeral", "ttl": "1h"}
TOOL = {"type": "function", "function": {"name": "f"}}
EMPTY_SCHEMA = {"type": "object", "properties": {}}


def translated(*messages: Json, options: AnthropicOptions | None = None, **members: Any) -> Translation:
    request = {"model": "m", "messages": list(messages or [{"role": "user", "content": "q"}])} | members
    return to_anthropic(request, options or AnthropicOptions())


def sent(*messages: Json, **members: Any) -> Json:
    return translated(*messages, **members).request


def refused(*messages: Json, **members: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as error:
        translated(*messages, **members)
    return error.value


def text(content: str, marker: Json | None = None) -> Json:
    return {"type": "text", "text": content} | ({"cache_control": marker} if marker else {})


def user(*parts: Any, **members: Any) -> Json:
    return {"role": "user", "content": list(parts), **members}


def call(arguments: Any = "{}", **members: Any) -> Json:
    return {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}, **members}


def blocks(*parts: Any) -> list[Json]:
    (message,) = sent(user(*parts))["messages"]
    return list(message["content"])


# ── members at the top ───────────────────────────────────────────────────────────────────────────────────────────────


def test_members_come_in_one_order_and_messages_last() -> None:
    everything = {
        "tools": [TOOL],
        "cache_control": EPHEMERAL,
        "service_tier": "auto",
        "user": "u",
        "reasoning_effort": "high",
        "top_k": 1,
        "top_p": 1,
        "temperature": 1,
        "stop": "x",
        "tool_choice": "auto",
        "stream": True,
        "max_tokens": 5,
    }
    request = sent({"role": "system", "content": "s"}, {"role": "user", "content": "q"}, **everything)
    order = "model max_tokens stream stop_sequences temperature top_p top_k output_config metadata service_tier"
    assert list(request) == [*order.split(), "cache_control", "tools", "tool_choice", "system", "messages"]
    assert list(request["messages"][0]) == ["role", "content"]


def test_a_bare_request_gets_nothing_but_a_limit() -> None:
    content = [{"type": "text", "text": "q"}]
    assert translated() == Translation(
        {"model": "m", "max_tokens": 4096, "messages": [{"role": "user", "content": content}]}, (), ()
    )
    assert sent(options=AnthropicOptions(default_max_tokens=7))["max_tokens"] == 7


def test_null_is_absent_everywhere() -> None:
    names = "max_tokens max_completion_tokens stop temperature top_p top_k n reasoning_effort thinking response_format "
    names += "safety_identifier user service_tier stream stream_options cache_control tools tool_choice seed functions "
    names += "parallel_tool_calls prompt_cache_options function_call"
    part = {"type": "text", "text": "q", "cache_control": None, "prompt_cache_breakpoint": None, "x": None}
    message = user(part, name=None, cache_control=None)
    answer = {"role": "assistant", "content": "a", "refusal": None, "tool_calls": None, "thinking_blocks": None}
    answer |= {"function_call": None, "audio": None}
    function = {"name": "f", "description": None, "parameters": None, "strict": None, "cache_control": None}
    bare = translated(user(text("q")), {"role": "assistant", "content": "a"})
    assert translated(message, answer, **dict.fromkeys(names.split())) == bare
    assert translated(message, answer, tools=[{"type": "function", "function": function, "cache_control": None}]) == (
        translated(user(text("q")), {"role": "assistant", "content": "a"}, tools=[TOOL])
    )


@pytest.mark.parametrize(
    ("members", "name", "value"),
    [
        ({"max_tokens": 0}, "max_tokens", 0),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", 6),
        ({"stop": "END"}, "stop_sequences", ["END"]),
        ({"stop": ["a", "", " \n", "b"]}, "stop_sequences", ["a", "b"]),
        ({"stop": " "}, "stop_sequences", None),
        ({"stop": []}, "stop_sequences", None),
        ({"temperature": 1}, "temperature", 1),
        ({"temperature": 1.01}, "temperature", 1.0),
        ({"temperature": "hot"}, "temperature", "hot"),
        ({"top_p": 0}, "top_p", 0),
        ({"top_k": 40}, "top_k", 40),
        ({"reasoning_effort": "minimal"}, "output_config", {"effort": "low"}),
        ({"reasoning_effort": "low"}, "output_config", {"effort": "low"}),
        ({"reasoning_effort": "max"}, "output_config", {"effort": "max"}),
        ({"reasoning_effort": "of the future"}, "output_config", {"effort": "of the future"}),
        ({"reasoning_effort": "none"}, "thinking", {"type": "disabled"}),
        ({"reasoning_effort": "none"}, "output_config", None),
        ({"thinking": {"type": "adaptive"}}, "thinking", {"type": "adaptive"}),
        ({"response_format": {"type": "text"}}, "output_config", None),
        ({"safety_identifier": "s", "user": "u"}, "metadata", {"user_id": "s"}),
        ({"safety_identifier": "", "user": "u"}, "metadata", {"user_id": "u"}),
        ({"user": ""}, "metadata", None),
        ({"service_tier": "auto"}, "service_tier", "auto"),
        ({"service_tier": "default"}, "service_tier", "standard_only"),
        ({"stream": False}, "stream", False),
        ({"stream": True, "stream_options": {"include_usage": True}}, "stream_options", None),
        ({"n": 1}, "n", None),
        ({"tools": []}, "tools", None),
        ({"cache_control": ONE_HOUR}, "cache_control", ONE_HOUR),
    ],
)
def test_a_member_has_this_counterpart_and_nothing_is_lost(members: Json, name: str, value: Any) -> None:
    translation = translated(**members)
    assert translation.request.get(name) == value
    assert (name in translation.request) == (value is not None)
    assert (translation.dropped, translation.changes) == ((), ())


@pytest.mark.parametrize(
    ("members", "dropped"),
    [
        ({"seed": 5, "x": 0}, ("seed", "x")),
        ({"service_tier": "flex"}, ("service_tier",)),
        ({"service_tier": ["flex"]}, ("service_tier",)),
        ({"response_format": {"type": "json_object"}}, ("response_format",)),
        ({"response_format": "json"}, ("response_format",)),
        ({"thinking": {"type": "adaptive"}, "reasoning_effort": "high"}, ("reasoning_effort",)),
        ({"thinking": {"type": "adaptive"}, "reasoning_effort": "none"}, ("reasoning_effort",)),
        ({"x" * 100: 1}, ("x" * 64,)),
        ({"é\ud800": 1}, ("é?",)),
    ],
)
def test_what_has_no_counterpart_is_dropped_and_listed(members: Json, dropped: tuple[str, ...]) -> None:
    translation = translated(**members)
    assert translation.dropped == dropped
    kept = {"thinking": members["thinking"]} if "thinking" in members else {}
    assert translation.request == sent(**kept)


def test_the_list_of_what_was_dropped_is_short_however_long_the_request() -> None:
    assert len(translated(**{f"x{i}": 1 for i in range(100)}).dropped) == 32
    assert translated(*[{"role": "user", "content": "q", "name": "bob"}] * 50).dropped == ("messages.name",)


def test_a_newer_version_takes_no_sampling() -> None:
    sampling = {"temperature": 0.5, "top_p": 0.9, "top_k": 3}
    for version in ("2026-10-21", "2027-01-01"):
        translation = translated(options=AnthropicOptions(anthropic_version=version), **sampling)
        assert (translation.request, translation.dropped) == (sent(), ("temperature", "top_p", "top_k"))
    assert sampling.items() <= sent(options=AnthropicOptions(anthropic_version="2026-10-20"), **sampling).items()


def test_no_reasoning_is_left_out_where_the_model_refuses_to_be_told_so() -> None:
    translation = translated(options=AnthropicOptions(refuses_disabled_thinking=True), reasoning_effort="none")
    assert (translation.request, translation.dropped) == (sent(), ("reasoning_effort",))


def test_a_format_and_an_effort_share_a_member() -> None:
    schema = {"type": "object", "z": 1, "a": {"cache_control": {"type": "no marker"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}}
    request = sent(response_format=wanted, reasoning_effort="low")
    assert request["output_config"] == {"effort": "low", "format": {"type": "json_schema", "schema": schema}}
    assert sent(response_format=wanted)["output_config"] == {"format": {"type": "json_schema", "schema": schema}}


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"n": 2}, "n"),
        ({"n": 1.5}, "n"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a", 5]}, "stop"),
        ({"stop": {"a": 1}}, "stop"),
        ({"reasoning_effort": ["high"]}, "reasoning_effort"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": 5}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.schema"),
        ({"safety_identifier": 5}, "safety_identifier"),
        ({"user": 5}, "user"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": [5]}, "messages.0"),
        ({"tools": 5}, "tools"),
        ({"tools": ["f"]}, "tools.0"),
        ({"cache_control": {"type": "other"}}, "cache_control.type"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(members: Json, param: str) -> None:
    error = refused(**members)
    assert error.param == param
    assert error.message.startswith(f"{param}: ")


def test_a_refusal_says_what_it_found() -> None:
    assert refused(tools=[TOOL], tool_choice={"type": "allowed_tools"}).message.endswith(', got "allowed_tools"')
    assert refused({"role": "system", "content": [{"type": "image"}]}).message.endswith(', got "image"')
    assert refused({"role": "function"}).message.endswith(', got "function"')
    assert refused({"role": "user", "content": 5}).message.endswith(", got 5")


def test_a_provider_is_as_most_are_unless_it_says_otherwise() -> None:
    assert AnthropicOptions() == AnthropicOptions("2023-06-01", "hoist", 4096, False, "keep")


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"content": "q"}, "role"),
        ({"role": "function", "name": "f", "content": "x"}, "role"),
        ({"role": 5, "content": "q"}, "role"),
        ({"role": ["user"], "content": "q"}, "role"),
        ({"role": "user", "content": 5}, "content"),
        ({"role": "user", "content": {}}, "content"),
        ({"role": "user", "content": ["q"]}, "content.0"),
        ({"role": "user", "content": [{}]}, "content.0.type"),
        ({"role": "user", "content": [{"type": ["text"]}]}, "content.0.type"),
        ({"role": "user", "content": [text("a"), {"type": "input_audio"}]}, "content.1.type"),
        ({"role": "user", "content": [{"type": "text"}]}, "content.0.text"),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, "content.0.text"),
        ({"role": "system", "content": [{"type": "image", "source": {}}]}, "content.0.type"),
        ({"role": "assistant", "content": [{"type": "refusal"}]}, "content.0.refusal"),
        ({"role": "assistant", "refusal": 5}, "refusal"),
        ({"role": "assistant", "function_call": {"name": "f"}}, "function_call"),
        ({"role": "assistant", "thinking_blocks": 5}, "thinking_blocks"),
        ({"role": "assistant", "thinking_blocks": [5]}, "thinking_blocks.0"),
        ({"role": "assistant", "tool_calls": {}}, "tool_calls"),
        ({"role": "assistant", "tool_calls": [5]}, "tool_calls.0"),
        ({"role": "assistant", "tool_calls": [call(type="custom")]}, "tool_calls.0.type"),
        ({"role": "assistant", "tool_calls": [{"id": "c"}]}, "tool_calls.0.function"),
        ({"role": "assistant", "tool_calls": [call(id=None)]}, "tool_calls.0.id"),
        ({"role": "assistant", "tool_calls": [call(function={})]}, "tool_calls.0.function.name"),
        ({"role": "assistant", "tool_calls": [call({})]}, "tool_calls.0.function.arguments"),
        ({"role": "assistant", "tool_calls": [call("[]")]}, "tool_calls.0.function.arguments"),
        ({"role": "assistant", "tool_calls": [call("{'a': 1}")]}, "tool_calls.0.function.arguments"),
        ({"role": "assistant", "tool_calls": [call('{"a":' * 101)]}, "tool_calls.0.function.arguments"),
        ({"role": "tool", "tool_call_id": 5, "content": "x"}, "tool_call_id"),
        ({"role": "tool", "tool_call_id": "c", "content": 5}, "content"),
        ({"role": "tool", "tool_call_id": "c", "content": [{"type": "video_url"}]}, "content.0.type"),
    ],
)
def test_a_message_that_cannot_be_served_is_refused_by_its_place(message: Json, param: str) -> None:
    error = refused({"role": "user", "content": "q"}, message)
    assert error.param == f"messages.1.{param}"
    assert error.message.startswith(f"messages.1.{param}: ")


def test_developer_is_system() -> None:
    request = sent(
        {"role": "developer", "content": "d"}, {"role": "system", "content": [text("s"), text("t")]}, user(text("q"))
    )
    assert request["system"] == [text("d"), text("s"), text("t")]


def test_neighbours_of_one_role_are_one_message_and_results_come_first() -> None:
    request = sent(
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c", "tool_calls": [call()]},
        {"role": "assistant", "content": [text("d")]},
        {"role": "user", "content": "e"},
        {"role": "tool", "tool_call_id": "c1", "content": "f"},
        {"role": "tool", "tool_call_id": "c2", "content": "g"},
    )
    tool_use = {"type": "tool_use", "id": "c1", "name": "f", "input": {}}
    results = [{"type": "tool_result", "tool_use_id": f"c{i}", "content": t} for i, t in ((1, "f"), (2, "g"))]
    assert request["messages"] == [
        {"role": "user", "content": [text("a"), text("b")]},
        {"role": "assistant", "content": [text("c"), tool_use, text("d")]},
        {"role": "user", "content": [*results, text("e")]},
    ]


def test_an_assistants_blocks_stand_in_one_order() -> None:
    thought = {"type": "thinking", "thinking": "t", "signature": "s"}
    translation = translated(
        {"role": "user", "content": "q"},
        {
            "tool_calls": [call('{"b": 1, "a": [1.50]}')],
            "refusal": "no",
            "content": "text",
            "thinking_blocks": [thought | {"index": 3}, {"type": "redacted_thinking", "data": "d"}],
            "role": "assistant",
        },
    )
    tool_use = {"type": "tool_use", "id": "c1", "name": "f", "input": {"b": 1, "a": [1.5]}}
    redacted = {"type": "redacted_thinking", "data": "d"}
    assert translation.request["messages"][1]["content"] == [thought, redacted, text("text"), text("no"), tool_use]
    assert translation.dropped == ()


@pytest.mark.parametrize("arguments", [None, "", " \n", "{}", " { } "])
def test_no_arguments_are_an_empty_input(arguments: Any) -> None:
    message = {"role": "assistant", "tool_calls": [call(arguments)]}
    assert sent(message)["messages"][0]["content"][0]["input"] == {}


def test_half_a_surrogate_pair_in_arguments_is_no_reason_to_refuse() -> None:
    message = {"role": "assistant", "tool_calls": [call('{"a":"\ud800"}')]}
    assert sent(message)["messages"][0]["content"][0]["input"] == {"a": "\ud800"}


def test_a_call_needs_no_type_and_its_index_is_ours() -> None:
    bare = {"id": "c1", "index": 0, "function": {"name": "f", "arguments": "{}"}}
    translation = translated({"role": "assistant", "tool_calls": [bare]})
    assert translation == translated({"role": "assistant", "tool_calls": [call()]})
    assert translation.dropped == ()


def test_members_of_messages_and_parts_that_are_dropped_are_listed() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://i", "detail": "low"}}
    odd_call = call(extra=1, function={"name": "f", "x": 1})
    translation = translated(
        user(text("q") | {"citations": []}, image, name="bob"),
        {"role": "assistant", "reasoning_content": "hm", "audio": {"id": "a"}, "tool_calls": [odd_call]},
        {"role": "tool", "tool_call_id": "c1", "content": "x", "name": "f"},
        tools=[{"type": "function", "defer_loading": True, "function": {"name": "f", "x": 1}}],
    )
    tools = ("tools.defer_loading", "tools.function.x")
    calls = ("messages.tool_calls.extra", "messages.tool_calls.function.x")
    content = ("messages.name", "messages.content.citations", "messages.content.image_url.detail")
    assert sorted(translation.dropped) == sorted(
        [*tools, *content, "messages.reasoning_content", "messages.audio", *calls]
    )


@pytest.mark.parametrize("content", ["", None, [], [text("")]])
def test_a_result_without_content_is_still_a_result(content: Any) -> None:
    message = {"role": "tool", "tool_call_id": "c", "content": content, "cache_control": ONE_HOUR}
    translation = translated(message)
    result = {"type": "tool_result", "tool_use_id": "c", "cache_control": ONE_HOUR}
    assert translation.request["messages"] == [{"role": "user", "content": [result]}]
    assert translation.changes == ()


# ── system messages in mid-conversation ──────────────────────────────────────────────────────────────────────────────


def roles(*messages: str) -> tuple[list[str], list[str]]:
    """The system prompt and the roles of the messages, for messages that say their role and place."""
    options = AnthropicOptions(role_system="native")
    said = [{"role": role, "content": f"{role}{i}"} for i, role in enumerate(messages)]
    request = sent(*said, options=options)
    return [block["text"] for block in request.get("system", [])], [m["role"] for m in request["messages"]]


@pytest.mark.parametrize(
    ("messages", "system", "spoken"),
    [
        ("user system", [], "user system"),
        ("user system assistant", [], "user system assistant"),
        ("user system system assistant", [], "user system assistant"),
        ("user developer assistant", [], "user system assistant"),
        ("user system user", ["system1"], "user"),
        ("system user", ["system0"], "user"),
        ("system assistant user", ["system0"], "assistant user"),
        ("user assistant system", ["system2"], "user assistant"),
        ("user assistant system user", ["system2"], "user assistant user"),
        ("assistant system user system", ["system1"], "assistant user system"),
    ],
)
def test_a_later_system_message_stays_only_where_the_provider_takes_it(
    messages: str, system: list[str], spoken: str
) -> None:
    assert roles(*messages.split()) == (system, spoken.split())


# ── images and files ─────────────────────────────────────────────────────────────────────────────────────────────────


def image_url(url: Any) -> Json:
    return {"type": "image_url", "image_url": {"url": url}}


def file(**members: Any) -> Json:
    return {"type": "file", "file": members}


def base64_source(media_type: str) -> Json:
    return {"type": "base64", "media_type": media_type, "data": "QUJD"}


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (image_url("data:image/png;base64,QUJD"), {"type": "image", "source": base64_source("image/png")}),
        (image_url("DATA:image/x;a=b;BASE64,QUJD"), {"type": "image", "source": base64_source("image/x")}),
        (image_url("http://h/i"), {"type": "image", "source": {"type": "url", "url": "http://h/i"}}),
        (image_url("HTTPS://h/i"), {"type": "image", "source": {"type": "url", "url": "HTTPS://h/i"}}),
        (
            file(file_data="data:application/pdf;base64,QUJD"),
            {"type": "document", "source": base64_source("application/pdf")},
        ),
        (
            file(file_data="data:text/plain;charset=utf-8;base64,QUJD", filename="n"),
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "ABC"}, "title": "n"},
        ),
        (
            file(file_data="data:image/gif;base64,QUJD"),
            {"type": "image", "source": base64_source("image/gif")},
        ),
        (file(file_id="f"), {"type": "document", "source": {"type": "file", "file_id": "f"}}),
    ],
)
def test_an_image_or_file_becomes_a_block(part: Json, block: Json) -> None:
    assert blocks(part) == [block]
    assert translated(user(part)).dropped == ()
    assert blocks(part | {"cache_control": ONE_HOUR}) == [block | {"cache_control": ONE_HOUR}]


@pytest.mark.parametrize(
    ("part", "dropped"),
    [
        (file(file_id="f", filename="n"), "messages.content.file.filename"),
        (file(file_data="data:image/gif;base64,QUJD", filename="n"), "messages.content.file.filename"),
        (file(file_data="data:application/pdf;base64,QUJD", file_id="f"), "messages.content.file.file_id"),
    ],
)
def test_what_a_file_block_has_no_member_for_is_dropped(part: Json, dropped: str) -> None:
    assert translated(user(part)).dropped == (dropped,)


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "image_url"}, "image_url"),
        ({"type": "image_url", "image_url": "https://h"}, "image_url"),
        (image_url(None), "image_url.url"),
        (image_url(5), "image_url.url"),
        (image_url("ftp://h/i"), "image_url.url"),
        (image_url("nonsense"), "image_url.url"),
        (image_url("data:image/png,abc"), "image_url.url"),
        (image_url("data:;base64,QQ=="), "image_url.url"),
        (image_url("data:image/png;base64"), "image_url.url"),
        ({"type": "file"}, "file"),
        (file(), "file.file_id"),
        (file(file_id=5), "file.file_id"),
        (file(file_data=5), "file.file_data"),
        (file(file_data="QUJD"), "file.file_data"),
        (file(file_data="text:application/pdf;base64,QUJD"), "file.file_data"),
        (file(file_data="data:application/zip;base64,QUJD"), "file.file_data"),
        (file(file_data="data:text/plain;base64,???"), "file.file_data"),
        (file(file_data="data:text/plain;base64," + base64.b64encode(b"\xff").decode()), "file.file_data"),
    ],
)
def test_an_image_or_file_that_says_nothing_is_refused(part: Json, param: str) -> None:
    assert refused(user(part)).param == f"messages.0.content.0.{param}"


@pytest.mark.parametrize(
    "kind",
    [
        "image",
        "document",
        "search_result",
        "container_upload",
        "tool_use",
        "tool_result",
        "server_tool_use",
        "thinking",
        "redacted_thinking",
        "mcp_tool_use",
        "compaction",
        "fallback",
        "browser_state",
        "tool_reference",
        "tool_addition",
        "tool_removal",
        "web_search_tool_result",
        "of_the_future_tool_result",
    ],
)
def test_a_block_of_the_providers_own_passes_as_it_is(kind: str) -> None:
    block = {"z": 1, "type": kind, "anything": {"cache_control": {"type": "no marker of ours"}}}
    assert blocks(block) == [block]


def test_only_the_markers_of_a_native_block_are_read() -> None:
    block = {"type": "image", "source": {}}
    assert blocks(block | {"cache_control": None, "prompt_cache_breakpoint": None}) == [block]
    own = {"prompt_cache_breakpoint": {"mode": "explicit"}}
    assert blocks(block | own) == [block | {"cache_control": EPHEMERAL}]


# ── tools ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("tool", "expected"),
    [
        (TOOL, {"name": "f", "input_schema": EMPTY_SCHEMA}),
        ({"function": {"name": "f"}}, {"name": "f", "input_schema": EMPTY_SCHEMA}),
        (
            {"type": "function", "function": {"name": "f", "parameters": {}}},
            {"name": "f", "input_schema": EMPTY_SCHEMA},
        ),
        (
            {
                "type": "function",
                "function": {"strict": True, "parameters": {"z": 1, "a": 2}, "description": "", "name": "f"},
            },
            {"name": "f", "description": "", "input_schema": {"z": 1, "a": 2}, "strict": True},
        ),
        ({"type": "function", "function": {"name": "f", "strict": False}}, {"name": "f", "input_schema": EMPTY_SCHEMA}),
        ({"type": "bash_20250124", "name": "bash"}, {"type": "bash_20250124", "name": "bash"}),
        ({"name": "n", "input_schema": {"a": 1}}, {"name": "n", "input_schema": {"a": 1}}),
        ({"type": "custom", "name": "n", "input_schema": {}}, {"type": "custom", "name": "n", "input_schema": {}}),
        ({"type": "x", "cache_control": None}, {"type": "x"}),
    ],
)
def test_a_tool_becomes_a_tool(tool: Json, expected: Json) -> None:
    translation = translated(tools=[tool])
    assert json.dumps(translation.request["tools"]) == json.dumps([expected])  # the order counts
    assert translation.dropped == ()


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({}, "type"),
        ({"type": "custom", "custom": {"name": "c"}}, "type"),
        ({"type": "function"}, "function"),
        ({"type": "function", "function": {}}, "function.name"),
        ({"type": "function", "function": {"name": 5}}, "function.name"),
    ],
)
def test_a_tool_without_a_counterpart_is_refused(tool: Json, param: str) -> None:
    assert refused(tools=[TOOL, tool]).param == f"tools.1.{param}"


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"tool_choice": "none"}, {"type": "none"}),
        ({"tool_choice": "auto"}, {"type": "auto"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, {"type": "tool", "name": "f"}),
        ({"parallel_tool_calls": True}, None),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        ({"tool_choice": "none", "parallel_tool_calls": False}, {"type": "none"}),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": False},
            {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
        ),
    ],
)
def test_a_choice_becomes_a_choice_if_there_are_tools(members: Json, expected: Any) -> None:
    translation = translated(tools=[TOOL], **members)
    assert translation.request.get("tool_choice") == expected
    assert translation.dropped == ()
    assert "tool_choice" not in sent(**members)
    assert "tool_choice" not in sent(tools=[], **members)


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        ("any", "tool_choice"),
        ("", "tool_choice"),
        (5, "tool_choice"),
        ({"type": "custom", "custom": {"name": "c"}}, "tool_choice"),
        ({"type": "function"}, "tool_choice.function"),
        ({"type": "function", "function": {}}, "tool_choice.function.name"),
    ],
)
def test_a_choice_without_a_counterpart_is_refused(choice: Any, param: str) -> None:
    assert refused(tools=[TOOL], tool_choice=choice).param == param


# ── markers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_marker_arrives_on_the_matching_block_whole() -> None:
    odd = {"ttl": "1h", "type": "ephemeral", "scope": "of the future"}
    translation = translated(
        {"role": "system", "content": [text("s", odd), text("t")]},
        user(text("a"), text("b", odd)),
        {"role": "assistant", "tool_calls": [call(cache_control=odd)]},
        tools=[TOOL | {"cache_control": odd}],
    )
    request = translation.request
    assert translation.changes == ()
    assert request["system"] == [text("s", odd), text("t")]
    assert request["tools"][0]["cache_control"] is odd
    assert request["messages"][0]["content"] == [text("a"), text("b", odd)]
    assert request["messages"][1]["content"][0]["cache_control"] is odd


def test_a_messages_own_marker_falls_on_its_last_block() -> None:
    assert blocks(text("a")) == [text("a")]
    request = sent(user(text("a"), text("b"), cache_control=ONE_HOUR))
    assert request["messages"][0]["content"] == [text("a"), text("b", ONE_HOUR)]
    request = sent({"role": "assistant", "content": "a", "tool_calls": [call()], "cache_control": EPHEMERAL})
    first, last = request["messages"][0]["content"]
    assert (first, last["cache_control"]) == (text("a"), EPHEMERAL)


THOUGHT = {"type": "thinking", "thinking": "t", "signature": "s"}


@pytest.mark.parametrize(
    ("message", "changes", "arrived"),
    [
        (user(text("a", ONE_HOUR), cache_control=EPHEMERAL), [Change("messages.1", "5m")], ONE_HOUR),
        (user(text("", EPHEMERAL), text("a", ONE_HOUR)), [Change("messages.1.content.0", "5m")], ONE_HOUR),
        (user(text("", ONE_HOUR), text("a")), [Change("messages.1.content.0", "1h")], None),
        ({"role": "user", "content": "", "cache_control": ONE_HOUR}, [Change("messages.1", "1h")], None),
        (
            {"role": "assistant", "thinking_blocks": [THOUGHT], "cache_control": EPHEMERAL},
            [Change("messages.1", "5m")],
            None,
        ),
        (
            {"role": "assistant", "thinking_blocks": [{"type": "redacted_thinking"}], "cache_control": EPHEMERAL},
            [Change("messages.1", "5m")],
            None,
        ),
    ],
)
def test_a_marker_that_cannot_arrive_is_said(message: Json, changes: list[Change], arrived: Any) -> None:
    translation = translated({"role": "user", "content": "q"}, message)
    assert list(translation.changes) == changes
    assert translation.request["messages"][-1]["content"][-1].get("cache_control") == arrived


@pytest.mark.parametrize(
    ("content", "own", "arrived", "lost"),
    [
        ("x", ONE_HOUR, ONE_HOUR, []),
        ([text("x", ONE_HOUR), text("y")], None, ONE_HOUR, []),
        ([text("x", EPHEMERAL), text("y", ONE_HOUR)], None, ONE_HOUR, [("messages.0.content.0", "5m")]),
        ([text("x", ONE_HOUR), text("y")], EPHEMERAL, EPHEMERAL, [("messages.0.content.0", "1h")]),
        ([text("x"), text("y", ONE_HOUR)], EPHEMERAL, ONE_HOUR, [("messages.0", "5m")]),
        (
            [text("x", EPHEMERAL), text("y", ONE_HOUR)],
            EPHEMERAL,
            ONE_HOUR,
            [("messages.0.content.0", "5m"), ("messages.0", "5m")],
        ),
        ([text("x"), text("", ONE_HOUR)], None, None, [("messages.0.content.1", "1h")]),
    ],
)
def test_the_last_marker_of_a_tool_message_stands_on_its_result(
    content: Any, own: Any, arrived: Any, lost: list[tuple[str, str]]
) -> None:
    translation = translated({"role": "tool", "tool_call_id": "c", "content": content, "cache_control": own})
    (result,) = translation.request["messages"][0]["content"]
    assert result.get("cache_control") == arrived
    assert '"cache_control"' not in json.dumps(result["content"])
    assert [(change.path, change.ttl) for change in translation.changes] == lost


def test_of_two_markers_on_a_tool_the_outer_counts() -> None:
    inner = {"name": "f", "cache_control": ONE_HOUR}
    translation = translated(tools=[{"type": "function", "function": inner, "cache_control": EPHEMERAL}])
    assert translation.request["tools"][0]["cache_control"] == EPHEMERAL
    assert translation.changes == (Change("tools.0.function", "1h"),)
    assert sent(tools=[{"type": "function", "function": inner}])["tools"][0]["cache_control"] == ONE_HOUR


@pytest.mark.parametrize(
    ("own", "options", "marker"),
    [
        ({"mode": "explicit"}, None, EPHEMERAL),
        ({"mode": "explicit"}, {"mode": "explicit"}, EPHEMERAL),
        ({"mode": "explicit"}, {"ttl": "30m"}, ONE_HOUR),
        ({"mode": "explicit", "ttl": "30m"}, None, ONE_HOUR),
        ({"mode": "explicit", "ttl": "12h"}, {"ttl": "30m"}, ONE_HOUR),
        ({}, "nonsense", EPHEMERAL),
    ],
)
def test_openais_own_breakpoint_becomes_a_marker(own: Json, options: Any, marker: Json) -> None:
    part = text("a") | {"prompt_cache_breakpoint": own}
    request = sent(user(part), prompt_cache_options=options)
    assert request["messages"][0]["content"] == [text("a", marker)]


def test_a_marker_beside_openais_own_breakpoint_wins() -> None:
    part = text("a", EPHEMERAL) | {"prompt_cache_breakpoint": {"mode": "explicit", "ttl": "12h"}}
    translation = translated(user(part))
    assert translation.request["messages"][0]["content"] == [text("a", EPHEMERAL)]
    assert (translation.dropped, translation.changes) == ((), ())


@pytest.mark.parametrize(
    ("own", "options", "param"),
    [
        (5, None, "messages.0.content.0.prompt_cache_breakpoint"),
        ({"ttl": "5m"}, None, "messages.0.content.0.prompt_cache_breakpoint.ttl"),
        ({"ttl": []}, None, "messages.0.content.0.prompt_cache_breakpoint.ttl"),
        ({}, {"ttl": "1h"}, "messages.0.content.0.prompt_cache_breakpoint.ttl"),
    ],
)
def test_a_malformed_breakpoint_is_refused(own: Any, options: Any, param: str) -> None:
    assert refused(user(text("a") | {"prompt_cache_breakpoint": own}), prompt_cache_options=options).param == param


def test_a_refused_marker_is_named_as_the_client_knows_it() -> None:
    late = {"role": "system", "content": [text("later"), text("s", ONE_HOUR)]}
    error = refused({"role": "system", "content": "s", "cache_control": EPHEMERAL}, user(text("q")), late)
    assert error.param == "messages.2.content.1.cache_control.ttl"
    assert error.message.startswith("messages.2.content.1.cache_control.ttl: a ttl='1h' cache_control block must not")
    error = refused(
        {"role": "user", "content": "q", "cache_control": EPHEMERAL},
        {"role": "tool", "tool_call_id": "c", "content": [text("x"), text("y", ONE_HOUR)]},
        {"role": "user", "content": [text("z", ONE_HOUR)]},
    )
    assert error.param == "messages.2.content.0.cache_control.ttl"
    error = refused(tools=[TOOL, {"type": "function", "function": {"name": "g", "cache_control": {}}}])
    assert error.param == "tools.1.function.cache_control.type"


def test_breakpoints_are_counted_where_they_arrive() -> None:
    own = {"prompt_cache_breakpoint": {"mode": "explicit"}}
    assert "Found 5" in refused(user(*[text("a") | own] * 5)).message
    many = [text("a") | own] * 20_000  # and that does not take for ever
    assert "Found 20000" in refused(user(*many)).message


def test_a_provider_that_takes_no_markers_gets_none() -> None:
    translation = translated(
        user(text("a", ONE_HOUR)),
        options=AnthropicOptions(cache_control="strip"),
        tools=[TOOL | {"cache_control": ONE_HOUR}],
        cache_control=EPHEMERAL,
    )
    assert "cache_control" not in json.dumps(translation.request)
    assert translation.changes == (
        Change("tools.0", "1h"),
        Change("messages.0.content.0", "1h"),
        Change("", "5m"),
    )
