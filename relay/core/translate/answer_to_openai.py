"""A whole Messages answer as a Chat Completion.

The worker calls it where the client speaks OpenAI's dialect and the provider Anthropic's.  It knows nothing of streams,
of errors or of what the request asked for.

Dropped, having no counterpart: citations, what server tools said and did, the service tier, unknown blocks.
``reasoning_content`` and ``thinking_blocks`` are no members of OpenAI's; compatible servers use them, and the blocks
carry the signatures that a later turn of the conversation must hand back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relay.core.errors import UpstreamProtocolError
from relay.core.meter import Meter, member, object_in
from relay.core.translate.json_values import encoded, objects, string
from relay.core.translate.usage_shapes import in_openai_shape

# Any other is a "stop": end_turn, stop_sequence, pause_turn, and what is newer than this table.
_FINISH_REASONS = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def translate(body: bytes, meter: Meter, *, created: int, answer_id: str = "", model: str = "") -> bytes:
    """The completion for a message in ``body``, which ``meter`` has seen.  Raises ``UpstreamProtocolError``.

    ``created`` is Unix time; ``answer_id`` and ``model`` are for a provider that names none.
    """
    message = object_in(body)
    if not isinstance(message.get("content"), list):
        raise UpstreamProtocolError("the provider answered 200 with JSON that is no message")
    choice = {"index": 0, "message": _message(message), "finish_reason": finish_reason(meter.stop_reason)}
    completion: dict[str, Any] = {
        "id": meter.message_id or answer_id,
        "object": "chat.completion",
        "created": created,
        "model": meter.model or model,
        "choices": [choice],
    }
    if meter.usage:
        completion["usage"] = in_openai_shape(meter.usage)
    return encoded(completion)


def finish_reason(stop_reason: str | None) -> str:
    return _FINISH_REASONS.get(stop_reason or "", "stop")


def explanation(stop: Mapping[str, Any]) -> str | None:
    """Why the model refused, from the object that holds the ``stop_details``."""
    return string(member(stop, "stop_details").get("explanation")) or None


def _message(answer: Mapping[str, Any]) -> dict[str, Any]:
    blocks = objects(answer["content"])
    text = "".join([string(block.get("text")) for block in blocks if block.get("type") == "text"])
    reasoning = "".join([string(block.get("thinking")) for block in blocks if block.get("type") == "thinking"])
    thoughts = [block for block in blocks if block.get("type") in ("thinking", "redacted_thinking")]
    calls = [_call(block) for block in blocks if block.get("type") == "tool_use"]
    refused = answer.get("stop_reason") == "refusal"
    message: dict[str, Any] = {
        "role": "assistant",
        "content": text or (None if calls or refused else ""),
        "refusal": explanation(answer) if refused else None,
    }
    if reasoning:
        message["reasoning_content"] = reasoning
    if thoughts:
        message["thinking_blocks"] = thoughts
    if calls:
        message["tool_calls"] = calls
    return message


def _call(block: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": string(block.get("name")), "arguments": encoded(member(block, "input")).decode()}
    return {"id": string(block.get("id")), "type": "function", "function": function}
