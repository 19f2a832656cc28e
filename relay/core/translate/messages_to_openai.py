"""Anthropic's ``system`` and ``messages`` as OpenAI's messages.

    system, string or blocks        one system message, before all others
    a message of role system        a system message where it stands
    user                            a tool message for each tool_result, then a user message with the rest
    tool_result                     its texts; what else it holds begins the user message, since a tool message has
                                    only text; ``is_error`` goes
    assistant                       text, then tool_calls; without either there is no message
    tool_use                        an entry of tool_calls, ``input`` as compact JSON
    thinking, redacted_thinking     go, as OpenAI's own API has no place for them; for a server that has one, they are
                                    ``thinking_blocks``, with the readable part as ``reasoning_content`` as well

A message is made of its own blocks and of nothing else, so a conversation that grew begins with the messages it had.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from relay.core.cache_control import refusal
from relay.core.translate.content_to_openai import TEXT, content_of, part_of, parts_of
from relay.core.translate.reading import Json, objects_in, text_in
from relay.core.translate.tools import call_to_openai
from relay.core.translate.translation import Made, Notes, with_own_marker

Reasoning = Literal["drop", "extension"]

_THINKING: Final = ("thinking", "redacted_thinking")


def messages_to_openai(request: Json, notes: Notes, reasoning: Reasoning) -> list[Json]:
    translated = _system(request.get("system"), "system", notes)
    for path, message in objects_in(request.get("messages"), "messages"):
        notes.drop_others(message, ("role", "content"), path)
        role, content, at = text_in(message, "role", path), message.get("content"), f"{path}.content"
        if role == "system":
            translated += _system(content, at, notes)
        elif role == "user":
            translated += _user(content, at, notes)
        elif role == "assistant":
            translated += _assistant(content, at, notes, reasoning)
        else:
            raise refusal(f"{path}.role", "Input should be 'user', 'assistant' or 'system'", role)
    return translated


def _system(content: Any, path: str, notes: Notes) -> list[Json]:
    parts = parts_of(content, path, notes, TEXT)
    return [{"role": "system", "content": content_of(parts, notes)}] if parts else []


def _user(content: Any, path: str, notes: Notes) -> list[Json]:
    if not isinstance(content, list):
        parts = parts_of(content, path, notes)
        return [{"role": "user", "content": content_of(parts, notes)}] if parts else []
    results: list[Json] = []
    media: list[Made] = []
    rest: list[Made] = []
    for at, block in objects_in(content, path):
        if block.get("type") == "tool_result":
            result, moved = _result(block, at, notes)
            results.append(result)
            media += moved
        else:
            rest += part_of(block, at, notes)
    said = [*media, *rest]
    return [*results, {"role": "user", "content": content_of(said, notes)}] if said else results


def _result(block: Json, path: str, notes: Notes) -> tuple[Json, list[Made]]:
    """The tool message, and what it cannot hold."""
    notes.drop_others(block, ("type", "tool_use_id", "content", "cache_control"), path)
    parts = parts_of(block.get("content"), f"{path}.content", notes)
    texts = [made for made in parts if made.block["type"] == "text"]
    media = [made for made in parts if made.block["type"] != "text"]
    message: Json = {"role": "tool", "tool_call_id": text_in(block, "tool_use_id", path)}
    own = block.get("cache_control")
    if texts:
        texts = with_own_marker(texts, own, path, notes)
    elif media:
        media = with_own_marker(media, own, path, notes)
    else:
        return notes.marked(Made(message | {"content": ""}, path, own)), []
    return message | {"content": content_of(texts, notes)}, media


def _assistant(content: Any, path: str, notes: Notes, reasoning: Reasoning) -> list[Json]:
    texts: list[Made] = []
    calls: list[Made] = []
    thoughts: list[Json] = []
    if not isinstance(content, list):
        texts = parts_of(content, path, notes, TEXT)
    for at, block in objects_in(content, path) if isinstance(content, list) else []:
        kind = block.get("type")
        if kind == "tool_use":
            calls.append(call_to_openai(block, at, notes))
        elif kind not in _THINKING:
            texts += part_of(block, at, notes, TEXT)
        elif reasoning == "extension":
            thoughts.append(block)
        else:
            notes.drop(f"{at}.{kind}")
    if not (texts or calls or thoughts):
        return []
    message: Json = {"role": "assistant", "content": content_of(texts, notes) if texts else None}
    message |= _reasoning(thoughts)
    return [message | ({"tool_calls": notes.all_marked(calls)} if calls else {})]


def _reasoning(thoughts: list[Json]) -> Json:
    """As our own answers give them, so that they survive a conversation."""
    readable = [block["thinking"] for block in thoughts if isinstance(block.get("thinking"), str) and block["thinking"]]
    members: Json = {"reasoning_content": "".join(readable)} if readable else {}
    return members | ({"thinking_blocks": thoughts} if thoughts else {})
