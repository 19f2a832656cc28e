"""Frames: the numbered items on a job's live channel and in its log.

The very same bytes are published and logged, so live and replay cannot differ. A frame is an ASCII line, then its data:

    <generation>-<sequence> <events> <kind>\\n<data>

* ``generation`` names the attempt, ``sequence`` the last event in the frame: together the id of the log entry, the SSE
  ``id:`` of that event, and a reader's cursor.
* ``events`` counts the numbered events in the data; the frame covers ``sequence - events + 1 … sequence``.
* ``kind``: ``h`` head (upstream status and headers, as JSON; no event), ``e`` finished SSE events, ``b`` a piece of a
  body that is not a stream, ``x`` end (the job's outcome, as JSON; it takes the next number but counts no event).

Events inside an ``e`` frame end with one blank line each and contain none, so they can be told apart by ``\\n\\n``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from relay.core.errors import InvalidRequest

HEAD, EVENTS, BODY, END = "h", "e", "b", "x"


class Cursor(NamedTuple):
    """The last event a reader has seen; ``Cursor(0, 0)`` is before everything."""

    generation: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.generation}-{self.sequence}"


START = Cursor(0, 0)

# Redis reads 20 digits up to 2^64 - 1 as a part of a stream id, and there must be an id behind the cursor.
_CURSOR = re.compile(r"([0-9]{1,20})-([0-9]{1,20})", re.ASCII)
_MAX_PART = 2**64 - 2


def parse_cursor(text: str) -> Cursor:
    """The cursor in a ``Last-Event-ID``.  Raises ``InvalidRequest`` naming the value when it is none of ours."""
    match = _CURSOR.fullmatch(text.strip())
    if not match or max(cursor := Cursor(int(match[1]), int(match[2]))) > _MAX_PART:
        shown = text if len(text) <= 80 else text[:77] + "..."
        raise InvalidRequest(
            f"Last-Event-ID {shown!r} is not an event id of this relay; event ids look like '1763760000000-12'.",
            param="Last-Event-ID",
        )
    return cursor


class Frame(NamedTuple):
    """One decoded frame; ``sequence`` is that of its last event."""

    generation: int
    sequence: int
    events: int
    kind: str
    data: bytes

    @property
    def cursor(self) -> Cursor:
        return Cursor(self.generation, self.sequence)

    @property
    def follows(self) -> int:
        """The sequence a reader must have seen for this frame to come next without a hole."""
        return self.sequence - (1 if self.kind == END else self.events)


def encode(generation: int, sequence: int, events: int, kind: str, data: bytes) -> bytes:
    return b"%d-%d %d %c\n%b" % (generation, sequence, events, ord(kind), data)


def decode(raw: bytes) -> Frame:
    """The frame in ``raw``.  Raises ``ValueError`` on anything ``encode`` did not make."""
    head, _, data = raw.partition(b"\n")
    cursor, events, kind = head.split(b" ")
    generation, _, sequence = cursor.partition(b"-")
    return Frame(int(generation), int(sequence), int(events), kind.decode("ascii"), data)


def split_events(frame: Frame) -> list[bytes]:
    """The finished SSE events of an ``e`` frame, each with its closing blank line."""
    return [event + b"\n\n" for event in frame.data.split(b"\n\n")[:-1]]


def after(frame: Frame, cursor: Cursor) -> Frame | None:
    """The part of ``frame`` that lies behind ``cursor``; None when all of it was seen.

    A cursor may stand inside an ``e`` frame: events are numbered one by one, frames hold as many as one flush took.
    """
    if frame.cursor <= cursor:
        return None
    seen = cursor.sequence - (frame.sequence - frame.events) if cursor.generation == frame.generation else 0
    if frame.kind != EVENTS or seen <= 0:
        return frame
    rest = split_events(frame)[seen:]
    return frame._replace(events=len(rest), data=b"".join(rest))
