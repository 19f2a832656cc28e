"""A conversation of the script as an application writes it for Anthropic's SDKs."""

from __future__ import annotations

from typing import Any

from tests.e2e.conversations.script import Conversation, Pair, Turn, Way, marker

Json = dict[str, Any]


def members(conversation: Conversation, pair: Pair, way: Way) -> Json:
    """What every request of the conversation says beside its messages."""
    members = {
        "model": conversation.model or f"{pair.provider}/{pair.model}",
        "max_tokens": conversation.limit,
        "system": [_block(part) for part in conversation.system],
        "tools": [_tool(tool) for tool in conversation.tools],
        "tool_choice": _choice(conversation),
        "stop_sequences": list(conversation.stop_at),
        "output_config": _output(conversation),
        "thinking": {"type": "enabled", "budget_tokens": 1024} if conversation.thinks else None,
        "metadata": {"user_id": conversation.customer} if conversation.customer else None,
        "service_tier": conversation.tier,
        **marker(conversation.cache),
    }
    return {name: member for name, member in members.items() if member}


def opening(conversation: Conversation) -> list[Json]:
    """No message: the system prompt is a member of the request."""
    return []


def messages(turn: Turn) -> list[Json]:
    if not turn.user:
        return []
    content = turn.user if isinstance(turn.user, str) else [_block(part) for part in turn.user]
    return [{"role": "user", "content": content}]


def result(part: Json) -> Json:
    """A tool's result, but for the id of the call."""
    return {"type": "tool_result", "content": part["text"], **marker(part.get("cache", ""))}


def _block(part: Json) -> Json:
    return _content(part) | marker(part.get("cache", ""))


def _content(part: Json) -> Json:
    if "text" in part:
        return {"type": "text", "text": part["text"]}
    if "pdf" in part:
        source = {"type": "base64", "media_type": "application/pdf", "data": part["pdf"]}
        return {"type": "document", "source": source, "title": part["title"]}
    if part["image"].startswith("https:"):
        return {"type": "image", "source": {"type": "url", "url": part["image"]}}
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": part["image"]}}


def _tool(tool: Json) -> Json:
    described = {"name": tool["name"], "description": tool["description"], "input_schema": tool["schema"]}
    return described | {"strict": True} | marker(tool.get("cache", ""))


def _choice(conversation: Conversation) -> Json | None:
    if not conversation.choice:
        return None
    choice = (
        {"type": conversation.choice}
        if conversation.choice in ("none", "any")
        else {"type": "tool", "name": conversation.choice}
    )
    return choice | ({"disable_parallel_tool_use": True} if conversation.one_at_a_time else {})


def _output(conversation: Conversation) -> Json:
    config: Json = {"effort": conversation.effort} if conversation.effort else {}
    return config | ({"format": {"type": "json_schema", "schema": conversation.schema}} if conversation.schema else {})
