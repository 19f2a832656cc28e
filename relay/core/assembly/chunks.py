"""The chunks of a Chat Completion stream, added up: as the completion that would have come unstreamed, and as chunks.

``assembly`` feeds it.  Events that are no chunks it keeps as they are: errors, ``[DONE]``, all of the Responses API.
Of padding nothing is kept.

Members that it does not know: in a delta strings are appended, lists and objects grow; elsewhere the latest counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from relay.core.assembly.growing import Entries, grow, written
from relay.core.errors import UpstreamProtocolError
from relay.core.meter import error_in, member, object_in
from relay.core.openai import MAX_CHOICES
from relay.core.sse import Event
from relay.core.translate.json_values import objects

# The first to say something; gateways open with a chunk in which they are empty.
_FIRST = ("id", "created", "model")
# Of the chunk alone, or kept elsewhere.
_APART = ("object", "choices", "usage", "obfuscation")
# An event without any of them is no chunk.
_OF_CHUNKS = ("choices", "usage")
# Lists whose entries have an index in streams, and none in a whole answer.
_NUMBERED = ("tool_calls", "thinking_blocks")


class Chunks:
    """The chunks of one answer, up to ``[DONE]`` or an error."""

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}  # what chunks say beside their choices
        self._choices: dict[int, dict[str, Any]] = {}  # by index
        self._usage: dict[str, Any] = {}
        self._tells_usage = False
        self._begun = False
        self._ended = False
        self._others: list[bytes] = []

    def see(self, event: Event) -> None:
        is_done = event.data.startswith(b"[DONE]")
        payload = {} if is_done else object_in(event.data)
        # An error beside choices stays whole, too: SDKs raise it before they show them.
        ends = is_done or event.name == b"error" or error_in(payload) is not None
        if ends or payload.keys().isdisjoint(_OF_CHUNKS):
            self._ended = self._ended or ends
            self._others.append(event.raw)
        elif not self._ended:
            self._add(payload)

    def answer(self) -> dict[str, Any] | None:
        """The completion; a usage that was told in a choice alone belongs to the whole."""
        if not self._begun:
            return None
        choices = [self._choices[index] for index in sorted(self._choices)]
        told = [self._usage, *(member(choice, "usage") for choice in choices)]
        usage = next(filter(None, told), None)
        completion = {**self._named("chat.completion"), "choices": [_whole(choice) for choice in choices]}
        return completion | ({"usage": usage} if usage else {})

    def condensed(self) -> list[bytes]:
        """A chunk for each choice, one for the usage, and what else there was."""
        head = self._named("chat.completion.chunk")
        unknown = {"usage": None} if self._tells_usage else {}
        chunks = [{**head, "choices": [self._choices[index]], **unknown} for index in sorted(self._choices)]
        if self._usage:
            chunks.append({**head, "choices": [], "usage": self._usage})
        elif self._begun and not chunks:
            chunks.append({**head, "choices": [], **unknown})
        return [*map(_event, chunks), *self._others]

    def _named(self, kind: str) -> dict[str, Any]:
        return {"id": None, "object": kind, **self._head}

    def _add(self, chunk: Mapping[str, Any]) -> None:
        self._begun = True
        for name, value in chunk.items():
            if name not in _APART and not (name in _FIRST and self._head.get(name)):
                _note(self._head, name, value)
        for choice in objects(chunk.get("choices")):
            self._add_choice(choice)
        self._tells_usage = self._tells_usage or "usage" in chunk
        self._usage = member(chunk, "usage") or self._usage

    def _add_choice(self, said: Mapping[str, Any]) -> None:
        index = said.get("index")
        index = index if isinstance(index, int) else 0
        if index not in self._choices and len(self._choices) == MAX_CHOICES:
            raise UpstreamProtocolError(f"the provider answered with more than {MAX_CHOICES} choices")
        choice = self._choices.setdefault(index, {"index": index, "delta": {}, "finish_reason": None})
        # Some servers send a whole message as their only chunk.
        grow(choice["delta"], member(said, "delta") or member(said, "message"))
        for name, value in said.items():
            if name == "logprobs" and isinstance(value, dict):
                choice[name] = choice[name] if isinstance(choice.get(name), dict) else {}
                grow(choice[name], value)
            elif name not in ("index", "delta", "message"):
                _note(choice, name, value)


def _note(known: dict[str, Any], name: str, value: Any) -> None:
    if value is not None or name not in known:
        known[name] = value


def _whole(choice: Mapping[str, Any]) -> dict[str, Any]:
    delta = choice["delta"]
    message = {"role": "assistant", "content": None, **delta}
    for name in _NUMBERED:
        if isinstance(entries := delta.get(name), Entries):
            message[name] = _unnumbered(entries)
    refused = delta.get("refusal") or choice["finish_reason"] == "content_filter"
    if not message["content"] and (refused or delta.get("tool_calls")):
        # Streams open with an empty text before they know; a whole answer has none beside calls or a refusal.
        message["content"] = None
    beside = {name: value for name, value in choice.items() if name not in ("index", "delta", "usage")}
    return {"index": choice["index"], "message": message, **beside}


def _unnumbered(entries: Iterable[Any]) -> list[Any]:
    """In the order of their indexes, those without one last."""
    found = [entry for entry in entries if isinstance(entry, dict)]
    found.sort(key=lambda entry: index if isinstance(index := entry.get("index"), int) else len(found))
    return [{name: value for name, value in entry.items() if name != "index"} for entry in found]


def _event(payload: Mapping[str, Any]) -> bytes:
    return b"data: " + written(payload) + b"\n\n"
