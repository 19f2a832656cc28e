"""A Messages request as a Chat Completions request: ``request_to_anthropic`` read from right to left.

Messages, content and tools have modules of their own; the members at the top are these:

    max_tokens                        max_completion_tokens
    stop_sequences                    stop
    temperature, top_p                as they are
    output_config.format              response_format, a strict json_schema with a name of ours
    output_config.effort              reasoning_effort; thinking disabled beside it is none; other thinking goes
    metadata.user_id                  safety_identifier; its SHA-256 where it is longer than OpenAI takes
    service_tier                      auto, standard_only (default); others go
    stream                            itself; where it is true, with usage asked for: the relay has to count
    cache_control                     itself, where the provider takes it
    a member of OpenAI's own          itself, and it wins (``_NATIVE``): its sender knows the provider
    mcp_servers                       refused, as are the tools that a provider runs
    anything else                     goes: top_k, container, context_management, … OpenAI refuses what it does not know

Breakpoints become what the provider takes (``capabilities``).  The result is built in one fixed order, ``messages``
last, so that equal requests give equal bytes and a conversation that grew starts with the bytes it had.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from relay.core.capabilities import Capability
from relay.core.translate.messages_to_openai import Reasoning, messages_to_openai
from relay.core.translate.reading import Json, no_counterpart, object_in, objects_in, text_in
from relay.core.translate.tools import choice_to_openai, parallel_calls, tools_to_openai
from relay.core.translate.translation import Made, Notes, Translation

# Members that only OpenAI knows and that change neither the number nor the form of the answers.
_NATIVE: Final = (
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "reasoning_effort",
    "verbosity",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
)

_KNOWN: Final = frozenset(
    {"model", "max_tokens", "messages", "system", "tools", "tool_choice", "stop_sequences", "temperature", "top_p"}
    | {"output_config", "thinking", "metadata", "service_tier", "stream", "cache_control", *_NATIVE}
)

# Of safety_identifier and user. Claude Code's ids have about 150.
_USER_CHARS_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class OpenAIOptions:
    """What a provider of this dialect is like; the defaults are those of OpenAI itself before gpt-5.6."""

    cache_control: Capability = "strip"
    reasoning: Reasoning = "drop"


def to_openai(request: Json, options: OpenAIOptions) -> Translation:
    """The request for the provider; ``InvalidRequest`` names the place of what it cannot serve."""
    notes = Notes(options.cache_control)
    for path, server in objects_in(request.get("mcp_servers"), "mcp_servers"):
        raise no_counterpart(path, server)
    notes.drop_others(request, _KNOWN)
    tools = tools_to_openai(request, notes)
    messages = messages_to_openai(request, notes, options.reasoning)
    members = {
        "model": request.get("model"),
        "max_completion_tokens": request.get("max_tokens"),
        "stream": request.get("stream"),
        "stream_options": {"include_usage": True} if request.get("stream") is True else None,
        "stop": request.get("stop_sequences") or None,
        "temperature": request.get("temperature"),
        "top_p": request.get("top_p"),
        "safety_identifier": _user(request, notes),
        "service_tier": _service_tier(request, notes),
        **_output(request, notes),
        **{name: request[name] for name in _NATIVE if request.get(name) is not None},
        **notes.marked(Made({}, "", request.get("cache_control"))),
        "tools": tools,
        "tool_choice": choice_to_openai(request),
        "parallel_tool_calls": parallel_calls(request),
        "messages": messages,
    }
    return notes.translation({name: member for name, member in members.items() if member is not None})


def _output(request: Json, notes: Notes) -> Json:
    config, effort = _object(request, "output_config"), None
    notes.drop_others(config, ("effort", "format"), "output_config")
    thinking = _object(request, "thinking").get("type")
    if thinking == "disabled":
        effort = "none"
    elif config.get("effort") is not None:
        effort = text_in(config, "effort", "output_config")
    if thinking not in (None, "disabled"):
        notes.drop("thinking")
    return {"reasoning_effort": effort, "response_format": _format(config)}


def _format(config: Json) -> Json | None:
    if config.get("format") is None:
        return None
    wanted, at = object_in(config, "format", "output_config"), "output_config.format"
    if wanted.get("type") != "json_schema":
        raise no_counterpart(f"{at}.type", wanted.get("type"))
    # Anthropic always holds the model to the schema; OpenAI only if it is strict, and it wants a name.
    schema = {"name": "output", "strict": True, "schema": object_in(wanted, "schema", at)}
    return {"type": "json_schema", "json_schema": schema}


def _user(request: Json, notes: Notes) -> str | None:
    metadata = _object(request, "metadata")
    notes.drop_others(metadata, ("user_id",), "metadata")
    if metadata.get("user_id") is None:
        return None
    user = text_in(metadata, "user_id", "metadata")
    return user if len(user) <= _USER_CHARS_MAX else sha256(user.encode("utf-8", "backslashreplace")).hexdigest()


def _service_tier(request: Json, notes: Notes) -> str | None:
    tier = request.get("service_tier")
    translated = {"auto": "auto", "standard_only": "default"}.get(tier) if isinstance(tier, str) else None
    if tier is not None and translated is None:
        notes.drop("service_tier")
    return translated


def _object(holder: Json, name: str) -> Json:
    """A member that may be absent or null, as an object."""
    return {} if holder.get(name) is None else object_in(holder, name, "")
