"""Reading OpenAI requests: what is refused, how the prompt is laid out, where it is cached."""

import json
from pathlib import Path
from typing import Any

import pytest

from relay.sandbox.openai_request import caches_by_breakpoint, read
from relay.sandbox.refusal import Refusal

FIXTURES = Path(__file__).parent / "fixtures/requests/openai/valid"
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
MARK = {"mode": "explicit"}
HALF_HOUR, HALF_DAY = 1_800, 43_200


def body(*messages: dict[str, Any], **members: Any) -> dict[str, Any]:
    whole = {"model": "gpt-6.1-sol", "messages": list(messages) or [user("Hello")], **members}
    return {name: value for name, value in whole.items() if value is not None}


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": parts[0] if isinstance(parts[0], str) else list(parts)}


def text(words: str, **members: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **members}


def ttls(request: dict[str, Any]) -> list[int | None]:
    return [block.ttl_s for block in read(request, {}).blocks]


REFUSED = [
    (body(model=None), "model", "missing_required_parameter"),
    (body(messages=None), "messages", "missing_required_parameter"),
    (body(model=5), "model", None),
    ({"model": "gpt-4o", "messages": []}, "messages", "empty_array"),
    (body({"role": "robot", "content": "x"}), "messages[0].role", None),
    (body({"role": "tool", "content": "x"}), "messages[0].tool_call_id", "missing_required_parameter"),
    (body({"role": "user"}), "messages[0].content", "invalid_type"),
    (body(user({"text": "x"})), "messages[0].content.type", "missing_required_parameter"),
    (body(stream_options={"include_usage": True}), "stream_options", None),
    (body(n=0), "n", None),
    (body(max_tokens=0), "max_tokens", None),
    (body(max_completion_tokens="9"), "max_completion_tokens", None),
    (body(tool_choice="required"), "tool_choice", None),
    (body(tools=[WEATHER], tool_choice={"type": "function", "function": {"name": "time"}}), "tool_choice", None),
    (body(cache_control={"type": "ephemeral"}), "cache_control", "unknown_parameter"),
    (body({**user("x"), "cache_control": {}}), "messages[0].cache_control", "unknown_parameter"),
    (body(user(text("x", cache_control={}))), "messages[0].content[0].cache_control", "unknown_parameter"),
    (body(tools=[{**WEATHER, "cache_control": {}}]), "tools[0].cache_control", "unknown_parameter"),
    (body(user(text("x", prompt_cache_breakpoint={}))), "prompt_cache_breakpoint.mode", None),
    (body(user(text("x", prompt_cache_breakpoint={**MARK, "ttl": "5m"}))), "prompt_cache_breakpoint.ttl", None),
    (body(prompt_cache_options={"mode": "on"}), "prompt_cache_options.mode", None),
]


@pytest.mark.parametrize(("request_body", "param", "code"), REFUSED)
def test_what_the_provider_refuses_is_refused(request_body: dict[str, Any], param: str, code: str | None) -> None:
    with pytest.raises(Refusal) as refused:
        read(request_body, {})
    assert (refused.value.status, refused.value.param, refused.value.code) == (400, param, code)


def test_an_unknown_model_is_not_found() -> None:
    with pytest.raises(Refusal, match="The model `llama-3` does not exist") as refused:
        read(body(model="llama-3"), {})
    assert refused.value.status == 404


@pytest.mark.parametrize("model", ["gpt-4o", "o4-mini", "chatgpt-4o-latest", "claude-sonnet-4-6"])
def test_known_families_pass(model: str) -> None:
    assert read(body(model=model), {}).model == model


def test_markers_inside_schemas_and_arguments_are_data() -> None:
    function = {"name": "f", "parameters": {"type": "object", "properties": {"cache_control": {"type": "string"}}}}
    read(body(tools=[{"type": "function", "function": function}]), {})


@pytest.mark.parametrize(
    ("model", "by_breakpoint"),
    [("gpt-4o", False), ("gpt-5.4-mini", False), ("o4-mini", False), ("gpt-5.6-luna", True), ("gpt-6-sol", True)],
)
def test_newer_models_cache_at_breakpoints(model: str, by_breakpoint: bool) -> None:
    assert caches_by_breakpoint(model, body()) is by_breakpoint


def test_the_implicit_breakpoint_stands_after_the_last_user_or_tool_message() -> None:
    assistant = {"role": "assistant", "content": "Hi"}
    assert ttls(body(user("a"), assistant, user("b"), assistant)) == [None, None, HALF_HOUR, None]
    assert ttls(body(user("a"), model="gpt-4o")) == [None]


def test_explicit_breakpoints_stand_beside_the_implicit_one_and_inherit_the_lifetime() -> None:
    parts = user(
        text("a", prompt_cache_breakpoint={**MARK, "ttl": "12h"}), text("b", prompt_cache_breakpoint=MARK), text("c")
    )
    assert ttls(body(parts)) == [HALF_DAY, HALF_HOUR, HALF_HOUR]
    assert ttls(body(parts, prompt_cache_options={"mode": "explicit"})) == [HALF_DAY, HALF_HOUR, None]


def test_only_the_latest_four_breakpoints_write() -> None:
    many = user(*(text(str(number), prompt_cache_breakpoint=MARK) for number in range(6)), text("end"))
    assert ttls(body(many)) == [None, None, None, HALF_HOUR, HALF_HOUR, HALF_HOUR, HALF_HOUR]
    explicit = ttls(body(many, prompt_cache_options={"mode": "explicit"}))
    assert explicit == [None, None, HALF_HOUR, HALF_HOUR, HALF_HOUR, HALF_HOUR, None]


def test_explicit_mode_without_breakpoints_caches_nothing() -> None:
    assert ttls(body(prompt_cache_options={"mode": "explicit"})) == [None]


def test_the_fixtures_breakpoints_are_read() -> None:
    request = json.loads((FIXTURES / "openai-breakpoints.json").read_text())["request"]
    assert ttls(request) == [HALF_DAY, HALF_HOUR, None]


def test_a_breakpoint_is_no_content() -> None:
    plain, marked = (
        read(body(user(text("a", **members))), {}).blocks for members in ({}, {"prompt_cache_breakpoint": MARK})
    )
    assert plain[0].content == marked[0].content


def test_tool_choice_names_what_must_be_called() -> None:
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [WEATHER]}}
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}, allowed):
        assert read(body(tools=[WEATHER], tool_choice=choice), {}).must_call == ("weather",)
    for choice in (None, "auto", "none"):
        assert read(body(tools=[WEATHER], tool_choice=choice), {}).must_call == ()


def test_parallel_calls_may_be_forbidden() -> None:
    for parallel, is_one in ((False, True), (True, False), (None, False)):
        assert read(body(tools=[WEATHER], parallel_tool_calls=parallel), {}).one_call is is_one


def test_what_was_said_last_is_heard_with_its_marker_taken_out() -> None:
    ask = read(body(user("Hello"), user(text("Bye"), text("SANDBOX(events=2)")), model="gpt-4o@fault=cut"), {})
    assert (ask.said, ask.model, ask.orders) == ("Bye", "gpt-4o", "events=2,fault=cut")
