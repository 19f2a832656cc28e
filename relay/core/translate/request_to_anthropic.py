"""A Chat Completions request as a Messages request.

Messages, content and tools have modules of their own; the members at the top are these:

    max_completion_tokens, max_tokens    max_tokens: the first that is there, else the default
    stop                                 stop_sequences, without blank ones
    temperature, top_p, top_k            as they are, temperature at most 1; they go where the version refuses them
    reasoning_effort                     output_config.effort; minimal is low, none is thinking disabled
    thinking                             itself; ``reasoning_effort`` beside it goes
    response_format                      json_schema: output_config.format; others go
    safety_identifier, user              metadata.user_id: the first that is there
    service_tier                         auto, default (standard_only); others go
    stream, cache_control                themselves
    n above 1, functions, function_call  refused
    anything else                        goes

The result is built in one fixed order, ``messages`` last, so that equal requests give equal bytes and a conversation
that grew starts with the bytes it had.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from relay.core import cache_control
from relay.core.cache_control import refusal
from relay.core.errors import InvalidRequest
from relay.core.translate.messages_to_anthropic import conversation
from relay.core.translate.reading import Json, no_counterpart, object_in, text_in
from relay.core.translate.tools import choice_to_anthropic, tools_to_anthropic
from relay.core.translate.translation import Made, Notes, Translation

_NO_SAMPLING_SINCE: Final = "2026-10-21"

# Read somewhere below, or ours to deal with.  All others are listed as dropped.
_KNOWN: Final = frozenset(
    {"model", "messages", "max_completion_tokens", "max_tokens", "stop", "temperature", "top_p", "top_k", "n"}
    | {"reasoning_effort", "thinking", "response_format", "safety_identifier", "user", "service_tier", "stream"}
    | {"stream_options", "cache_control", "tools", "tool_choice", "parallel_tool_calls"}
)


@dataclass(frozen=True, slots=True)
class AnthropicOptions:
    """What a provider of this dialect is like."""

    anthropic_version: str = "2023-06-01"
    role_system: Literal["hoist", "native"] = "hoist"
    default_max_tokens: int = 4096
    refuses_disabled_thinking: bool = False
    cache_control: Literal["keep", "strip"] = "keep"


def to_anthropic(request: Json, options: AnthropicOptions) -> Translation:
    """The request for the provider; ``InvalidRequest`` names the place of what it cannot serve."""
    _refuse_what_cannot_be_served(request)
    notes = Notes(options.cache_control, _breakpoint_ttl(request))
    notes.drop_others(request, _KNOWN)
    tools = tools_to_anthropic(request, notes)
    talk = conversation(request.get("messages"), notes, native_system=options.role_system == "native")
    if not talk.messages:
        raise refusal("messages", "At least one message of a user or an assistant is required")
    members = {
        "model": request.get("model"),
        "max_tokens": _max_tokens(request, options),
        "stream": request.get("stream"),
        "stop_sequences": _stop_sequences(request),
        **_sampling(request, options, notes),
        **_reasoning(request, options, notes),
        "metadata": _metadata(request),
        "service_tier": _service_tier(request, notes),
        **notes.marked(Made({}, "", request.get("cache_control"))),
        "tools": tools,
        "tool_choice": choice_to_anthropic(request),
        "system": talk.system or None,
        "messages": talk.messages,
    }
    return notes.translation(_checked({name: member for name, member in members.items() if member is not None}, notes))


def _checked(translated: Json, notes: Notes) -> Json:
    """Markers that were in order where the client put them may not be so where their blocks went."""
    try:
        cache_control.check(translated, "anthropic")
    except InvalidRequest as refused:
        raise notes.in_the_clients_words(refused, translated, "anthropic") from refused
    return translated


def _refuse_what_cannot_be_served(request: Json) -> None:
    n = request.get("n")
    if isinstance(n, (int, float)) and n > 1:
        raise refusal("n", "The model's provider gives one answer to a request", n)
    for name in ("functions", "function_call"):  # Dropped, they would leave the model without tools.
        if request.get(name):
            raise no_counterpart(name, request[name])


def _breakpoint_ttl(request: Json) -> Any:
    options = request.get("prompt_cache_options")
    return options.get("ttl") if isinstance(options, dict) else None


def _max_tokens(request: Json, options: AnthropicOptions) -> Any:
    limits = (request.get("max_completion_tokens"), request.get("max_tokens"), options.default_max_tokens)
    return next(limit for limit in limits if limit is not None)


def _stop_sequences(request: Json) -> list[str] | None:
    stop = request.get("stop")
    texts = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise refusal("stop", "Input should be a string or an array of strings", stop)
    return [text for text in texts if text.strip()] or None


def _sampling(request: Json, options: AnthropicOptions, notes: Notes) -> Json:
    sampling = {name: request.get(name) for name in ("temperature", "top_p", "top_k")}
    if options.anthropic_version >= _NO_SAMPLING_SINCE:
        notes.drop_others(sampling, ())
        return {}
    temperature = sampling["temperature"]
    if isinstance(temperature, (int, float)) and temperature > 1:
        sampling["temperature"] = 1.0
    return sampling


def _reasoning(request: Json, options: AnthropicOptions, notes: Notes) -> Json:
    thinking, effort = request.get("thinking"), request.get("reasoning_effort")
    if effort is not None and not isinstance(effort, str):
        raise refusal("reasoning_effort", "Input should be a valid string", effort)
    if effort == "none" and thinking is None and not options.refuses_disabled_thinking:
        thinking, effort = {"type": "disabled"}, None
    elif effort == "none" or (effort and thinking is not None):
        notes.drop("reasoning_effort")
        effort = None
    config = {"effort": "low" if effort == "minimal" else effort, "format": _format(request, notes)}
    config = {name: member for name, member in config.items() if member is not None}
    return {"thinking": thinking, "output_config": config or None}


def _format(request: Json, notes: Notes) -> Json | None:
    wanted = request.get("response_format")
    if isinstance(wanted, dict) and wanted.get("type") == "json_schema":
        described = object_in(wanted, "json_schema", "response_format")
        return {"type": "json_schema", "schema": object_in(described, "schema", "response_format.json_schema")}
    if wanted is not None and wanted != {"type": "text"}:
        notes.drop("response_format")
    return None


def _metadata(request: Json) -> Json | None:
    for name in ("safety_identifier", "user"):
        if request.get(name):
            return {"user_id": text_in(request, name, "")}
    return None


def _service_tier(request: Json, notes: Notes) -> str | None:
    tier = request.get("service_tier")
    translated = {"auto": "auto", "default": "standard_only"}.get(tier) if isinstance(tier, str) else None
    if tier is not None and translated is None:
        notes.drop("service_tier")
    return translated
