"""The events of a Messages stream, kept short: pieces that follow each other in a block are joined, the rest stays.

``assembly`` feeds it.  Pings are dropped.  What it does not know it keeps byte for byte, in its place, and so the
events that are left say exactly what all of them said.  What they add up to is ``message``'s work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relay.core.assembly.message import PIECES, index_of, message
from relay.core.meter import object_in
from relay.core.sse import Event
from relay.core.translate.block_row import named_event
from relay.core.translate.json_values import string

_OF_A_BLOCK = ("content_block_start", "content_block_delta", "content_block_stop")


class MessageEvents:
    """The events of one answer, up to the one that ends it."""

    def __init__(self) -> None:
        self._kept: list[Event | _Run] = []
        self._runs: dict[int, _Run] = {}  # by block: the one that its next piece may join
        self._ended = False

    def see(self, event: Event) -> None:
        payload = object_in(event.data)
        kind = payload.get("type")
        if self._ended or kind == "ping" or (kind == "content_block_delta" and self._join(payload)):
            return
        if kind in _OF_A_BLOCK:
            self._runs.pop(index_of(payload), None)
        self._kept.append(event)
        self._ended = kind in ("message_stop", "error")

    def answer(self) -> dict[str, Any] | None:
        payloads = [kept.payload if isinstance(kept, _Run) else object_in(kept.data) for kept in self._kept]
        return message(payloads)

    def condensed(self) -> list[bytes]:
        return [kept.raw for kept in self._kept]

    def _join(self, payload: Mapping[str, Any]) -> bool:
        """Whether this is a piece and nothing more: a delta that says anything else beside it stays as it is."""
        index, delta = payload.get("index"), payload.get("delta")
        if not isinstance(index, int) or not isinstance(delta, dict) or len(payload) != 3 or len(delta) != 2:
            return False
        kind = string(delta.get("type"))
        piece = delta.get(PIECES.get(kind, ""))
        if not isinstance(piece, str):
            return False
        run = self._runs.get(index)
        if run is None or run.kind != kind:
            run = self._runs[index] = _Run(index, kind)
            self._kept.append(run)
        run.pieces.append(piece)
        return True


class _Run:
    """Pieces of one kind that follow each other in a block."""

    __slots__ = ("index", "kind", "pieces")

    def __init__(self, index: int, kind: str) -> None:
        self.index = index
        self.kind = kind
        self.pieces: list[str] = []

    @property
    def delta(self) -> dict[str, str]:
        return {"type": self.kind, PIECES[self.kind]: "".join(self.pieces)}

    @property
    def payload(self) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self.index, "delta": self.delta}

    @property
    def raw(self) -> bytes:
        return named_event("content_block_delta", index=self.index, delta=self.delta)
