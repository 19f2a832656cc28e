"""Reading Anthropic requests: what is refused, how the prompt is laid out, what spoils which part of it."""

from typing import Any

import pytest

from relay.sandbox.anthropic_request import read, read_for_count
from relay.sandbox.prompt import block_prefixes, tokens_in
from relay.sandbox.refusal import Refusal

HEADERS = {"anthropic-version": "2023-06-01"}
WEATHER = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}
IMAGE = {"type": "image", "source": {"type": "url", "url": "https://a.example/x.png"}}
HELLO = [{"role": "user", "content": "Hello"}]


def body(**members: Any) -> dict[str, Any]:
    whole = {"model": "claude-sonnet-4-6", "max_tokens": 10, "messages": HELLO, **members}
    return {name: value for name, value in whole.items() if value is not None}


REFUSED = [
    (body(model=None), "model: Field required"),
    (body(max_tokens=None), "max_tokens: Field required"),
    (body(messages=None), "messages: Field required"),
    (body(max_tokens="10"), "max_tokens: Input should be a valid integer"),
    (body(max_tokens=-1), "max_tokens"),
    (body(max_tokens=True), "max_tokens"),
    (body(model=7), "model: Input should be a valid string"),
    (body(messages=[]), "at least one message"),
    (body(messages="Hello"), "messages: Input should be a valid list"),
    (body(messages=["Hello"]), "messages.0"),
    (body(messages=[{"role": "robot", "content": "x"}]), "messages.0.role: Input should be 'user', 'assistant'"),
    (body(messages=[{"role": "user", "content": ""}]), "messages.0: messages must have non-empty content"),
    (body(messages=[{"role": "user", "content": [{"text": "x"}]}]), "messages.0.content.0.type: Field required"),
    (body(messages=[{"role": "user", "content": [{"type": "text", "text": ""}]}]), "must be non-empty"),
    (body(tools=[{"name": "a"}]), "tools.0.custom"),
    (body(tools=[WEATHER, WEATHER]), "unique"),
    (body(tool_choice={"type": "any"}), "only be specified while providing tools"),
    (body(tools=[WEATHER], tool_choice={"type": "tool", "name": "time"}), "Tool 'time' not found"),
    (body(tools=[WEATHER], tool_choice={"type": "all"}), "tool_choice.type: Input should be 'auto'"),
    (body(thinking={"type": "enabled", "budget_tokens": 10}), "greater than or equal to 1024"),
    (body(thinking={"type": "enabled", "budget_tokens": 1024}), "`max_tokens` must be greater"),
    (body(max_tokens=0, stream=True), "max_tokens: 0"),
]


@pytest.mark.parametrize(("request_body", "message"), REFUSED)
def test_what_the_provider_refuses_is_refused(request_body: dict[str, Any], message: str) -> None:
    with pytest.raises(Refusal, match=message) as refused:
        read(request_body, HEADERS)
    assert refused.value.status == 400


@pytest.mark.parametrize("model", ["llama-3", "opus", "", "mistral-large"])
def test_an_unknown_model_is_not_found(model: str) -> None:
    with pytest.raises(Refusal) as refused:
        read(body(model=model), HEADERS)
    assert (refused.value.status, refused.value.message) == (404, f"model: {model}")


def test_the_version_header_is_required_and_must_exist() -> None:
    with pytest.raises(Refusal, match="anthropic-version: header is required"):
        read(body(), {})
    with pytest.raises(Refusal, match="not a valid version"):
        read(body(), {"anthropic-version": "2023-06-01, 2023-06-01"})


def test_the_newer_version_knows_no_sampling() -> None:
    read(body(temperature=1), HEADERS)
    with pytest.raises(Refusal, match="temperature: Extra inputs are not permitted"):
        read(body(temperature=1), {"anthropic-version": "2026-10-21"})


def test_unknown_members_and_blocks_pass() -> None:
    ask = read(body(brand_new=1, messages=[{"role": "user", "content": [{"type": "hologram", "x": 1}]}]), HEADERS)
    assert len(ask.blocks) == 1


def test_the_prompt_is_tools_system_messages_whatever_the_body_order() -> None:
    members = body(system="Be brief.", tools=[WEATHER])
    ask = read(members, HEADERS)
    assert [block.place.partition(b":")[0] for block in ask.blocks] == [b"tools", b"system", b"user"]
    assert read(dict(reversed(members.items())), HEADERS).blocks == ask.blocks


def test_a_string_is_the_same_prompt_as_one_text_block() -> None:
    text = [{"type": "text", "text": "Hello"}]
    assert read(body(messages=[{"role": "user", "content": text}]), HEADERS).blocks == read(body(), HEADERS).blocks


def kept(before: dict[str, Any], after: dict[str, Any]) -> list[bool]:
    """Whether the prefixes up to the end of tools, system and messages are the same in both requests."""
    first, second = (block_prefixes(b"", read(request, HEADERS).blocks) for request in (before, after))
    return [one.digest == other.digest for one, other in zip(first, second, strict=True)]


CACHED: dict[str, Any] = {"tools": [WEATHER], "system": "Be brief.", "max_tokens": 2000}
THINKING = {"type": "enabled", "budget_tokens": 1024}


@pytest.mark.parametrize(
    ("change", "spared"),
    [
        ({}, [True, True, True]),
        ({"tool_choice": {"type": "auto"}, "thinking": {"type": "disabled"}}, [True, True, True]),
        ({"max_tokens": 9, "stream": True, "metadata": {"user_id": "u"}}, [True, True, True]),
        ({"tool_choice": {"type": "any"}}, [True, True, False]),
        ({"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}, [True, True, False]),
        ({"thinking": THINKING}, [True, True, False]),
        ({"system": "Be long."}, [True, False, False]),
        ({"tools": [{**WEATHER, "description": "new"}]}, [False, False, False]),
    ],
)
def test_a_change_spoils_what_the_documentation_says(change: dict[str, Any], spared: list[bool]) -> None:
    assert kept(body(**CACHED), body(**(CACHED | change))) == spared


def test_adding_an_image_anywhere_spoils_the_messages_before_it() -> None:
    def chat(*last: dict[str, Any]) -> dict[str, Any]:
        question = {"role": "user", "content": [{"type": "text", "text": "And this?"}, *last]}
        return body(system="Be brief.", messages=[*HELLO, question])

    without, with_one = (read(request, HEADERS).blocks for request in (chat(), chat(IMAGE)))
    assert without[0] == with_one[0]
    assert without[1] != with_one[1]


def test_client_tools_can_be_called_and_server_tools_cannot() -> None:
    ask = read(body(tools=[SEARCH, WEATHER], tool_choice={"type": "any"}), HEADERS)
    assert (tuple(ask.tools), ask.must_call) == (("weather",), ("weather",))


def test_a_choice_may_forbid_parallel_calls() -> None:
    for choice, is_one in (({"disable_parallel_tool_use": True}, True), ({"disable_parallel_tool_use": False}, False)):
        assert read(body(tools=[WEATHER], tool_choice={"type": "auto"} | choice), HEADERS).one_call is is_one
    assert not read(body(tools=[WEATHER]), HEADERS).one_call


def test_what_was_said_last_is_heard_with_its_marker_taken_out() -> None:
    chat = [*HELLO, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Bye SANDBOX(fault=529)"}]
    ask = read(body(messages=chat, model="claude-sonnet-4-6@after=2"), HEADERS)
    assert (ask.said, ask.model) == ("Bye", "claude-sonnet-4-6")
    assert ask.orders == "fault=529,after=2"


def test_a_marker_of_an_earlier_turn_is_not_heard_again() -> None:
    chat = [
        {"role": "user", "content": "SANDBOX(tool=weather)"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "weather", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "sunny"}]},
    ]
    ask = read(body(messages=chat, tools=[WEATHER]), HEADERS)
    assert (ask.said, ask.orders.strip(",")) == ("sunny", "")


def test_counting_needs_no_limit_and_counts_what_a_request_would() -> None:
    request = body(system="Be brief.", tools=[WEATHER])
    counted = read_for_count({name: value for name, value in request.items() if name != "max_tokens"}, HEADERS)
    assert tokens_in(counted.blocks) == tokens_in(read(request, HEADERS).blocks)
