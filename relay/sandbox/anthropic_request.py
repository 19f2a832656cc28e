"""Reads an Anthropic request: checks it as the provider does, and lays the prompt out in blocks.

Pure.  Strict about what the provider is known to refuse, silent about members it may know and we do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from relay.sandbox import markers, thoughts
from relay.sandbox.dialect import Ask, Body
from relay.sandbox.markers import Site
from relay.sandbox.order import split_model, split_text
from relay.sandbox.prompt import Block, as_json, canonical
from relay.sandbox.reading import as_object, choose, integer, joined_text, known_model, objects, strings
from relay.sandbox.refusal import Refusal

_VERSIONS: Final = ("2023-06-01", "2026-10-21")
_NO_SAMPLING_SINCE: Final = "2026-10-21"
_THINKING: Final = ("enabled", "adaptive", "disabled", "between_tools")
_RUNS: Final = ("tool_use", "tool_result")


def read(body: Body, headers: Mapping[str, str]) -> Ask:
    """A request to ``/v1/messages``."""
    for name in ("model", "max_tokens", "messages"):
        if body.get(name) is None:
            raise Refusal(400, f"{name}: Field required")
    return _read(body, headers, integer(body["max_tokens"], "max_tokens", 0))


def read_for_count(body: Body, headers: Mapping[str, str]) -> Ask:
    """A request to ``/v1/messages/count_tokens``: the same prompt, and no answer to limit."""
    for name in ("model", "messages"):
        if body.get(name) is None:
            raise Refusal(400, f"{name}: Field required")
    return _read(body, headers, None)


def _read(body: Body, headers: Mapping[str, str], limit: int | None) -> Ask:
    _check_version(body, headers)
    model, model_orders = split_model(body["model"]) if isinstance(body["model"], str) else (body["model"], "")
    tools = _client_tools(body)
    must_call = _must_call(body, tools)
    thinks = _thinks(body, limit, must_call)
    schema = _schema(body)
    stream = body.get("stream") is True
    if limit == 0 and (stream or thinks or must_call or schema is not None):
        raise Refusal(400, "max_tokens: 0 is allowed only without streaming, thinking, forced tools and output format")
    blocks = _blocks(body)
    thoughts.check(body)
    said, text_orders = split_text(_said(body))
    return Ask(
        body=body,
        model=known_model(model, unknown="model: {}"),
        stream=stream,
        blocks=blocks,
        said=said,
        orders=f"{text_orders},{model_orders}",
        limit=limit,
        thinks=thinks,
        tools=tools,
        must_call=must_call,
        one_call=as_object(body.get("tool_choice"), "tool_choice").get("disable_parallel_tool_use") is True,
        schema=schema,
        stop_at=strings(body.get("stop_sequences"), "stop_sequences"),
    )


def _check_version(body: Body, headers: Mapping[str, str]) -> None:
    version = headers.get("anthropic-version")
    if version is None:
        raise Refusal(400, "anthropic-version: header is required")
    if version not in _VERSIONS:
        raise Refusal(400, f'anthropic-version: "{version}" is not a valid version')
    for name in ("temperature", "top_p", "top_k"):
        if version >= _NO_SAMPLING_SINCE and name in body:
            raise Refusal(400, f"{name}: Extra inputs are not permitted")


def _blocks(body: Body) -> tuple[Block, ...]:
    sites = list(_sites(body))
    ttls = markers.lifetimes(sites, body.get("cache_control"))
    spoilers = _spoilers(body, sites)
    blocks = []
    for site, ttl_s in zip(sites, ttls, strict=True):
        kind = site.block.get("type")
        if kind == "text" and not site.block.get("text"):
            raise Refusal(400, f"{site.path}: text content blocks must be non-empty")
        place = site.section.encode()
        if site.path.startswith("messages."):
            place += b":" + spoilers
        run = kind if kind in _RUNS else None
        blocks.append(Block(place, canonical(site.block, "cache_control"), ttl_s, run))
    return tuple(blocks)


def _sites(body: Body) -> Iterator[Site]:
    """Every block in processing order, whatever the order of the members in the body."""
    for index, tool in enumerate(objects(body.get("tools"), "tools")):
        yield Site(f"tools.{index}", "tools", tool)
    yield from _content_sites("system", "system", body.get("system") or None)
    messages = objects(body["messages"], "messages")
    if not messages:
        raise Refusal(400, "messages: at least one message is required")
    for index, message in enumerate(messages):
        path = f"messages.{index}"
        markers.refuse_on_message(path, message)
        role = choose(message, "role", ("user", "assistant", "system"), f"{path}.role")
        if not message.get("content"):
            raise Refusal(400, f"{path}: messages must have non-empty content")
        yield from _content_sites(f"{path}.content", role, message["content"])


def _content_sites(path: str, section: str, content: object) -> Iterator[Site]:
    """A string is the same prompt as one text block."""
    if isinstance(content, str):
        yield Site(f"{path}.0", section, {"type": "text", "text": content})
        return
    for index, block in enumerate(objects(content, path)):
        if not isinstance(block.get("type"), str):
            raise Refusal(400, f"{path}.{index}.type: Field required")
        yield Site(f"{path}.{index}", section, block)


def _spoilers(body: Body, sites: list[Site]) -> bytes:
    """What spoils the messages but not tools and system: tool_choice, thinking, whether there are images."""
    choice = body.get("tool_choice")
    thinking = body.get("thinking")
    images = any(site.block.get("type") == "image" for site in sites)
    return as_json(
        [
            None if choice == {"type": "auto"} else choice,
            None if thinking == {"type": "disabled"} else thinking,
            images,
        ]
    )


def _client_tools(body: Body) -> dict[str, Any]:
    tools: dict[str, Any] = {}
    for index, tool in enumerate(objects(body.get("tools"), "tools")):
        if tool.get("type", "custom") not in (None, "custom"):
            continue  # a server tool: run by the provider, never called by name
        if not isinstance(tool.get("name"), str) or not isinstance(tool.get("input_schema"), dict):
            raise Refusal(400, f"tools.{index}.custom: name and input_schema: Field required")
        if tool["name"] in tools:
            raise Refusal(400, "tools: Tool names must be unique.")
        tools[tool["name"]] = tool["input_schema"]
    return tools


def _must_call(body: Body, tools: Mapping[str, Any]) -> tuple[str, ...]:
    if body.get("tool_choice") is None:
        return ()
    choice = as_object(body["tool_choice"], "tool_choice")
    kind = choose(choice, "type", ("auto", "any", "tool", "none"), "tool_choice.type")
    if kind in ("auto", "none"):
        return ()
    if not body.get("tools"):
        raise Refusal(400, "tool_choice: may only be specified while providing tools")
    if kind == "any":
        return tuple(tools)[:1]
    name = str(choice.get("name"))
    if name not in tools:
        raise Refusal(400, f"tool_choice: Tool '{name}' not found in provided tools")
    return (name,)


def _thinks(body: Body, limit: int | None, must_call: tuple[str, ...]) -> bool:
    if body.get("thinking") is None:
        return False
    thinking = as_object(body["thinking"], "thinking")
    kind = choose(thinking, "type", _THINKING, "thinking.type")
    if kind == "enabled":
        budget = thinking.get("budget_tokens")
        if not isinstance(budget, int) or budget < 1024:
            raise Refusal(400, "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024")
        if limit is not None and budget >= limit:
            raise Refusal(400, "`max_tokens` must be greater than `thinking.budget_tokens`.")
        if must_call:
            raise Refusal(400, "Thinking may not be enabled when tool_choice forces tool use.")
    return kind in ("enabled", "adaptive")


def _schema(body: Body) -> Mapping[str, Any] | None:
    config = as_object(body.get("output_config"), "output_config")
    wanted = as_object(config.get("format"), "output_config.format")
    return as_object(wanted.get("schema"), "output_config.format.schema") or None


def _said(body: Body) -> str:
    """The text of the last user message; where it only hands in tool results, their text."""
    content = next((m.get("content") for m in reversed(body["messages"]) if m.get("role") == "user"), "")
    if isinstance(content, str):
        return content
    blocks = objects(content, "content")
    if text := joined_text(blocks):
        return text
    results = [block.get("content") for block in blocks if block.get("type") == "tool_result"]
    return "\n".join(r if isinstance(r, str) else joined_text(objects(r, "content")) for r in results)
