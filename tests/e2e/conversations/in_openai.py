"""A conversation of the script as an application writes it for OpenAI's SDKs."""

from __future__ import annotations

from typing import Any

from tests.e2e.conversations.script import Conversation, Pair, Turn, Way, marker

Json = dict[str, Any]

THINKING = {"type": "enabled", "budget_tokens": 1024}


def members(conversation: Conversation, pair: Pair, way: Way) -> Json:
    """What every request of the conversation says beside its messages."""
    members = {
        "model": conversation.model or f"{pair.provider}/{pair.model}",
        "max_completion_tokens": conversation.limit,
        "tools": [_tool(tool) for tool in conversation.tools],
        "tool_choice": _choice(conversation.choice),
        "parallel_tool_calls": False if conversation.one_at_a_time else None,
        "stop": list(conversation.stop_at) or None,
        "response_format": _format(conversation.schema),
        "reasoning_effort": conversation.effort or None,
        # Only where the model is one of Anthropic's does an application add what OpenAI does not know.
        **({"thinking": THINKING} if conversation.thinks and pair.provider == "anthropic" else {}),
        "safety_identifier": conversation.customer or None,
        "service_tier": conversation.tier or None,
        "stream_options": {"include_usage": True} if conversation.usage_asked and way != "whole" else None,
        **marker(conversation.cache),
    }
    return {name: member for name, member in members.items() if member not in (None, [])}


def opening(conversation: Conversation) -> list[Json]:
    return [{"role": "system", "content": [_part(part) for part in conversation.system]}] if conversation.system else []


def messages(turn: Turn) -> list[Json]:
    if not turn.user:
        return []
    content = turn.user if isinstance(turn.user, str) else [_part(part) for part in turn.user]
    return [{"role": "user", "content": content}]


def result(part: Json) -> Json:
    """A tool's result, but for the id of the call."""
    return {"role": "tool", "content": [_part(part)] if "cache" in part else part["text"]}


def _part(part: Json) -> Json:
    return _content(part) | marker(part.get("cache", ""))


def _content(part: Json) -> Json:
    if "text" in part:
        return {"type": "text", "text": part["text"]}
    if "pdf" in part:
        data = f"data:application/pdf;base64,{part['pdf']}"
        return {"type": "file", "file": {"file_data": data, "filename": part["title"]}}
    url = part["image"] if part["image"].startswith("https:") else f"data:image/png;base64,{part['image']}"
    return {"type": "image_url", "image_url": {"url": url}}


def _tool(tool: Json) -> Json:
    # Strict, because the Python SDK's stream helper takes no others.
    function = {"name": tool["name"], "description": tool["description"], "parameters": tool["schema"], "strict": True}
    return {"type": "function", "function": function, **marker(tool.get("cache", ""))}


def _choice(choice: str) -> str | Json | None:
    named = {"type": "function", "function": {"name": choice}}
    return {"": None, "none": "none", "any": "required"}.get(choice, named)


def _format(schema: Json | None) -> Json | None:
    described = {"name": "answer", "strict": True, "schema": schema}
    return {"type": "json_schema", "json_schema": described} if schema else None
