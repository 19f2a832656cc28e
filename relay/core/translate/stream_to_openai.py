"""A Messages stream as a stream of Chat Completion chunks, event by event.

The worker feeds it every event that its meter has seen, where the client speaks OpenAI's dialect and the provider
Anthropic's.  What the meter knows (names, usage, errors, the outcome) it asks the meter.  It is as fast as a stream
needs: whatever is the same in every chunk is written once, and a piece of text is spliced into it.

It shows nothing of server tools, citations and pings.  Sloppy servers: blocks may interleave, a block's stop may be
missing (the end of the message does as well), and what they put into its start, where others start empty, is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relay.core.errors import RelayError, UpstreamProtocolError, UpstreamTruncated, event_of
from relay.core.meter import Meter, member, object_in
from relay.core.sse import MAX_EVENT_BYTES, Event
from relay.core.translate.answer_to_openai import explanation, finish_reason
from relay.core.translate.errors_between import error_event
from relay.core.translate.json_values import Splice, encoded, string
from relay.core.translate.usage_shapes import in_openai_shape

_DONE = b"data: [DONE]\n\n"
# The rule is one block at a time.
_MAX_OPEN_BLOCKS = 64
# A thinking block leaves whole in one event, and so may not be larger than one may be when it comes.
_MAX_THOUGHT = MAX_EVENT_BYTES


class StreamToOpenAI:
    """One stream.  ``ended``: its last event is out.  ``error``: why, if that was our own complaint and no provider's.

    ``created`` is Unix time, the same on every chunk; ``answer_id`` and ``model`` are for a provider that names none.
    """

    def __init__(
        self, meter: Meter, *, created: int, include_usage: bool = False, answer_id: str = "", model: str = ""
    ) -> None:
        self.ended = False
        self.error: RelayError | None = None
        self._meter = meter
        self._include_usage = include_usage
        self._names: dict[str, Any] = {"id": answer_id, "object": "chat.completion.chunk"}
        self._names |= {"created": created, "model": model}
        self._head = b""  # of every chunk, up to its delta; empty while the stream is not open
        self._end = (b',"usage":null' if include_usage else b"") + b"}\n\n"
        self._tail = b',"finish_reason":null}]' + self._end  # of every chunk but the last
        self._text = self._reasoning = Splice(b"", b"")
        self._blocks: dict[int, _Call | _Thought] = {}  # the open ones that have a say when they stop
        self._calls = 0
        self._thoughts = 0
        self._finished = False

    def feed(self, event: Event) -> list[bytes]:
        """The finished events for one that the meter has just seen."""
        if self.ended:
            return []
        payload = object_in(event.data)
        try:
            if payload.get("type") == "content_block_delta":
                if self._head:
                    return self._delta(payload)
                return [*self._open(), *self._delta(payload)]
            return self._other(payload) if self._meter.error is None else self._pass_on(payload)
        except UpstreamProtocolError as error:
            return self._fail(error)

    def close(self) -> list[bytes]:
        """The body has ended: the error that tells so, if the stream had not."""
        if self.ended:
            return []
        if error := self._meter.error:  # the body's tail, which was no event
            return self._pass_on({"error": error})
        return self._fail(UpstreamTruncated("the provider's stream ended in the middle"))

    # -- Anthropic's events ---------------------------------------------------------------------------------------

    def _delta(self, payload: Mapping[str, Any]) -> list[bytes]:
        delta = payload.get("delta")
        if self._finished or not isinstance(delta, dict):
            return []
        match delta.get("type"):
            case "text_delta":
                return self._text.around(delta.get("text"))
            case "thinking_delta":
                piece = string(delta.get("thinking"))
                if isinstance(thought := self._blocks.get(_index(payload)), _Thought):
                    thought.add(piece)
                return self._reasoning.around(piece)
            case "signature_delta":
                if isinstance(thought := self._blocks.get(_index(payload)), _Thought):
                    thought.sign(string(delta.get("signature")))
            case "input_json_delta":
                if isinstance(call := self._blocks.get(_index(payload)), _Call):
                    return call.add(string(delta.get("partial_json")))
        return []

    def _other(self, payload: Mapping[str, Any]) -> list[bytes]:
        match payload.get("type"):
            case "message_start":
                return self._open()
            case "content_block_start" if not self._finished:
                index = _index(payload)
                return [*self._open(), *self._stop(index), *self._start(index, member(payload, "content_block"))]
            case "content_block_stop":
                return self._stop(_index(payload))
            case "message_delta":
                delta = member(payload, "delta")
                return self._finish(explanation(delta)) if delta.get("stop_reason") else []
            case "message_stop":
                self.ended = True
                return [*self._finish(None), *self._usage(), _DONE]
        return []

    def _open(self) -> list[bytes]:
        """The first chunk, if it has not come."""
        if self._head:
            return []
        names = self._names
        names |= {"id": self._meter.message_id or names["id"], "model": self._meter.model or names["model"]}
        self._head = b"data: " + encoded(names)[:-1] + b',"choices":[{"index":0,"delta":'
        self._text = self._splice(b'{"content":', b"}")
        self._reasoning = self._splice(b'{"reasoning_content":', b"}")
        return [self._chunk({"role": "assistant", "content": ""})]

    def _start(self, index: int, block: Mapping[str, Any]) -> list[bytes]:
        if len(self._blocks) == _MAX_OPEN_BLOCKS:
            raise UpstreamProtocolError(f"the provider opened more than {_MAX_OPEN_BLOCKS} content blocks at once")
        match block.get("type"):
            case "text":
                return self._text.around(block.get("text"))
            case "thinking" | "redacted_thinking":
                self._blocks[index] = _Thought(self._thoughts, block)
                self._thoughts += 1
                return self._reasoning.around(block.get("thinking"))
            case "tool_use":
                at = self._calls
                arguments = self._splice(b'{"tool_calls":[{"index":%d,"function":{"arguments":' % at, b"}}]}")
                self._blocks[index] = _Call(arguments, member(block, "input"))
                self._calls += 1
                function = {"name": string(block.get("name")), "arguments": ""}
                call = {"index": at, "id": string(block.get("id")), "type": "function", "function": function}
                return [self._chunk({"tool_calls": [call]})]
        return []

    def _stop(self, index: int) -> list[bytes]:
        match self._blocks.pop(index, None):
            case _Call() as call:
                return call.rest()
            case _Thought() as thought:
                return [self._chunk({"thinking_blocks": [thought.whole()]})]
        return []

    def _finish(self, refusal: str | None) -> list[bytes]:
        """The chunk with the finish_reason, if it has not come; blocks whose stop is missing stop before it."""
        if self._finished:
            return []
        self._finished = True
        chunks = [*self._open(), *[chunk for index in list(self._blocks) for chunk in self._stop(index)]]
        reason = finish_reason(self._meter.stop_reason)
        delta = encoded({"refusal": refusal} if refusal and reason == "content_filter" else {})
        return [*chunks, self._head + delta + b',"finish_reason":' + encoded(reason) + b"}]" + self._end]

    def _usage(self) -> list[bytes]:
        """The chunk for who asked; none where the provider reported nothing, which is not zero."""
        usage = self._meter.usage
        if not self._include_usage or usage is None:
            return []
        return [b"data: " + encoded(self._names | {"choices": [], "usage": in_openai_shape(usage)}) + b"\n\n"]

    def _pass_on(self, error: Mapping[str, Any]) -> list[bytes]:
        self.ended = True
        return [error_event("openai", error)]

    def _fail(self, error: RelayError) -> list[bytes]:
        self.ended, self.error = True, error
        return [event_of(error, "openai")]

    # -- OpenAI's chunks ------------------------------------------------------------------------------------------

    def _chunk(self, delta: Mapping[str, Any]) -> bytes:
        return self._head + encoded(delta) + self._tail

    def _splice(self, before: bytes, after: bytes) -> Splice:
        """A chunk with ``before`` and ``after`` for its delta, and room for a string between them."""
        return Splice(self._head + before, after + self._tail)


class _Call:
    """An open block of a client's tool."""

    def __init__(self, arguments: Splice, whole: Mapping[str, Any]) -> None:
        self._arguments = arguments
        self._whole = whole  # the arguments of a server that puts them into the start
        self._silent = True

    def add(self, piece: str) -> list[bytes]:
        self._silent = self._silent and not piece
        return self._arguments.around(piece)

    def rest(self) -> list[bytes]:
        """Nobody parses an empty string: a call without pieces still needs its arguments."""
        return self._arguments.around(encoded(self._whole).decode()) if self._silent else []


class _Thought:
    """An open block of thinking, gathered because the next turn must hand it back whole, with its signature."""

    def __init__(self, at: int, block: Mapping[str, Any]) -> None:
        self._block = {**block, "index": at}
        self._pieces = [string(block.get("thinking"))]
        self._size = 0

    def add(self, piece: str) -> None:
        if not piece:  # as all are where the thinking is omitted
            return
        self._size += len(piece)
        if self._size > _MAX_THOUGHT:
            raise UpstreamProtocolError(f"the provider sent a thinking block of more than {_MAX_THOUGHT} characters")
        self._pieces.append(piece)

    def sign(self, signature: str) -> None:
        self._block["signature"] = signature

    def whole(self) -> dict[str, Any]:
        if self._block.get("type") == "redacted_thinking":
            return self._block
        return {**self._block, "thinking": "".join(self._pieces)}


def _index(payload: Mapping[str, Any]) -> int:
    """One number for all blocks of a server that leaves it out: it can only mean one at a time."""
    index = payload.get("index")
    return index if isinstance(index, int) else -1
