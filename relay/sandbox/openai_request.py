"""Reads an OpenAI Chat Completions request: checks it as the provider does, and lays the prompt out in blocks.

Pure.  ``cache_control`` is no member of this API and is refused where a marker could stand, so that a relay which
forgets to translate it is found out here and not at the provider.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from relay.sandbox.dialect import Ask, Body
from relay.sandbox.order import split_model, split_text
from relay.sandbox.prompt import Block, canonical
from relay.sandbox.reading import as_object, choose, integer, joined_text, known_model, objects, strings
from relay.sandbox.refusal import Refusal

TTL_S: Final = {"30m": 1_800, "12h": 43_200}
_ROLES: Final = ("developer", "system", "user", "assistant", "tool", "function")
_IMPLICIT_AFTER: Final = ("user", "tool")
_WRITES_MAX: Final = 4  # the implicit breakpoint included
_BREAKPOINTS_SINCE: Final = (5, 6)
_CHOICES_MAX: Final = 8
_UNKNOWN_MODEL: Final = "The model `{}` does not exist or you do not have access to it."


def read(body: Body, headers: Mapping[str, str]) -> Ask:
    """A request to ``/v1/chat/completions``."""
    for name in ("model", "messages"):
        if body.get(name) is None:
            raise _missing(name)
    model, model_orders = split_model(body["model"]) if isinstance(body["model"], str) else (body["model"], "")
    messages = _messages(body)
    _refuse_cache_control(body, messages)
    _check_options(body)
    tools = _function_tools(body)
    said, text_orders = split_text(_said(messages))
    stop = body.get("stop")
    return Ask(
        body=body,
        model=known_model(model, unknown=_UNKNOWN_MODEL),
        stream=body.get("stream") is True,
        blocks=_blocks(body, str(model), messages),
        said=said,
        orders=f"{text_orders},{model_orders}",
        limit=_limit(body),
        thinks=body.get("reasoning_effort") not in (None, "none"),
        tools=tools,
        must_call=_must_call(body, tools),
        one_call=body.get("parallel_tool_calls") is False,
        schema=_schema(body),
        stop_at=(stop,) if isinstance(stop, str) else strings(stop, "stop"),
    )


def caches_by_breakpoint(model: str, body: Body) -> bool:
    """Newer models cache at breakpoints, older ones in steps.

    What an older model does with a breakpoint nobody says; here it is kept, so that its sender sees it arrive.
    """
    version = re.match(r"gpt-(\d{1,3})(?:\.(\d{1,3}))?", model)
    newer = version is not None and (int(version[1]), int(version[2] or 0)) >= _BREAKPOINTS_SINCE
    parts = (part for message in body["messages"] for part in _parts(message))
    return newer or "prompt_cache_options" in body or any("prompt_cache_breakpoint" in part for part in parts)


def _messages(body: Body) -> list[Body]:
    messages = objects(body["messages"], "messages")
    if not messages:
        raise Refusal(400, "Invalid 'messages': empty array.", param="messages", code="empty_array")
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        role = choose(message, "role", _ROLES, f"{path}.role")
        if role == "tool" and not isinstance(message.get("tool_call_id"), str):
            raise _missing(f"{path}.tool_call_id")
        content = message.get("content")
        if isinstance(content, list):
            for part in objects(content, f"{path}.content"):
                if not isinstance(part.get("type"), str):
                    raise _missing(f"{path}.content.type")
        elif not isinstance(content, str) and not (content is None and role == "assistant"):
            raise Refusal(400, f"Invalid type for '{path}.content'", param=f"{path}.content", code="invalid_type")
    return messages


def _refuse_cache_control(body: Body, messages: list[Body]) -> None:
    places = [("", body)]
    places += [(f"tools[{index}].", tool) for index, tool in enumerate(objects(body.get("tools"), "tools"))]
    for index, message in enumerate(messages):
        places.append((f"messages[{index}].", message))
        places += [(f"messages[{index}].content[{at}].", part) for at, part in enumerate(_parts(message))]
    for path, holder in places:
        if "cache_control" in holder:
            param = f"{path}cache_control"
            raise Refusal(400, f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")


def _check_options(body: Body) -> None:
    if as_object(body.get("stream_options"), "stream_options") and body.get("stream") is not True:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise Refusal(400, message, param="stream_options")
    if body.get("n") is not None:
        integer(body["n"], "n", 1, _CHOICES_MAX)


def _blocks(body: Body, model: str, messages: list[Body]) -> tuple[Block, ...]:
    blocks = [Block(b"tools", canonical(tool)) for tool in objects(body.get("tools"), "tools")]
    if body.get("response_format") is not None:
        blocks.append(Block(b"format", canonical({"response_format": body["response_format"]})))
    options = _cache_options(body)
    implicit_at = -1
    for message in messages:
        blocks.extend(_message_blocks(message, options["ttl"]))
        if message["role"] in _IMPLICIT_AFTER:
            implicit_at = len(blocks) - 1
    if not caches_by_breakpoint(model, body):
        return tuple(blocks)
    implicit = implicit_at >= 0 and options["mode"] == "implicit"
    explicit = [index for index, block in enumerate(blocks) if block.ttl_s is not None]
    kept = set(explicit[-(_WRITES_MAX - implicit) :])
    ttls = {index: blocks[index].ttl_s for index in kept}
    if implicit:
        ttls.setdefault(implicit_at, TTL_S[options["ttl"]])
    return tuple(Block(block.place, block.content, ttls.get(index)) for index, block in enumerate(blocks))


def _message_blocks(message: Body, ttl: str) -> Iterator[Block]:
    place = message["role"].encode() + b":" + str(message.get("tool_call_id", "")).encode()
    if isinstance(message.get("content"), str):
        yield Block(place, message["content"].encode())
    for part in _parts(message):
        yield Block(place, canonical(part, "prompt_cache_breakpoint"), _breakpoint(part, ttl))
    rest = {name: value for name, value in message.items() if name not in ("role", "content", "tool_call_id")}
    if rest:
        yield Block(place, canonical(rest))


def _cache_options(body: Body) -> dict[str, str]:
    given = as_object(body.get("prompt_cache_options"), "prompt_cache_options")
    options = {"mode": "implicit", "ttl": "30m", **given}
    choose(options, "mode", ("implicit", "explicit"), "prompt_cache_options.mode")
    choose(options, "ttl", TTL_S, "prompt_cache_options.ttl")
    return options


def _breakpoint(part: Body, ttl: str) -> int | None:
    mark = part.get("prompt_cache_breakpoint")
    if mark is None:
        return None
    mark = as_object(mark, "prompt_cache_breakpoint")
    choose(mark, "mode", ("explicit",), "prompt_cache_breakpoint.mode")
    return TTL_S[choose({"ttl": ttl} | mark, "ttl", TTL_S, "prompt_cache_breakpoint.ttl")]


def _function_tools(body: Body) -> dict[str, Any]:
    tools: dict[str, Any] = {}
    for index, tool in enumerate(objects(body.get("tools"), "tools")):
        function = tool.get("function")
        if tool.get("type") != "function":
            continue  # custom tools are accepted and never called
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise _missing(f"tools[{index}].function.name")
        tools[function["name"]] = function.get("parameters") or {"type": "object", "properties": {}}
    return tools


def _must_call(body: Body, tools: Mapping[str, Any]) -> tuple[str, ...]:
    choice = body.get("tool_choice")
    if choice in (None, "none", "auto"):
        return ()
    if not body.get("tools"):
        raise Refusal(400, "'tool_choice' is only allowed when 'tools' are specified.", param="tool_choice")
    if choice == "required":
        return tuple(tools)[:1]
    if not isinstance(choice, dict):
        raise Refusal(400, f"Invalid value: {choice!r}.", param="tool_choice", code="invalid_value")
    if allowed := choice.get("allowed_tools"):
        allowed = as_object(allowed, "tool_choice.allowed_tools")
        names = [_name(tool) for tool in objects(allowed.get("tools"), "tool_choice.allowed_tools.tools")]
        return tuple(names[:1]) if allowed.get("mode") == "required" else ()
    name = _name(choice)
    if name not in tools:
        raise Refusal(400, f"Tool choice '{name}' not found in 'tools' parameter.", param="tool_choice")
    return (name,)


def _name(tool: Body) -> str:
    return str(as_object(tool.get("function"), "function").get("name"))


def _schema(body: Body) -> Mapping[str, Any] | None:
    wanted = as_object(body.get("response_format"), "response_format")
    if wanted.get("type") == "json_object":
        return {"type": "object", "properties": {"answer": {"type": "string"}}}
    described = as_object(wanted.get("json_schema"), "response_format.json_schema")
    return as_object(described.get("schema"), "response_format.json_schema.schema") or None


def _limit(body: Body) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        if body.get(name) is not None:
            return integer(body[name], name, 1)
    return None


def _said(messages: list[Body]) -> str:
    """The text of the last user or tool message."""
    message = next((message for message in reversed(messages) if message["role"] in _IMPLICIT_AFTER), {})
    content = message.get("content")
    return content if isinstance(content, str) else joined_text(_parts(message))


def _parts(message: Body) -> list[Body]:
    content = message.get("content")
    return content if isinstance(content, list) else []


def _missing(name: str) -> Refusal:
    return Refusal(400, f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")
