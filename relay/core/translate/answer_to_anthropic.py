"""A whole Chat Completion as a Messages answer.

The worker calls it where the client speaks Anthropic's dialect and the provider OpenAI's.  It knows nothing of streams,
of errors or of what the request asked for.

The reference has a table for the other direction only; this is its inverse, and where that is not enough:

* choices after the first are dropped, as are annotations, audio and log probabilities;
* reasoning without a signature becomes a thinking block with an empty one;
* a refusal's text becomes the explanation of the stop, whatever the finish_reason;
* a finish_reason of ``stop`` beside tool calls means that they are to be made: OpenAI says so for a forced tool;
* arguments that are no JSON object are an error, or ``{}`` where the token limit cut them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relay.core.errors import UpstreamProtocolError
from relay.core.meter import Meter, member, object_in
from relay.core.sse import parse_json
from relay.core.translate.json_values import encoded, objects, string
from relay.core.translate.usage_shapes import in_anthropic_shape

# Any other is an "end_turn": stop, and what is newer than this table.
_STOP_REASONS = {
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}


def translate(body: bytes, meter: Meter, *, answer_id: str = "", model: str = "") -> bytes:
    """The message for a completion in ``body``, which ``meter`` has seen.  Raises ``UpstreamProtocolError``.

    ``answer_id`` and ``model`` are for a provider that names none.
    """
    choice = first_choice(object_in(body))
    if choice is None:
        raise UpstreamProtocolError("the provider answered 200 with JSON that is no completion")
    said = member(choice, "message")
    message_id = meter.message_id or answer_id
    calls = objects(said.get("tool_calls"))
    content = _thoughts(said) + [{"type": "text", "text": text} for text in texts_in(said.get("content"))]
    for call in calls:
        content.append(_tool_use(call, f"{message_id}_{len(content)}", cut=meter.stop_reason == "length"))
    return encoded(
        {
            **opening(message_id, meter.model or model),
            "content": content,
            **stop(meter.stop_reason, string(said.get("refusal")), calls=bool(calls)),
            "usage": in_anthropic_shape(meter.usage),
        }
    )


def opening(message_id: str, model: str) -> dict[str, Any]:
    """What a message says before anything is known of it."""
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
        "container": None,
    }


def stop(finish_reason: str | None, refusal: str, *, calls: bool) -> dict[str, Any]:
    """How a message ended, in the three members that say so."""
    reason = "refusal" if refusal else _STOP_REASONS.get(finish_reason or "", "end_turn")
    if calls and reason == "end_turn":
        reason = "tool_use"
    details = {"type": "refusal", "category": None, "explanation": refusal or None}
    return {
        "stop_reason": reason,
        "stop_sequence": None,
        "stop_details": details if reason == "refusal" else None,
    }


def first_choice(payload: Mapping[str, Any]) -> dict[str, Any] | None:
    """The choice with index 0, which some servers leave out, of a completion or a chunk."""
    choices = payload.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and ((index := choice.get("index")) == 0 or not isinstance(index, int)):
            return choice
    return None


def texts_in(content: object) -> list[str]:
    """The texts of a message or a delta that are not empty; some servers send parts."""
    if isinstance(content, str):
        return [content] if content else []
    return [text for part in objects(content) if part.get("type") == "text" and (text := string(part.get("text")))]


def reasoning_in(said: Mapping[str, Any]) -> str:
    """Under DeepSeek's name, which most took over, or OpenRouter's."""
    return string(said.get("reasoning_content")) or string(said.get("reasoning"))


def thinking_blocks_in(said: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Blocks as they were before another relay translated them, without the index it added in streams."""
    return [
        {name: value for name, value in block.items() if name != "index"}
        for block in objects(said.get("thinking_blocks"))
        if block.get("type") in ("thinking", "redacted_thinking")
    ]


def _thoughts(said: Mapping[str, Any]) -> list[dict[str, Any]]:
    if blocks := thinking_blocks_in(said):
        return blocks
    reasoning = reasoning_in(said)
    return [{"type": "thinking", "thinking": reasoning, "signature": ""}] if reasoning else []


def arguments_in(function: Mapping[str, Any]) -> str:
    """A call's arguments as text; some servers do not wrap them into a string."""
    arguments = function.get("arguments")
    return encoded(arguments).decode() if isinstance(arguments, dict) else string(arguments)


def _tool_use(call: Mapping[str, Any], default_id: str, *, cut: bool) -> dict[str, Any]:
    function = member(call, "function")
    name = string(function.get("name"))
    return {
        "type": "tool_use",
        "id": string(call.get("id")) or default_id,
        "name": name,
        "input": _input(arguments_in(function).strip(), name, cut),
    }


def _input(arguments: str, name: str, cut: bool) -> dict[str, Any]:
    if arguments in ("", "null"):
        return {}
    try:
        value = parse_json(arguments.encode())
    except ValueError:
        value = None
    if isinstance(value, dict):
        return value
    if cut:
        return {}
    raise UpstreamProtocolError(f"the provider called tool {name[:64]!r} with arguments that are no JSON object")
