"""Markers: counted by position, refused only where they are certainly wrong."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.cache_control import MAX_BREAKPOINTS, Breakpoint, breakpoints, check
from relay.core.errors import InvalidRequest, body_of
from relay.core.job import Dialect
from tests.support.fixtures import ROOT, read_json
from tests.support.json_text import unhurried

EPHEMERAL = {"type": "ephemeral"}
ONE_HOUR = {"type": "ephemeral", "ttl": "1h"}

# Refused only once translation finds no counterpart for them; markers have no part in it.
LEFT_TO_TRANSLATION = frozenset(
    {
        "input-audio",
        "n-two",
        "no-user-message",
        "tool-arguments-not-json",
        "tool-arguments-not-object",
        "tool-message-without-id",
        "unknown-part-type",
        "unsupported-tool-choice",
    }
)


def fixtures(folder: str, without: frozenset[str] = frozenset()) -> Any:
    paths = [path for path in sorted((ROOT / "requests" / folder).glob("*.json")) if path.stem not in without]
    return pytest.mark.parametrize("fixture", [pytest.param(read_json(path), id=path.stem) for path in paths])


def text(marker: Any = None, content: str = "x") -> dict[str, Any]:
    return {"type": "text", "text": content} | ({"cache_control": marker} if marker is not None else {})


def user(*content: Any, **members: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content), **members}


def refusal_of(request: dict[str, Any], surface: Dialect = "anthropic") -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        check(request, surface)
    return refused.value


def ttls(request: dict[str, Any], surface: Dialect) -> list[str]:
    return [mark.ttl for mark in check(request, surface)]


@fixtures("anthropic/valid")
def test_a_legal_anthropic_request_passes_and_its_breakpoints_are_counted(fixture: dict[str, Any]) -> None:
    assert ttls(fixture["request"], "anthropic") == fixture["expected"]["ttls_in_order"]


@fixtures("anthropic/invalid")
def test_an_illegal_anthropic_request_is_refused_if_that_is_certain(fixture: dict[str, Any]) -> None:
    expected = fixture["expected"]
    if expected["relay"] == "pass":
        check(fixture["request"], "anthropic")
        return
    refused = refusal_of(fixture["request"])
    assert expected["error"]["message_contains"] in refused.message
    if "where" in expected:
        assert refused.param == expected["where"]


@fixtures("openai/valid")
def test_a_legal_openai_request_passes_and_its_breakpoints_are_counted(fixture: dict[str, Any]) -> None:
    # OpenAI's own breakpoints become cache_control only when translated.
    is_native = "prompt_cache_options" in fixture["request"]
    assert ttls(fixture["request"], "openai") == ([] if is_native else fixture["expected"]["ttls_in_order"])


@fixtures("openai/invalid", without=LEFT_TO_TRANSLATION)
def test_a_wrong_marker_in_an_openai_request_is_refused(fixture: dict[str, Any]) -> None:
    assert fixture["expected"]["error"]["message_contains"] in refusal_of(fixture["request"], "openai").message


@pytest.mark.parametrize("name", sorted(LEFT_TO_TRANSLATION))
def test_what_only_one_provider_cannot_serve_passes_the_door(name: str) -> None:
    check(read_json(ROOT / "requests/openai/invalid" / f"{name}.json")["request"], "openai")


def test_a_breakpoint_is_named_by_the_object_that_carries_the_marker() -> None:
    request = {
        "messages": [user(text(), text(EPHEMERAL)), user(text())],
        "system": [text(ONE_HOUR)],
        "tools": [{"name": "a"}, {"name": "b", "cache_control": ONE_HOUR}],
        "cache_control": EPHEMERAL,
    }
    assert check(request, "anthropic") == (
        Breakpoint("tools.1", "1h"),
        Breakpoint("system.0", "1h"),
        Breakpoint("messages.0.content.1", "5m"),
        Breakpoint("", "5m"),
    )


def test_every_place_of_an_openai_request_is_known() -> None:
    request = {
        "tools": [{"type": "function", "function": {"name": "f", "cache_control": EPHEMERAL}}],
        "messages": [
            {"role": "system", "content": "s", "cache_control": EPHEMERAL},
            {"role": "assistant", "content": "", "tool_calls": [{"id": "c", "cache_control": EPHEMERAL}]},
            {"role": "tool", "tool_call_id": "c", "content": [text(EPHEMERAL)]},
        ],
    }
    places = [mark.path for mark in check(request, "openai")]
    assert places == ["tools.0.function", "messages.0", "messages.1.tool_calls.0", "messages.2.content.0"]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [text(), text(EPHEMERAL)], "cache_control": EPHEMERAL},
        {"role": "tool", "content": [text(EPHEMERAL), text(EPHEMERAL), text()]},
        {"role": "tool", "content": [text(EPHEMERAL), text()], "cache_control": EPHEMERAL},
        {"role": "user", "content": [text(EPHEMERAL), text(EPHEMERAL, content="")]},
        {"role": "user", "content": "x", "cache_control": EPHEMERAL},
    ],
)
def test_openai_markers_that_fall_on_one_block_are_one_breakpoint(message: dict[str, Any]) -> None:
    assert len(check({"messages": [message]}, "openai")) == 1


@pytest.mark.parametrize("content", ["", None, [], [text(content="")]])
def test_a_marked_openai_message_without_a_block_has_no_breakpoint(content: Any) -> None:
    assert check({"messages": [{"role": "user", "content": content, "cache_control": EPHEMERAL}]}, "openai") == ()


@pytest.mark.parametrize("surface", ["anthropic", "openai"])
@pytest.mark.parametrize(
    ("marker", "param", "rule"),
    [
        ("ephemeral", "", 'Input should be an object, got "ephemeral"'),
        ([], "", "Input should be an object, got an array"),
        ({}, ".type", "Field required"),
        ({"type": None}, ".type", "Input should be 'ephemeral', got null"),
        ({"type": "\ud800" * 99}, ".type", "Input should be 'ephemeral', got \"" + r"\ud800" * 64 + '"…'),
        ({"type": "ephemeral", "ttl": "2h"}, ".ttl", "Input should be '5m' or '1h', got \"2h\""),
        ({"type": "ephemeral", "ttl": {}}, ".ttl", "Input should be '5m' or '1h', got an object"),
    ],
)
def test_a_malformed_marker_is_refused_by_name(surface: Dialect, marker: Any, param: str, rule: str) -> None:
    for request, path in (
        ({"messages": [user(text(), text(marker))]}, "messages.0.content.1.cache_control"),
        ({"tools": [{"name": "t", "cache_control": marker}]}, "tools.0.cache_control"),
        ({"cache_control": marker}, "cache_control"),
    ):
        refused = refusal_of(request, surface)
        assert refused.param == path + param
        assert refused.message == f"{path}{param}: {rule}"
        assert body_of(refused, surface)


def test_a_null_ttl_and_unknown_members_are_for_the_provider_to_judge() -> None:
    marker = {"type": "ephemeral", "ttl": None, "scope": "global"}
    assert check({"system": [text(marker)]}, "anthropic") == (Breakpoint("system.0", "5m"),)


@pytest.mark.parametrize(
    "kind", ["web_search_tool_result", "mcp_tool_result", "a_tool_result_of_the_future_tool_result"]
)
def test_the_result_of_any_server_tool_takes_a_marker(kind: str) -> None:
    assert len(check({"messages": [user({"type": kind, "cache_control": EPHEMERAL})]}, "anthropic")) == 1


@pytest.mark.parametrize("kind", ["block_of_the_future", None, 5, []])
def test_a_block_of_unknown_type_is_forwarded_uncounted(kind: Any) -> None:
    unknown = {"type": kind, "cache_control": {"type": "unheard of"}}
    assert check({"messages": [user(*[text(EPHEMERAL)] * 4, unknown)]}, "anthropic") == breakpoints(
        {"messages": [user(*[text(EPHEMERAL)] * 4)]}, "anthropic"
    )


@pytest.mark.parametrize("surface", ["anthropic", "openai"])
def test_the_marker_of_a_deferred_tool_is_forwarded_uncounted(surface: Dialect) -> None:
    tools = [{"name": "t", "cache_control": EPHEMERAL}] * 4 + [{"defer_loading": True, "cache_control": EPHEMERAL}]
    assert len(check({"tools": tools}, surface)) == 4


def test_five_breakpoints_are_listed_but_not_let_through() -> None:
    request = {"messages": [user(*[text(EPHEMERAL)] * 5)]}
    assert len(breakpoints(request, "anthropic")) == 5
    assert refusal_of(request).message == "A maximum of 4 blocks with cache_control may be provided. Found 5."


def test_the_order_is_that_of_processing_whatever_the_order_in_the_json() -> None:
    request = {"messages": [user(text(EPHEMERAL))], "system": [text(EPHEMERAL)], "tools": [{"cache_control": ONE_HOUR}]}
    assert ttls(request, "anthropic") == ["1h", "5m", "5m"]
    assert refusal_of(request | {"system": [text(EPHEMERAL), text(ONE_HOUR)]}).param == "system.1.cache_control.ttl"


def test_openai_order_is_refused_only_if_it_is_wrong_wherever_system_messages_go() -> None:
    late_system = {"role": "system", "content": [text(ONE_HOUR)]}
    assert ttls({"messages": [user(text(EPHEMERAL)), late_system]}, "openai") == ["5m", "1h"]
    refused = refusal_of({"messages": [{"role": "developer", "content": [text(EPHEMERAL)]}, late_system]}, "openai")
    assert refused.param == "messages.1.content.0.cache_control.ttl"


def test_the_automatic_marker_takes_a_slot_only_where_that_is_certain() -> None:
    def with_automatic(*content: Any) -> dict[str, Any]:
        return {"system": [text(EPHEMERAL)] * 3, "messages": [user(*content)], "cache_control": EPHEMERAL}

    assert "Found 5" in refusal_of(with_automatic(text(EPHEMERAL), text())).message
    check(
        with_automatic(text(EPHEMERAL)) | {"messages": [user(text(EPHEMERAL)), {"role": "user", "content": ""}]},
        "anthropic",
    )
    for last in (text(content=""), {"type": "thinking"}, {"type": "block_of_the_future"}, 5):
        check(with_automatic(text(EPHEMERAL), last), "anthropic")
    assert check(with_automatic(text(), text(EPHEMERAL)), "anthropic")[-1] == Breakpoint("messages.0.content.1", "5m")


def test_an_automatic_marker_of_an_openai_request_is_judged_when_translated() -> None:
    for last in (text(ONE_HOUR), text()):
        check({"messages": [user(*[text(ONE_HOUR)] * 3, last)], "cache_control": EPHEMERAL}, "openai")
    for last_message in (user(text(ONE_HOUR)), user(text(), cache_control=ONE_HOUR)):
        assert ttls({"messages": [last_message], "cache_control": EPHEMERAL}, "openai") == ["1h"]


def test_an_automatic_marker_on_a_string_is_a_breakpoint_of_its_own() -> None:
    request = {
        "system": [text(EPHEMERAL)] * 4,
        "messages": [{"role": "user", "content": "x"}],
        "cache_control": EPHEMERAL,
    }
    assert "Found 5" in refusal_of(request).message
    request["system"] = [text(EPHEMERAL)] * 3
    assert [mark.path for mark in check(request, "anthropic")] == ["system.0", "system.1", "system.2", ""]


KEYS = [
    "messages",
    "content",
    "cache_control",
    "type",
    "ttl",
    "text",
    "tools",
    "system",
    "tool_calls",
    "function",
    "role",
]
WORDS = ["ephemeral", "text", "thinking", "tool", "system", "1h", "5m", ""]
HOSTILE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=30,
)


@unhurried
@given(st.dictionaries(st.sampled_from(KEYS), HOSTILE), st.sampled_from(["anthropic", "openai"]))
def test_any_shape_is_refused_or_passes(request: dict[str, Any], surface: Dialect) -> None:
    try:
        found = check(request, surface)
    except InvalidRequest as error:
        assert body_of(error, surface)
    else:
        assert found == breakpoints(request, surface)
        assert len([mark for mark in found if mark.path]) <= MAX_BREAKPOINTS
