"""What an application saw of an answer, in words of no vendor; read strictly, so that a wrong shape fails here.

Streams that an application read by hand are put together here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.e2e.conversations.script import Vendor

Json = dict[str, Any]

_STOPS: Final[dict[Vendor, dict[str, str]]] = {
    "anthropic": {"end_turn": "end", "max_tokens": "length", "tool_use": "tool", "stop_sequence": "sequence"},
    "openai": {"stop": "end", "length": "length", "tool_calls": "tool"},
}


@dataclass(frozen=True, slots=True)
class Call:
    id: str
    name: str
    arguments: Any


@dataclass(frozen=True, slots=True)
class Usage:
    prompt: int  # all of it, cached or not
    written: int
    read: int
    output: int
    reasoning: int
    written_by_ttl: dict[str, int] | None = None  # where it is told

    @property
    def uncached(self) -> int:
        return self.prompt - self.written - self.read


@dataclass(frozen=True, slots=True)
class Answer:
    id: str
    model: str
    text: str
    stop: str
    stop_sequence: str | None
    calls: list[Call]
    thoughts: list[Json]  # blocks with a signature
    usage: Usage | None


def read(surface: Vendor, seen: Json) -> Answer:
    whole = seen["answer"] or ACCUMULATE[surface](seen["events"])
    return _READ[surface](whole)


def text_before_the_error(surface: Vendor, seen: Json) -> str:
    return "".join(seen["pieces"]) or _TEXT[surface](seen["events"])


def _read_message(message: Json) -> Answer:
    assert (message["type"], message["role"]) == ("message", "assistant")
    blocks: dict[str, list[Json]] = {"text": [], "tool_use": [], "thinking": []}
    for block in message["content"]:
        blocks[block["type"]].append(block)
    return Answer(
        id=message["id"],
        model=message["model"],
        text="".join(block["text"] for block in blocks["text"]),
        stop=_STOPS["anthropic"][message["stop_reason"]],
        stop_sequence=message["stop_sequence"],
        calls=[Call(block["id"], block["name"], block["input"]) for block in blocks["tool_use"]],
        thoughts=blocks["thinking"],
        usage=_usage_of_message(message["usage"]),
    )


def _usage_of_message(usage: Json) -> Usage:
    written, read = usage["cache_creation_input_tokens"], usage["cache_read_input_tokens"]
    split = usage["cache_creation"]
    by_ttl = split and {"5m": split["ephemeral_5m_input_tokens"], "1h": split["ephemeral_1h_input_tokens"]}
    assert min(usage["input_tokens"], written, read) >= 0
    reasoning = (usage.get("output_tokens_details") or {}).get("thinking_tokens", 0)
    prompt = usage["input_tokens"] + written + read
    told = by_ttl and {ttl: tokens for ttl, tokens in by_ttl.items() if tokens}
    return Usage(prompt, written, read, usage["output_tokens"], reasoning, told)


def _read_completion(completion: Json) -> Answer:
    assert completion["object"] == "chat.completion"
    assert completion["created"] > 0
    [choice] = completion["choices"]
    message = choice["message"]
    assert (choice["index"], message["role"]) == (0, "assistant")
    assert bool(message.get("reasoning_content")) == bool(message.get("thinking_blocks"))
    calls = message.get("tool_calls") or []
    assert all(call["type"] == "function" for call in calls)
    return Answer(
        id=completion["id"],
        model=completion["model"],
        text=message["content"] or "",
        stop=_STOPS["openai"][choice["finish_reason"]],
        stop_sequence=None,
        calls=[Call(call["id"], call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls],
        thoughts=message.get("thinking_blocks") or [],
        usage=_usage_of_completion(completion["usage"]) if completion.get("usage") else None,
    )


def _usage_of_completion(usage: Json) -> Usage:
    prompt, output, details = usage["prompt_tokens"], usage["completion_tokens"], usage["prompt_tokens_details"]
    written, read = details["cache_write_tokens"], details["cached_tokens"]
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens", 0)
    assert usage["total_tokens"] == prompt + output
    assert min(written, read, reasoning) >= 0
    assert written + read <= prompt
    return Usage(prompt, written, read, output, reasoning)


_READ: Final[dict[Vendor, Callable[[Json], Answer]]] = {"anthropic": _read_message, "openai": _read_completion}


def _accumulated_message(events: Sequence[Json]) -> Json:
    opening, *rest = [event for event in events if event["type"] != "ping"]
    message: Json = opening["message"]
    assert message["usage"]["output_tokens"] <= 1, "nobody knows yet how much will be said"
    for event in rest:
        match event["type"]:
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append(event["content_block"] | {"json": ""})
            case "content_block_delta":
                _add(event["delta"], message["content"][event["index"]])
            case "message_delta":
                message |= event["delta"]
                message["usage"] |= {name: value for name, value in event["usage"].items() if value is not None}
    assert rest[-1]["type"] == "message_stop"
    for block in message["content"]:
        if block["type"] == "tool_use":
            block["input"] = json.loads(block["json"] or "{}")
    return message


def _add(delta: Json, block: Json) -> None:
    match delta["type"]:
        case "text_delta":
            block["text"] += delta["text"]
        case "thinking_delta":
            block["thinking"] += delta["thinking"]
        case "signature_delta":
            block["signature"] = delta["signature"]
        case "input_json_delta":
            block["json"] += delta["partial_json"]


def _accumulated_completion(chunks: Sequence[Json]) -> Json:
    first = chunks[0]
    message: Json = {"role": first["choices"][0]["delta"]["role"], "tool_calls": []}
    choice: Json = {"index": 0, "message": message, "finish_reason": None}
    last = chunks[-1]
    usage = None if last["choices"] else last["usage"]
    for chunk in chunks if usage is None else chunks[:-1]:
        assert (chunk["id"], chunk["created"], chunk["model"]) == (first["id"], first["created"], first["model"])
        assert chunk.get("usage") is None
        [told] = chunk["choices"]
        assert choice["finish_reason"] is None, "nothing may follow the finish_reason"
        choice["finish_reason"] = told["finish_reason"]
        delta = told["delta"]
        for name in ("content", "reasoning_content"):
            message[name] = message.get(name, "") + (delta.get(name) or "")
        message.setdefault("thinking_blocks", []).extend(delta.get("thinking_blocks") or [])
        for piece in delta.get("tool_calls") or []:
            _add_call(piece, message["tool_calls"])
    return first | {"object": "chat.completion", "choices": [choice], "usage": usage}


def _add_call(piece: Json, calls: list[Json]) -> None:
    if piece["index"] == len(calls):
        calls.append(piece | {"function": dict(piece["function"])})
    else:
        assert not piece.get("id"), "the id comes once"
        calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]


ACCUMULATE: Final[dict[Vendor, Callable[[Sequence[Json]], Json]]] = {
    "anthropic": _accumulated_message,
    "openai": _accumulated_completion,
}
_TEXT: Final[dict[Vendor, Callable[[Sequence[Json]], str]]] = {
    "anthropic": lambda events: "".join(
        event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta"
    ),
    "openai": lambda chunks: "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks),
}
