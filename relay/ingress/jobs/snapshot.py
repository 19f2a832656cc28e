"""The message so far, for a page that comes late: a job's log read to where it stands, its events made few.

Called for a stream with ``?snapshot=1``. Only the last of the few has an id, that of the newest event it stands for: a
reader who was cut off in the middle has no id to come back with, and starts again.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from relay.broker.subscriber import Reader
from relay.core.assembly.assembly import Assembly
from relay.core.errors import Unavailable
from relay.core.frame import END, EVENTS, HEAD, START, Cursor, Frame
from relay.core.job import Dialect
from relay.ingress.stream import id_line

# What is in Redis is there in milliseconds; a page of it that takes longer will not come.
READ_S = 5.0


class Snapshot(NamedTuple):
    """``events`` say what the log said, finished and with one id; ``frames`` are those that hold no events."""

    events: bytes
    frames: list[Frame]


NOTHING = Snapshot(b"", [])


async def read(reader: Reader, surface: Dialect, until: Cursor) -> Snapshot:
    """Read a job's log from its start to ``until``, which is in it; what has come meanwhile is read, too.

    Raises ``UpstreamProtocolError`` where the events are too many to be put together, ``Unavailable``, and what the
    reader raises.
    """
    assembly, frames, newest = Assembly(surface), list[Frame](), START
    while reader.cursor < until and not (frames and frames[-1].kind == END):
        for frame in await page_of(reader):
            if frame.kind == EVENTS:
                assembly.feed(frame.data)
                newest = frame.cursor
            elif frame.kind == HEAD:  # a second one is that of another attempt
                assembly, frames = Assembly(surface), [frame]
            else:
                frames.append(frame)
    return Snapshot(_with_id(assembly.snapshot(), newest), frames)


async def page_of(reader: Reader) -> list[Frame]:
    """The next frames of a log in which there are some.  Raises ``Unavailable``."""
    try:
        async with asyncio.timeout(READ_S):
            return await reader.read()
    except TimeoutError:
        raise Unavailable("Redis does not answer.", retry_after_s=2) from None


def _with_id(events: list[bytes], cursor: Cursor) -> bytes:
    return b"".join([*events[:-1], id_line(cursor), events[-1]]) if events else b""
