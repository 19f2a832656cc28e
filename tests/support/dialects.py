"""The events a well-behaved provider sends, in each dialect, for the doubles to send and to spoil.

Each text event says ``<call>.<i> ``; the token counts are ``counts(n)`` for n text events.
"""

from __future__ import annotations

import json
from typing import Any, Protocol


class Dialect(Protocol):
    def opening(self, call: str) -> list[bytes]: ...
    def text(self, call: str, i: int) -> bytes: ...
    def ping(self) -> bytes: ...
    def closing(self) -> list[bytes]: ...
    def counts(self, texts: int) -> dict[str, Any]: ...
    def usage(self, call: str, counts: dict[str, Any]) -> bytes: ...
    def stop(self) -> bytes: ...
    def error_event(self) -> bytes: ...
    def error(self, kind: str, message: str) -> bytes: ...
    def message(self, call: str, texts: int) -> bytes: ...


def words(call: str, texts: int) -> str:
    return "".join(f"{call}.{i} " for i in range(1, texts + 1))


class Anthropic:
    """Messages: 11 fresh, 7 written, 5 read tokens in; one token out per text event."""

    INPUT = {"input_tokens": 11, "cache_creation_input_tokens": 7, "cache_read_input_tokens": 5}  # noqa: RUF012

    def opening(self, call: str) -> list[bytes]:
        message = self._message(call, [], None, {**self.INPUT, "output_tokens": 1})
        block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        return [_named({"type": "message_start", "message": message}), _named(block)]

    def text(self, call: str, i: int) -> bytes:
        delta = {"type": "text_delta", "text": f"{call}.{i} "}
        return _named({"type": "content_block_delta", "index": 0, "delta": delta})

    def ping(self) -> bytes:
        return _named({"type": "ping"})

    def closing(self) -> list[bytes]:
        return [_named({"type": "content_block_stop", "index": 0})]

    def counts(self, texts: int) -> dict[str, Any]:
        return {"output_tokens": texts}

    def usage(self, call: str, counts: dict[str, Any]) -> bytes:
        delta = {"stop_reason": "end_turn", "stop_sequence": None}
        return _named({"type": "message_delta", "delta": delta, "usage": counts})

    def stop(self) -> bytes:
        return _named({"type": "message_stop"})

    def error_event(self) -> bytes:
        return _named(self._error("overloaded_error", "Overloaded"))

    def error(self, kind: str, message: str) -> bytes:
        return json.dumps(self._error(kind, message)).encode()

    def message(self, call: str, texts: int) -> bytes:
        usage = {**self.INPUT, **self.counts(texts)}
        return json.dumps(
            self._message(call, [{"type": "text", "text": words(call, texts)}], "end_turn", usage)
        ).encode()

    def _error(self, kind: str, message: str) -> dict[str, Any]:
        return {"type": "error", "error": {"type": kind, "message": message}}

    def _message(self, call: str, content: list[Any], stop: str | None, usage: dict[str, Any]) -> dict[str, Any]:
        head = {"id": f"msg_{call}", "type": "message", "role": "assistant", "model": "x", "content": content}
        return {**head, "stop_reason": stop, "stop_sequence": None, "usage": usage}


class OpenAI:
    """Chat Completions: 23 tokens in, 5 of them cached; one token out per text event."""

    def opening(self, call: str) -> list[bytes]:
        return []

    def text(self, call: str, i: int) -> bytes:
        return self._chunk(call, {"content": f"{call}.{i} "})

    def ping(self) -> bytes:
        return b": keep-alive\n\n"

    def closing(self) -> list[bytes]:
        return [self._chunk("", {}, finish="stop")]

    def counts(self, texts: int) -> dict[str, Any]:
        cached = {"prompt_tokens_details": {"cached_tokens": 5}}
        return {"prompt_tokens": 23, "completion_tokens": texts, "total_tokens": 23 + texts, **cached}

    def usage(self, call: str, counts: dict[str, Any]) -> bytes:
        return _plain({"id": f"cc_{call}", "object": "chat.completion.chunk", "choices": [], "usage": counts})

    def stop(self) -> bytes:
        return b"data: [DONE]\n\n"

    def error_event(self) -> bytes:
        return _plain({"error": {"message": "Overloaded", "type": "server_error", "code": 503}})

    def error(self, kind: str, message: str) -> bytes:
        return json.dumps({"error": {"type": kind, "message": message}}).encode()

    def message(self, call: str, texts: int) -> bytes:
        message = {"role": "assistant", "content": words(call, texts)}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        head = {"id": f"cc_{call}", "object": "chat.completion", "created": 1, "model": "x"}
        return json.dumps({**head, "choices": choices, "usage": self.counts(texts)}).encode()

    def _chunk(self, call: str, delta: dict[str, Any], finish: str | None = None) -> bytes:
        choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
        return _plain({"id": f"cc_{call}", "object": "chat.completion.chunk", "choices": choices})


def of_path(path: str) -> Dialect:
    return Anthropic() if "messages" in path else OpenAI()


def _named(payload: dict[str, Any]) -> bytes:
    return f"event: {payload['type']}\n".encode() + _plain(payload)


def _plain(payload: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"
