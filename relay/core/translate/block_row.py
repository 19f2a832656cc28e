"""The content blocks of a Messages stream, in a row, from pieces that come in any order.

``stream_to_anthropic`` tells it what each chunk says; it answers with finished events.  It knows neither chunks nor how
a message begins and ends.

Messages have one block open at a time; a Chat Completion may add to several tool calls in turn.  So one block is live
and streams, and what belongs behind it waits.  Text and thinking give way at once, since there can be another block of
them later.  A call gives way when its arguments are a whole JSON object; until then the others wait, if need be for the
end of the answer.  A provider that finishes one call before the next, as OpenAI does, loses nothing by it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from relay.core.errors import UpstreamProtocolError
from relay.core.sse import MAX_EVENT_BYTES
from relay.core.translate.json_values import Splice, encoded, string

TEXT, THINKING, REDACTED, CALL = "text", "thinking", "redacted_thinking", "tool_use"

# What waits leaves in one event, and so may not be larger than one may be when it comes.
MAX_HELD = MAX_EVENT_BYTES
# OpenAI takes 128 tools; more calls than that are a provider that has lost the thread.
MAX_CALLS = 128

_STARTS: dict[str, dict[str, Any]] = {
    TEXT: {"type": TEXT, "text": ""},
    THINKING: {"type": THINKING, "thinking": "", "signature": ""},
    CALL: {"type": CALL, "id": "", "name": "", "input": {}},
}
# How a delta begins, up to its one string.
_DELTAS = {
    TEXT: b'{"type":"text_delta","text":',
    THINKING: b'{"type":"thinking_delta","thinking":',
    CALL: b'{"type":"input_json_delta","partial_json":',
}
_NOTHING = Splice(b"", b"")


@dataclass(eq=False, slots=True)
class _Block:
    kind: str
    start: dict[str, Any]
    pieces: list[str] = field(default_factory=list)  # what waits; of a call, all that came
    signature: str = ""  # closes a thinking block
    index: int | None = None  # once it has been live
    delta: Splice = _NOTHING

    @property
    def is_ready(self) -> bool:
        """A tool's name may come late, and nothing can be said before it."""
        return self.kind != CALL or bool(self.start["name"])

    @property
    def gives_way(self) -> bool:
        if self.kind != CALL:
            return True
        arguments = "".join(self.pieces)
        try:
            # Only an object: a number that looks whole may go on.
            return arguments.rstrip().endswith("}") and isinstance(orjson.loads(arguments), dict)
        except ValueError:
            return False


class BlockRow:
    """The blocks of one message.  Every method returns finished events, one each.

    Past a bound of this module, and where a call goes on that was whole, they raise ``UpstreamProtocolError``.
    """

    def __init__(self, message_id: str) -> None:
        self.calls = 0
        self._message_id = message_id  # for calls that have no id of their own
        self._live: _Block | None = None
        self._waiting: list[_Block] = []
        self._started = 0
        self._held = 0  # characters
        self._by_index: dict[int, _Block] = {}
        self._by_id: dict[str, _Block] = {}
        self._last_call: _Block | None = None

    def text(self, piece: str) -> list[bytes]:
        return self._add(TEXT, piece)

    def thinking(self, piece: str) -> list[bytes]:
        return self._add(THINKING, piece)

    def thought(self, block: dict[str, Any]) -> list[bytes]:
        """A whole block, as another relay gives it at its stop.  Its thinking came before, if any was to be shown."""
        if block.get("type") == REDACTED:
            return self._queue(_Block(REDACTED, block))
        signature = string(block.get("signature"))
        if not signature:
            return []
        live = self._live
        if live is not None and live.kind == THINKING and not live.signature:
            live.signature = signature
            return [_signature(live)]
        if waiting := self._last_waiting(THINKING):
            waiting.signature = signature
            return []
        thinking = string(block.get("thinking"))
        return self._queue(_Block(THINKING, _STARTS[THINKING], [thinking], signature))

    def call(self, index: object, call_id: str, name: str, arguments: str) -> list[bytes]:
        """A piece of a call.  ``index`` and ``call_id`` say of which; a sloppy server gives one of them, or none."""
        call = self._known_call(index, call_id, name) or self._new_call()
        if isinstance(index, int):
            self._by_index[index] = call
        if call_id:
            self._by_id[call_id] = call
        self._last_call = call
        # Said once: a server that repeats them means the same.
        call.start["id"] = call.start["id"] or call_id
        call.start["name"] = call.start["name"] or name
        piece = arguments if call.pieces else arguments.lstrip()
        if not piece:
            return self._advance()
        if call.index is not None and call is not self._live:
            raise UpstreamProtocolError("the provider went on with a tool call whose arguments were whole")
        self._hold(call, piece)
        return call.delta.around(piece) if call is self._live else self._advance()

    def end(self) -> list[bytes]:
        """Every block that is open or waiting, in order, to its stop."""
        return [*self._advance(final=True), *self._stop()]

    # -- which block ----------------------------------------------------------------------------------------------

    def _add(self, kind: str, piece: str) -> list[bytes]:
        if not piece:
            return []
        live = self._live
        if live is not None and live.kind == kind and not live.signature:
            return live.delta.around(piece)
        block = self._last_waiting(kind)
        if block is None:
            block = _Block(kind, _STARTS[kind])
            self._waiting.append(block)
        self._hold(block, piece)
        return self._advance()

    def _last_waiting(self, kind: str) -> _Block | None:
        """The block that more of this kind belongs to, if not to the live one."""
        last = self._waiting[-1] if self._waiting else None
        return last if last is not None and last.kind == kind and not last.signature else None

    def _known_call(self, index: object, call_id: str, name: str) -> _Block | None:
        if not isinstance(index, int):
            return self._by_id.get(call_id) if call_id else self._last_call
        call = self._by_index.get(index)
        # Some servers give every call the index 0; its own id and name tell it from the one before.
        if call is not None and call_id and name and call.start["id"] not in ("", call_id):
            return None
        return call

    def _new_call(self) -> _Block:
        if self.calls == MAX_CALLS:
            raise UpstreamProtocolError(f"the provider made more than {MAX_CALLS} tool calls in one answer")
        call = _Block(CALL, dict(_STARTS[CALL]))
        self.calls += 1
        self._waiting.append(call)
        return call

    def _hold(self, block: _Block, piece: str) -> None:
        self._held += len(piece)
        if self._held > MAX_HELD:
            raise UpstreamProtocolError(f"the provider's tool calls hold back more than {MAX_HELD} characters")
        block.pieces.append(piece)

    # -- the row --------------------------------------------------------------------------------------------------

    def _queue(self, block: _Block) -> list[bytes]:
        self._waiting.append(block)
        return self._advance()

    def _advance(self, *, final: bool = False) -> list[bytes]:
        """Let the next ones in as far as those before them give way."""
        events: list[bytes] = []
        while self._waiting and (final or self._next_may_start()):
            events += [*self._stop(), *self._start(self._waiting.pop(0))]
        return events

    def _next_may_start(self) -> bool:
        return self._waiting[0].is_ready and (self._live is None or self._live.gives_way)

    def _start(self, block: _Block) -> list[bytes]:
        index = block.index = self._started
        self._started += 1
        self._live = block
        if block.kind == CALL:
            block.start["id"] = block.start["id"] or f"{self._message_id}_{index}"
        if block.kind in _DELTAS:
            head = b'{"type":"content_block_delta","index":%d,"delta":' % index + _DELTAS[block.kind]
            block.delta = Splice(b"event: content_block_delta\ndata: " + head, b"}}\n\n")
        events = [named_event("content_block_start", index=index, content_block=block.start)]
        events += block.delta.around("".join(block.pieces))
        if block.signature:
            events.append(_signature(block))
        return events

    def _stop(self) -> list[bytes]:
        if self._live is None:
            return []
        index, self._live = self._live.index, None
        return [named_event("content_block_stop", index=index)]


def named_event(kind: str, **members: Any) -> bytes:
    """An event of the Messages API."""
    return b"event: " + kind.encode() + b"\ndata: " + encoded({"type": kind, **members}) + b"\n\n"


def _signature(block: _Block) -> bytes:
    delta = {"type": "signature_delta", "signature": block.signature}
    return named_event("content_block_delta", index=block.index, delta=delta)
