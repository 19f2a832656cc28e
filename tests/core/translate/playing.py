"""Streams through a decoder, a meter and a translator, as a worker does it; and what a client makes of the result.

The two readers are stricter than any SDK: they assert the grammar of their dialect at every event.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from relay.core.anthropic import AnthropicMeter
from relay.core.meter import Meter
from relay.core.openai import OpenAIMeter
from relay.core.sse import Decoder
from relay.core.translate.stream_to_anthropic import StreamToAnthropic
from relay.core.translate.stream_to_openai import StreamToOpenAI
from tests.support.sse import parse

CREATED = 1790000000
CHUNK_SIZES = [1, 2, 3, 7, 64, 1024, 10**9]

_NAMED = re.compile(rb"event: (\w+)\ndata: [^\r\n]+\n\n")
_PLAIN = re.compile(rb"data: [^\r\n]+\n\n")
_EVENTS = {"message_start", "content_block_start", "content_block_delta", "content_block_stop"}
_EVENTS |= {"message_delta", "message_stop", "error"}


class Played(NamedTuple):
    """What came out of a translator, and the two who know how it went."""

    events: list[bytes]
    meter: Meter
    translator: StreamToOpenAI | StreamToAnthropic

    @property
    def body(self) -> bytes:
        return b"".join(self.events)

    @property
    def data(self) -> list[Any]:
        """The payloads, ``[DONE]`` as it is."""
        return [data if data == "[DONE]" else json.loads(data) for _, data in parse(self.body)]


def to_openai(body: bytes, chunk_size: int = 10**9, **settings: Any) -> Played:
    meter = AnthropicMeter()
    return play(body, meter, StreamToOpenAI(meter, created=CREATED, **settings), _PLAIN, chunk_size)


def to_anthropic(body: bytes, chunk_size: int = 10**9, **settings: Any) -> Played:
    meter = OpenAIMeter()
    played = play(body, meter, StreamToAnthropic(meter, **settings), _NAMED, chunk_size)
    assert all(name == json.loads(data)["type"] and name in _EVENTS for name, data in parse(played.body))
    return played


def play(
    body: bytes,
    meter: Meter,
    translator: StreamToOpenAI | StreamToAnthropic,
    form: re.Pattern[bytes],
    chunk_size: int,
) -> Played:
    decoder, out = Decoder(), []
    for at in range(0, len(body), chunk_size):
        for event in decoder.feed(body[at : at + chunk_size]):
            meter.see(event)
            out += translator.feed(event)
    for event in decoder.flush():
        meter.see(event)
        out += translator.feed(event)
    out += translator.close()
    for finished in out:
        assert form.fullmatch(finished), finished
    assert translator.ended
    return Played(out, meter, translator)


# --- writing streams


def sse(*payloads: Any) -> bytes:
    """Payloads as events without a name; a string as it is."""
    lines = [each if isinstance(each, str) else json.dumps(each) for each in payloads]
    return "".join(f"data: {line}\n\n" for line in lines).encode()


def chunk(delta: dict[str, Any], finish: str | None = None, **members: Any) -> dict[str, Any]:
    """A Chat Completion chunk."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "cc_1", "object": "chat.completion.chunk", "model": "g", "choices": [choice], **members}


def call_piece(arguments: str | None = None, *, index: int | None = 0, **members: Any) -> dict[str, Any]:
    """A delta with a piece of one tool call; ``id`` and ``name`` by keyword."""
    function = {"name": members.pop("name")} if "name" in members else {}
    if arguments is not None:
        function["arguments"] = arguments
    entry = members | ({} if index is None else {"index": index}) | {"function": function}
    return {"tool_calls": [entry]}


USAGE = {"input_tokens": 9, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2, "output_tokens": 1}


def message_start(**members: Any) -> dict[str, Any]:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "c", "content": [], "usage": USAGE}
    return {"type": "message_start", "message": message | members}


def block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of one content block."""
    return [
        {"type": "content_block_start", "index": index, "content_block": start},
        *[{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas],
        {"type": "content_block_stop", "index": index},
    ]


def message_end(reason: str = "end_turn", **delta: Any) -> list[dict[str, Any]]:
    usage = {"output_tokens": 5}
    return [
        {"type": "message_delta", "delta": {"stop_reason": reason, **delta}, "usage": usage},
        {"type": "message_stop"},
    ]


# --- reading them


class Read(NamedTuple):
    """What a client knows after a stream."""

    text: str
    reasoning: str
    calls: list[tuple[str, str, str]]  # id, name, arguments
    reason: str | None
    usage: dict[str, Any] | None
    error: dict[str, Any] | None
    thoughts: list[dict[str, Any]]
    refusal: str | None


def read_chunks(payloads: Iterable[Any]) -> Read:
    """A reader of Chat Completion chunks."""
    text = reasoning = refusal = ""
    calls: list[list[str]] = []
    thoughts: list[dict[str, Any]] = []
    reason = usage = error = None
    left = list(payloads)
    while left:
        payload = left.pop(0)
        if payload == "[DONE]":
            assert not left and error is None and reason is not None
            break
        if "error" in payload:
            assert not left
            error = payload["error"]
            break
        assert payload["object"] == "chat.completion.chunk" and payload["created"] == CREATED
        usage = payload.get("usage") or usage
        for choice in payload["choices"]:
            assert reason is None, "a chunk after the finish_reason"
            delta = choice["delta"]
            text += delta.get("content") or ""
            reasoning += delta.get("reasoning_content") or ""
            refusal += delta.get("refusal") or ""
            for entry in delta.get("tool_calls", []):
                if entry["index"] == len(calls):
                    calls.append([entry["id"], entry["function"]["name"], ""])
                calls[entry["index"]][2] += entry["function"]["arguments"]
            for entry in delta.get("thinking_blocks", []):
                assert entry["index"] == len(thoughts)
                thoughts.append({name: value for name, value in entry.items() if name != "index"})
            reason = choice["finish_reason"]
    else:
        raise AssertionError("the stream just stopped")
    return Read(text, reasoning, [(a, b, c) for a, b, c in calls], reason, usage, error, thoughts, refusal or None)


_ADDS: dict[str, Callable[[dict[str, Any], dict[str, Any]], None]] = {
    "text_delta": lambda block, delta: block.update(text=block["text"] + delta["text"]),
    "thinking_delta": lambda block, delta: block.update(thinking=block["thinking"] + delta["thinking"]),
    "signature_delta": lambda block, delta: block.update(signature=delta["signature"]),
    "input_json_delta": lambda block, delta: block.update(json=block.get("json", "") + delta["partial_json"]),
}


def read_message(payloads: Iterable[Any]) -> dict[str, Any]:
    """A reader of Messages events: the whole message, a call's arguments as ``json``, an error as ``error``.

    What it does not know it passes over, so that it can read recorded streams too.
    """
    left = [payload for payload in payloads if payload.get("type") in _EVENTS]
    first = left.pop(0)
    if first["type"] == "error":
        assert not left
        return {"error": first["error"]}
    assert first["type"] == "message_start"
    message: dict[str, Any] = {"stop_reason": None, **first["message"]}
    assert message["content"] == [] and message["stop_reason"] is None
    message["content"] = []
    is_open = False
    while left:
        event = left.pop(0)
        match event["type"]:
            case "content_block_start":
                assert not is_open and event["index"] == len(message["content"])
                message["content"].append(dict(event["content_block"]))
                is_open = True
            case "content_block_delta":
                assert is_open and event["index"] == len(message["content"]) - 1
                if add := _ADDS.get(event["delta"]["type"]):
                    add(message["content"][-1], event["delta"])
            case "content_block_stop":
                assert is_open and event["index"] == len(message["content"]) - 1
                is_open = False
            case "message_delta":
                assert not is_open and message["stop_reason"] is None
                message |= event["delta"]
                message["usage"] = message.get("usage", {}) | event.get("usage", {})
            case "message_stop":
                assert not left and message["stop_reason"]
                return message
            case "error":
                assert not left
                return message | {"error": event["error"]}
    raise AssertionError("the stream just stopped")
