"""Whole answers taken apart into streams, by the documented rules and in pieces of any size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]


def pieces(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


# --- a message

AT_THE_END = ("output_tokens", "output_tokens_details", "server_tool_use", "iterations")
STOP = ("stop_reason", "stop_sequence", "stop_details", "container")


def streamed_message(message: Json, size: int) -> Iterator[Json]:
    usage = message["usage"]
    seed = {name: count for name, count in usage.items() if name not in AT_THE_END} | {"output_tokens": 1}
    unknown = {name: None for name in STOP if name in message}
    yield {"type": "message_start", "message": message | unknown | {"content": [], "usage": seed}}
    for index, block in enumerate(message["content"]):
        start, deltas = taken_apart(block, size)
        yield {"type": "content_block_start", "index": index, "content_block": start}
        yield {"type": "ping"}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    counts = {name: value for name, value in usage.items() if isinstance(value, int) or name in AT_THE_END}
    yield {"type": "message_delta", "delta": {name: message[name] for name in unknown}, "usage": counts}
    yield {"type": "message_stop"}


def taken_apart(block: Json, size: int) -> tuple[Json, list[Json]]:
    """How a block starts, and what is added to it."""
    match block["type"]:
        case "text":
            return block | {"text": ""}, [
                {"type": "text_delta", "text": piece} for piece in pieces(block["text"], size)
            ]
        case "thinking":
            added = [{"type": "thinking_delta", "thinking": piece} for piece in pieces(block["thinking"], size)]
            added.append({"type": "signature_delta", "signature": block["signature"]})
            return block | {"thinking": "", "signature": ""}, added
        case "tool_use" | "server_tool_use":
            written = ["", *pieces(json.dumps(block["input"]), size)]
            return block | {"input": {}}, [{"type": "input_json_delta", "partial_json": piece} for piece in written]
        case "compaction":
            return block | {"content": None}, [{"type": "compaction_delta", "content": block["content"]}]
    return block, []


# --- a completion


def streamed_completion(completion: Json, size: int) -> Iterator[Json | str]:
    head = {name: value for name, value in completion.items() if name not in ("choices", "usage")}
    head |= {"object": "chat.completion.chunk", "usage": None}
    for choice in completion["choices"]:
        message = choice["message"]
        beside = {"index": choice["index"], "logprobs": None, "finish_reason": None}
        for delta in deltas_of(message, size):
            yield {**head, "obfuscation": "xyz", "choices": [beside | {"delta": delta}]}
        yield {**head, "choices": [beside | {"delta": {}, "finish_reason": choice["finish_reason"]}]}
    yield {**head, "choices": [], "usage": completion["usage"]}
    yield "[DONE]"


def deltas_of(message: Json, size: int) -> Iterator[Json]:
    unsaid = {name: None if message[name] is None else "" for name in ("content", "refusal")}
    yield {"role": "assistant", **unsaid}
    for name in ("reasoning_content", "content"):
        for piece in pieces(message.get(name) or "", size):
            yield {name: piece}
    for index, call in enumerate(message.get("tool_calls", [])):
        yield {"tool_calls": [{"index": index, **call, "function": call["function"] | {"arguments": ""}}]}
        for piece in pieces(call["function"]["arguments"], size):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
    for piece in pieces(message["refusal"] or "", size):
        yield {"refusal": piece}
