"""The provider of the benchmark: prepared bytes, written at an even pace.  ``python -m tests.bench.upstream``.

Every text event carries its number and the moment it was written, ``@000017.0000001234567890123@``; the load reads the
delay of each event from that, as both clocks are the machine's one monotonic clock. Answers are asked for in the
prompt: ``BENCH(events,gap in ms)``, with no events a plain JSON body.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import cast

import uvloop

from tests.support.dialects import Anthropic

STAMP = b"@%06d.%019d@"
_ORDER = re.compile(rb"BENCH\((\d+),(\d+)\)")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_TICK_S = 0.001


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event() -> bytes:
    delta = {"type": "text_delta", "text": (STAMP % (0, 0)).decode() + " lorem"}
    payload = json.dumps({"type": "content_block_delta", "index": 0, "delta": delta}, separators=(",", ":"))
    return _chunk(f"event: content_block_delta\ndata: {payload}\n\n".encode())


_SAY = Anthropic()
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_OPENING = _STREAM_HEAD + b"".join(map(_chunk, _SAY.opening("bench")))
_BEFORE_STAMP, _AFTER_STAMP = _event().split(STAMP % (0, 0))
_MESSAGE = _SAY.message("bench", 3)
_WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(_MESSAGE) + _MESSAGE


def _closing(events: int) -> bytes:
    end = [*_SAY.closing(), _SAY.usage("bench", _SAY.counts(events)), _SAY.stop()]
    return b"".join(map(_chunk, end)) + b"0\r\n\r\n"


class Pace:
    """Who is to write next, on one timer for all: 25,000 timers a second would be the bottleneck."""

    def __init__(self) -> None:
        self._slots: dict[int, list[Answering]] = {}
        self._now = 0

    def after(self, milliseconds: int, answering: Answering) -> None:
        self._slots.setdefault(self._now + max(1, milliseconds), []).append(answering)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            await asyncio.sleep(_TICK_S)
            due = int((loop.time() - began) / _TICK_S)
            while self._now < due:
                self._now += 1
                for answering in self._slots.pop(self._now, ()):
                    answering.next()


class Answering(asyncio.Protocol):
    """One connection."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self._events = self._sent = self._gap_ms = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not found or (length and len(body) < int(length[1])):
            return
        order = _ORDER.search(body)
        self._received = b""
        self._answer(*(map(int, order.groups()) if order else (0, 0)))

    def _answer(self, events: int, gap_ms: int) -> None:
        assert self._transport
        if not events:
            self._transport.write(_WHOLE)
            return
        self._events, self._gap_ms, self._sent = events, gap_ms, 0
        self._transport.write(_OPENING)
        self._later()

    def next(self) -> None:
        """Write one event."""
        if self._transport is None:
            return
        self._transport.write(_BEFORE_STAMP + STAMP % (self._sent, time.monotonic_ns()) + _AFTER_STAMP)
        self._sent += 1
        if self._sent < self._events:
            self._later()
        else:
            self._transport.write(_closing(self._events))

    def _later(self) -> None:
        if self._gap_ms:
            self._pace.after(self._gap_ms, self)
        else:
            asyncio.get_running_loop().call_soon(self.next)  # a write of its own for each event


async def main() -> None:
    pace = Pace()
    server = await asyncio.get_running_loop().create_server(lambda: Answering(pace), "127.0.0.1", 0, backlog=4096)
    sys.stdout.write(f"ready {server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await pace.run()


if __name__ == "__main__":
    uvloop.run(main())
