"""Tool definitions, tool choice and tool calls, in both directions.

Schemas and inputs are the caller's data: every key stays, in its order, and ``cache_control`` in them is no marker.
"""

from __future__ import annotations

from typing import Final

from relay.core.cache_control import refusal
from relay.core.errors import InvalidRequest
from relay.core.translate.markers import MEMBERS, marker_of
from relay.core.translate.reading import Json, no_counterpart, object_in, objects_in, text_in
from relay.core.translate.spelling import decode_exactly, encode
from relay.core.translate.translation import Made, Notes

_CHOICES: Final = {"none": "none", "auto": "auto", "required": "any"}
_CHOICES_BACK: Final = {theirs: ours for ours, theirs in _CHOICES.items()}


# ── OpenAI to Anthropic ──────────────────────────────────────────────────────────────────────────────────────────────


def tools_to_anthropic(request: Json, notes: Notes) -> list[Json] | None:
    tools = [_tool_to_anthropic(tool, path, notes) for path, tool in objects_in(request.get("tools"), "tools")]
    return notes.all_marked(tools) or None


def choice_to_anthropic(request: Json) -> Json | None:
    """Without tools it means nothing, and both providers refuse it."""
    choice, is_serial = request.get("tool_choice"), request.get("parallel_tool_calls") is False
    if not request.get("tools") or (choice is None and not is_serial):
        return None
    if isinstance(choice, dict) and choice.get("type") == "function":
        function = object_in(choice, "function", "tool_choice")
        translated: Json = {"type": "tool", "name": text_in(function, "name", "tool_choice.function")}
    elif choice is None or (isinstance(choice, str) and choice in _CHOICES):
        translated = {"type": _CHOICES.get(choice or "auto")}
    else:
        raise no_counterpart("tool_choice", choice.get("type") if isinstance(choice, dict) else choice)
    if is_serial and translated["type"] != "none":
        translated["disable_parallel_tool_use"] = True
    return translated


def call_to_anthropic(call: Json, path: str, notes: Notes) -> Made:
    """``arguments`` are the text the model wrote: blank if the tool takes none."""
    if call.get("type") not in (None, "function"):
        raise no_counterpart(f"{path}.type", call["type"])
    function, at = object_in(call, "function", path), f"{path}.function"
    notes.drop_others(call, ("id", "type", "function", "index", *MEMBERS), path)
    notes.drop_others(function, ("name", "arguments"), at)
    block = {
        "type": "tool_use",
        "id": text_in(call, "id", path),
        "name": text_in(function, "name", at),
        "input": _input(function, at),
    }
    return Made(block, path, marker_of(call, path, notes))


def _tool_to_anthropic(tool: Json, path: str, notes: Notes) -> Made:
    if not _is_function(tool, path):
        is_bare = tool.keys().isdisjoint(MEMBERS)
        native = tool if is_bare else {name: value for name, value in tool.items() if name not in MEMBERS}
        return Made(native, path, marker_of(tool, path, notes))
    function, at = object_in(tool, "function", path), f"{path}.function"
    notes.drop_others(tool, ("type", "function", *MEMBERS), path)
    notes.drop_others(function, ("name", "description", "parameters", "strict", *MEMBERS), at)
    translated: Json = {"name": text_in(function, "name", at)}
    if function.get("description") is not None:
        translated["description"] = function["description"]
    translated["input_schema"] = function.get("parameters") or {"type": "object", "properties": {}}
    if function.get("strict") is True:
        translated["strict"] = True
    inner = marker_of(function, at, notes)
    outer = marker_of(tool, path, notes)
    if outer is None:
        return Made(translated, at, inner)
    notes.strip(inner, at)
    return Made(translated, path, outer)


def _is_function(tool: Json, path: str) -> bool:
    """Else it is a tool of Anthropic's own: one of the provider's, or a client's in Anthropic's form."""
    kind = tool.get("type")
    if kind == "function" or (kind is None and "function" in tool):
        return True
    if kind in (None, "custom") and "input_schema" not in tool:
        raise no_counterpart(f"{path}.type", kind)
    return False


def _input(function: Json, path: str) -> Json:
    if function.get("arguments") is None or not (text := text_in(function, "arguments", path)).strip():
        return {}
    try:
        # Half a surrogate pair in the text can only be inside one of its strings, where the escape means the same.
        arguments = decode_exactly(text.encode("utf-8", "backslashreplace"))
    except InvalidRequest as error:
        raise refusal(f"{path}.arguments", "Input should be a JSON object", text) from error
    if not isinstance(arguments, dict):
        raise refusal(f"{path}.arguments", "Input should be a JSON object", text)
    return arguments


# ── Anthropic to OpenAI ──────────────────────────────────────────────────────────────────────────────────────────────


def tools_to_openai(request: Json, notes: Notes) -> list[Json] | None:
    tools = [_tool_to_openai(tool, path, notes) for path, tool in objects_in(request.get("tools"), "tools")]
    return notes.all_marked(tools) or None


def choice_to_openai(request: Json) -> str | Json | None:
    if not request.get("tools") or request.get("tool_choice") is None:
        return None
    kind = text_in(object_in(request, "tool_choice", ""), "type", "tool_choice")
    if kind == "tool":
        return {"type": "function", "function": {"name": text_in(request["tool_choice"], "name", "tool_choice")}}
    if kind not in _CHOICES_BACK:
        raise no_counterpart("tool_choice.type", kind)
    return _CHOICES_BACK[kind]


def parallel_calls(request: Json) -> bool | None:
    """False where the choice forbids them; both providers allow them unasked."""
    choice = request.get("tool_choice")
    is_serial = isinstance(choice, dict) and choice.get("disable_parallel_tool_use") is True
    return False if is_serial and request.get("tools") else None


def call_to_openai(block: Json, path: str, notes: Notes) -> Made:
    notes.drop_others(block, ("type", "id", "name", "input", "cache_control"), path)
    function = {
        "name": text_in(block, "name", path),
        "arguments": encode(object_in(block, "input", path)).decode(),
    }
    call = {"id": text_in(block, "id", path), "type": "function", "function": function}
    return Made(call, path, block.get("cache_control"))


def _tool_to_openai(tool: Json, path: str, notes: Notes) -> Made:
    if tool.get("type") not in (None, "custom"):
        raise no_counterpart(f"{path}.type", tool["type"])
    notes.drop_others(tool, ("type", "name", "description", "input_schema", "strict", "cache_control"), path)
    function: Json = {"name": text_in(tool, "name", path)}
    if tool.get("description") is not None:
        function["description"] = tool["description"]
    function["parameters"] = object_in(tool, "input_schema", path)
    if tool.get("strict") is True:
        function["strict"] = True
    return Made({"type": "function", "function": function}, path, tool.get("cache_control"))
