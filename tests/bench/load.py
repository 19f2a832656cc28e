"""The load: clients that send prepared bytes and read what comes.  ``python -m tests.bench.load SPEC``.

A stream counts only if every event came once and in order and its end came too. It says ``start`` and ``end`` when the
measured window opens and closes, so that whoever started it reads the CPU of the others at these moments, and prints
one line of JSON in the end.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import sys
import time
from collections import deque
from typing import Any, cast

import uvloop

_STAMP = re.compile(rb"@(\d{6})\.(\d{19})@")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_SAMPLES = 200_000  # delays kept; percentiles of more would be no better
_DRAIN_S = 10.0


class Tally:
    """What was seen inside the window; times in nanoseconds."""

    def __init__(self) -> None:
        self.open = False
        self.requests = self.events = self.errors = 0
        self.first_ns: deque[int] = deque(maxlen=_SAMPLES)
        self.delay_ns: deque[int] = deque(maxlen=_SAMPLES)
        self.complaint = ""

    def complain(self, what: str) -> None:
        self.errors += 1
        self.complaint = self.complaint or what


class Client(asyncio.Protocol):
    """One connection: sends a request, reads its answer, tells its owner."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._head = b""
        self._in_head = True
        self._left = -1  # bytes of a body with a length
        self._sent_ns = 0
        self._events = 0
        self._tail = b""
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self.busy and not self._load.over:
            self._load.tally.complain("connection lost")
            self.busy = False
            self._load.lost(self)

    def send(self, due_ns: int = 0) -> None:
        """``due_ns``: when this request should have gone out; waiting for a free connection counts."""
        assert self._transport
        self.busy, self._in_head, self._head, self._left, self._events, self._tail = True, True, b"", -1, 0, b""
        self._sent_ns = due_ns or time.monotonic_ns()
        self._transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        if self._in_head:
            self._head += data
            head, found, data = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            self._in_head = False
            if not head.startswith(b"HTTP/1.1 200"):
                self._load.tally.complain(head.split(b"\r\n")[0].decode() + data[:300].decode(errors="replace"))
            if length := _LENGTH.search(head):
                self._left = int(length[1])
        if self._left >= 0:
            self._whole(data, now)
        else:
            self._stream(data, now)

    def _whole(self, data: bytes, now: int) -> None:
        self._left -= len(data)
        if self._left == 0:
            self._done(now)

    def _stream(self, data: bytes, now: int) -> None:
        tally = self._load.tally
        text = self._tail + data
        end = 0
        for stamp in _STAMP.finditer(text):
            end = stamp.end()
            if int(stamp[1]) != self._events:
                tally.complain(f"event {int(stamp[1])} came instead of {self._events}")
            if tally.open:
                tally.events += 1
                tally.delay_ns.append(now - int(stamp[2]))
                if self._events == 0:
                    tally.first_ns.append(now - self._sent_ns)
            self._events += 1
        # A stamp may be cut by the network, and so may the end; both are shorter than this.
        self._tail = text[max(end, len(text) - 40) :]
        if text.endswith(b"0\r\n\r\n"):
            if b"message_stop" not in text[-200:] and self._events != self._load.spec["events"]:
                tally.complain(f"the stream ended after {self._events} events: {text[-300:]!r}")
            self._done(now)

    def _done(self, now: int) -> None:
        self.busy = False
        if self._load.tally.open:
            self._load.tally.requests += 1
            if not self._load.spec["events"]:
                self._load.tally.first_ns.append(now - self._sent_ns)
        self._load.free(self)

    def close(self) -> None:
        if self._transport:
            self._transport.abort()


class Load:
    """All connections of one run.  ``spec``: port, path, headers, body, events, connections, rate and times."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.tally = Tally()
        self.over = False
        body = spec["body"].encode()
        lines = ["POST /v1/messages HTTP/1.1", "host: bench", "content-type: application/json"]
        lines += [f"x-api-key: {spec['key']}", f"content-length: {len(body)}", "", ""]
        self.request = "\r\n".join(lines).encode() + body
        self._clients: list[Client] = []
        self._idle: deque[Client] = deque()
        self._waiting: deque[int] = deque()

    async def run(self) -> None:
        spec = self.spec
        ramp = asyncio.create_task(self._connect())
        if spec["rate"]:
            pacing = asyncio.create_task(self._arrivals(spec["rate"]))
        await asyncio.sleep(spec["warmup_s"])
        await ramp
        self._say("start")
        self.tally.open = True
        began = time.monotonic()
        await asyncio.sleep(spec["window_s"])
        self.tally.open = False
        window_s = time.monotonic() - began
        self._say("end")
        self.over = True
        if spec["rate"]:
            pacing.cancel()
        for client in self._clients:
            client.close()
        self._say(json.dumps(self._result(window_s)))

    def free(self, client: Client) -> None:
        """A connection has its answer."""
        if self.over or self.spec["holds"]:
            return
        if self._waiting:
            client.send(self._waiting.popleft())
        elif self.spec["rate"]:
            self._idle.append(client)
        else:
            client.send()

    def lost(self, client: Client) -> None:
        self._clients.remove(client)

    async def _connect(self) -> None:
        loop, spec = asyncio.get_running_loop(), self.spec
        began = loop.time()
        for i in range(spec["connections"]):
            due = began + spec["ramp_s"] * i / spec["connections"]
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            _, client = await loop.create_connection(lambda: Client(self), "127.0.0.1", spec["port"])
            self._clients.append(client)
            if spec["rate"]:
                self._idle.append(client)
            else:
                client.send()

    async def _arrivals(self, rate: float) -> None:
        began = time.monotonic_ns()
        for i in itertools.count():
            due = began + int(i / rate * 1e9)
            await asyncio.sleep(max(0.0, (due - time.monotonic_ns()) / 1e9))
            if self._idle:
                self._idle.popleft().send(due)
            else:
                self._waiting.append(due)

    def _result(self, window_s: float) -> dict[str, Any]:
        tally = self.tally
        return {
            "window_s": window_s,
            "requests": tally.requests,
            "events": tally.events,
            "errors": tally.errors,
            "complaint": tally.complaint,
            "open": sum(client.busy for client in self._clients),
            "first_ms": percentiles(tally.first_ns),
            "delay_ms": percentiles(tally.delay_ns),
        }

    def _say(self, line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def percentiles(samples_ns: deque[int]) -> list[float]:
    """The 50th and the 99th, in milliseconds; none without samples."""
    if not samples_ns:
        return []
    ordered = sorted(samples_ns)
    return [ordered[int(share * (len(ordered) - 1))] / 1e6 for share in (0.50, 0.99)]


if __name__ == "__main__":
    uvloop.run(Load(json.loads(sys.stdin.read())).run())
