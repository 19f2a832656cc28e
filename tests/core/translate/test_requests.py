"""The contract: every pair of the fixtures, every refusal, and what must hold for any request whatever."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming as AnthropicRequest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming as OpenAIRequest
from pydantic import TypeAdapter

from relay.core.cache_control import check
from relay.core.errors import InvalidRequest, body_of
from relay.core.job import Dialect
from relay.core.translate.request_to_anthropic import AnthropicOptions, to_anthropic
from relay.core.translate.request_to_openai import OpenAIOptions, to_openai
from relay.core.translate.spelling import encode
from tests.core.translate.strategies import Json, openai_requests
from tests.support.fixtures import ROOT, read_json

ANTHROPIC: TypeAdapter[Any] = TypeAdapter(AnthropicRequest)
OPENAI: TypeAdapter[Any] = TypeAdapter(OpenAIRequest)
KEEP = OpenAIOptions(cache_control="keep", reasoning="extension")


def fixtures(folder: str) -> Any:
    paths = sorted((ROOT / folder).glob("*.json"))
    return pytest.mark.parametrize("fixture", [pytest.param(read_json(path), id=path.stem) for path in paths])


@fixtures("translate/requests")
def test_a_request_becomes_what_the_contract_says(fixture: Json) -> None:
    options = AnthropicOptions(**fixture["options"])
    assert to_anthropic(fixture["openai"], options).request == fixture["anthropic"]


@fixtures("translate/requests")
def test_its_markers_arrive_in_order_or_their_loss_is_said(fixture: Json) -> None:
    translation = to_anthropic(fixture["openai"], AnthropicOptions(**fixture["options"]))
    arrived = [mark.ttl for mark in check(translation.request, "anthropic")]
    text = json.dumps(fixture["openai"])
    assert len(arrived) + len(translation.changes) == text.count('"cache_control": {') + text.count('_breakpoint": {')


@fixtures("requests/openai/valid")
def test_a_legal_request_has_its_breakpoints_at_the_provider(fixture: Json) -> None:
    translation = to_anthropic(fixture["request"], AnthropicOptions())
    assert [mark.ttl for mark in check(translation.request, "anthropic")] == fixture["expected"]["ttls_in_order"]
    assert translation.changes == ()


@fixtures("requests/openai/invalid")
def test_what_the_provider_cannot_serve_is_refused_with_its_place(fixture: Json) -> None:
    with pytest.raises(InvalidRequest) as refused:
        to_anthropic(fixture["request"], AnthropicOptions())
    assert fixture["expected"]["error"]["message_contains"] in refused.value.message
    assert refused.value.param is None or refused.value.message.startswith(refused.value.param)


NO_COUNTERPART = {
    "container-upload": "tools.0.type",
    "document-pdf-url": "messages.0.content.0.source.type",
    "image-file": "messages.0.content.0.source.type",
    "search-result": "messages.0.content.0.type",
    "server-tool-definition": "tools.1.type",
    "server-tool-history": "tools.0.type",
}


@fixtures("requests/anthropic/valid")
def test_the_other_way_what_has_a_counterpart_passes_with_its_markers(
    fixture: Json, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.id
    if name in NO_COUNTERPART:
        with pytest.raises(InvalidRequest) as refused:
            to_openai(fixture["request"], KEEP)
        assert refused.value.param == NO_COUNTERPART[name]
        return
    translation = to_openai(fixture["request"], KEEP)
    assert [mark.ttl for mark in check(translation.request, "openai")] == fixture["expected"]["ttls_in_order"]
    assert translation.changes == ()


# ── any request ──────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=50)
@given(openai_requests())
def test_there_and_back_keeps_what_both_dialects_can_say(request: Json) -> None:
    there = to_anthropic(request, AnthropicOptions()).request
    back = to_openai(there, KEEP)
    assert normal(back.request) == normal(request)
    assert to_openai(to_anthropic(back.request, AnthropicOptions()).request, KEEP).request == back.request
    assert (back.dropped, back.changes) == ((), ())


@settings(max_examples=50)
@given(openai_requests(marks=False))
def test_both_forms_are_what_the_providers_sdks_know(request: Json) -> None:
    request.pop("stream", None)  # Each way to stream has types of its own.
    there = to_anthropic(request, AnthropicOptions(anthropic_version="2026-10-21")).request
    assert as_typed(ANTHROPIC, there) == there
    back = to_openai(there, OpenAIOptions()).request
    assert as_typed(OPENAI, back) == back


@settings(max_examples=50)
@given(openai_requests())
def test_equal_requests_give_equal_bytes_whatever_the_order_of_their_members(request: Json) -> None:
    reordered = dict(reversed(request.items()))
    there = to_anthropic(request, AnthropicOptions()).request
    assert encode(to_anthropic(reordered, AnthropicOptions()).request) == encode(there)
    assert encode(to_openai(dict(reversed(there.items())), KEEP).request) == encode(to_openai(there, KEEP).request)


@settings(max_examples=50)
@given(openai_requests())
def test_a_request_is_read_and_never_changed(request: Json) -> None:
    before = encode(request)
    there = to_anthropic(request, AnthropicOptions()).request
    assert encode(request) == before
    between = encode(there)
    to_openai(there, KEEP)
    assert encode(there) == between


KEYS = [
    "messages",
    "role",
    "content",
    "type",
    "text",
    "tools",
    "system",
    "tool_calls",
    "function",
    "name",
    "id",
    "arguments",
    "parameters",
    "tool_call_id",
    "source",
    "image_url",
    "url",
    "file",
    "file_data",
    "thinking_blocks",
    "cache_control",
    "ttl",
    "prompt_cache_breakpoint",
    "input",
    "input_schema",
    "tool_choice",
    "output_config",
    "format",
    "metadata",
    "user_id",
    "stop",
    "refusal",
    "tool_use_id",
    "title",
    "n",
    "model",
]
WORDS = ["user", "assistant", "tool", "system", "text", "image", "document", "tool_use", "tool_result", "thinking"]
WORDS += ["function", "image_url", "file", "base64", "url", "content", "data:a/b;base64,QQ==", "{}", "ephemeral", ""]
HOSTILE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=30,
)
BLOCKS = st.fixed_dictionaries(
    {"type": st.sampled_from(WORDS)}, optional={key: HOSTILE for key in KEYS if key not in ("type", "messages")}
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "tool", "system"])},
        optional={"content": st.lists(BLOCKS, max_size=2) | HOSTILE, "tool_calls": HOSTILE, "tool_call_id": HOSTILE},
    ),
    max_size=3,
)


@given(st.dictionaries(st.sampled_from(KEYS), HOSTILE), MESSAGES, st.sampled_from(["anthropic", "openai"]))
def test_any_shape_is_translated_or_refused(members: Json, messages: list[Any], target: Dialect) -> None:
    request = {"messages": messages} | members
    try:
        if target == "anthropic":
            encode(to_anthropic(request, AnthropicOptions(role_system="native")).request)
        else:
            encode(to_openai(request, KEEP).request)
    except InvalidRequest as error:
        assert body_of(error, target)


# ── the means ────────────────────────────────────────────────────────────────────────────────────────────────────────


def normal(request: Json) -> Json:
    """What a request of OpenAI's form means, whichever way it is put."""
    request = {"max_completion_tokens": 4096} | request | {"messages": list(_merged(request["messages"]))}
    if request.get("stream"):
        request["stream_options"] = {"include_usage": True}
    if request.get("parallel_tool_calls") is False and request.get("tool_choice") != "none":
        request.setdefault("tool_choice", "auto")
    else:
        request.pop("parallel_tool_calls", None)
    return request


def _merged(messages: list[Json]) -> Iterator[Json]:
    """Neighbours of one role are one message, but for tools; a string is one part."""
    last: Json = {}
    for message in messages:
        role = {"developer": "system"}.get(message["role"], message["role"])
        content = message["content"] or []
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
        if role == last.get("role") != "tool":
            last["content"] += parts
            continue
        if last:
            yield last
        last = message | {"role": role, "content": parts}
        if "tool_calls" in message:
            last["tool_calls"] = [_with_parsed_arguments(call) for call in message["tool_calls"]]
    yield last


def _with_parsed_arguments(call: Json) -> Json:
    return call | {"function": call["function"] | {"arguments": json.loads(call["function"]["arguments"])}}


def as_typed(types: TypeAdapter[Any], request: Json) -> Any:
    """The request as a provider's own types read it, which leave out what they do not know."""
    return _consumed(types.validate_python(request))


def _consumed(value: Any) -> Any:
    """Pydantic reads iterables only when somebody iterates."""
    if isinstance(value, dict):
        return {name: _consumed(member) for name, member in value.items()}
    return value if isinstance(value, (str, int, float, type(None))) else [_consumed(entry) for entry in value]
