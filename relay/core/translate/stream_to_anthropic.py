"""A stream of Chat Completion chunks as a Messages stream, event by event.

The worker feeds it every event that its meter has seen, where the client speaks Anthropic's dialect and the provider
OpenAI's.  What the meter knows (names, usage, errors, the outcome) it asks the meter; the order of the blocks is
``block_row``'s work, and what each thing said becomes is laid down in ``answer_to_anthropic``.

``message_delta`` and ``message_stop`` come at ``[DONE]`` or at the end of the body: the usage may follow the
finish_reason.  A refusal shows there too, and nothing of it before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relay.core.errors import RelayError, UpstreamProtocolError, UpstreamTruncated, event_of
from relay.core.meter import Meter, member, object_in
from relay.core.sse import Event
from relay.core.translate.answer_to_anthropic import (
    arguments_in,
    first_choice,
    opening,
    reasoning_in,
    stop,
    texts_in,
    thinking_blocks_in,
)
from relay.core.translate.block_row import BlockRow, named_event
from relay.core.translate.errors_between import error_event
from relay.core.translate.json_values import objects, string
from relay.core.translate.usage_shapes import in_anthropic_shape

# The record keeps as much of an error's text; no refusal is an essay.
_MAX_REFUSAL = 4096


class StreamToAnthropic:
    """One stream.  ``ended``: its last event is out.  ``error``: why, if that was our own complaint and no provider's.

    ``answer_id`` and ``model`` are for a provider that names none.
    """

    def __init__(self, meter: Meter, *, answer_id: str = "", model: str = "") -> None:
        self.ended = False
        self.error: RelayError | None = None
        self._meter = meter
        self._answer_id = answer_id
        self._model = model
        self._row: BlockRow | None = None  # once message_start is out
        self._refusal = ""

    def feed(self, event: Event) -> list[bytes]:
        """The finished events for one that the meter has just seen."""
        if self.ended:
            return []
        if event.data.startswith(b"[DONE]"):
            return self._end()
        chunk = object_in(event.data)
        if self._meter.error is not None:
            return self._pass_on(chunk)
        choice = first_choice(chunk)
        if choice is None:
            return []
        delta = member(choice, "delta") or member(choice, "message")
        try:
            if self._row is None:
                row = self._row = BlockRow(self._id)
                return [self._start(), *self._say(row, delta)]
            return self._say(self._row, delta)
        except UpstreamProtocolError as error:
            return self._fail(error)

    def close(self) -> list[bytes]:
        """The body has ended: the end of the message if no ``[DONE]`` came, or the error that tells so."""
        if self.ended:
            return []
        if error := self._meter.error:  # the body's tail, which was no event
            return self._pass_on({"error": error})
        return self._end()

    def _say(self, row: BlockRow, delta: Mapping[str, Any]) -> list[bytes]:
        content = delta.get("content")
        if isinstance(content, str) and _is_text_alone(delta):
            return row.text(content)
        events = row.thinking(reasoning_in(delta))
        for thought in thinking_blocks_in(delta):
            events += row.thought(thought)
        for piece in texts_in(content):
            events += row.text(piece)
        for call in objects(delta.get("tool_calls")):
            function = member(call, "function")
            name, arguments = string(function.get("name")), arguments_in(function)
            events += row.call(call.get("index"), string(call.get("id")), name, arguments)
        self._refusal = (self._refusal + string(delta.get("refusal")))[:_MAX_REFUSAL]
        return events

    @property
    def _id(self) -> str:
        return self._meter.message_id or self._answer_id

    def _start(self) -> bytes:
        message = opening(self._id, self._meter.model or self._model)
        # Usage is told here only by servers that repeat it on every chunk.
        return named_event("message_start", message=message | {"usage": in_anthropic_shape(self._meter.usage)})

    def _end(self) -> list[bytes]:
        meter = self._meter
        if meter.outcome != "completed" or self._row is None:
            return self._fail(UpstreamTruncated("the provider's stream ended in the middle"))
        self.ended = True
        delta = stop(meter.stop_reason, self._refusal, calls=self._row.calls > 0)
        # The split of the writes has no place in an official delta; it is only known here, and nobody stumbles on it.
        usage = in_anthropic_shape(meter.usage)
        usage.pop("service_tier", None)
        return [
            *self._row.end(),
            named_event("message_delta", delta=delta | {"container": None}, usage=usage),
            named_event("message_stop"),
        ]

    def _pass_on(self, error: Mapping[str, Any]) -> list[bytes]:
        self.ended = True
        return [error_event("anthropic", error)]

    def _fail(self, error: RelayError) -> list[bytes]:
        self.ended, self.error = True, error
        return [event_of(error, "anthropic")]


def _is_text_alone(delta: Mapping[str, Any]) -> bool:
    """As most are, of some servers beside empty members."""
    return len(delta) == 1 or not any(value and name not in ("content", "role") for name, value in delta.items())
