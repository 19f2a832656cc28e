"""uvicorn's HTTP protocol with what it lacks: a bound on the time and size of a request, an eye for dead peers, a word
to the handler when its client leaves, and fewer system calls.

uvicorn lets a client send headers for ever, or none (its header limit is h11's only), writes the head of an answer
apart from its body, and tells of a client that left only to a task that waits for nothing else.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from itertools import chain
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from relay.core.errors import InvalidRequest, RelayError, RequestTimeout, body_of
from relay.ingress.app import surface_of
from relay.ingress.exchange import error_headers, new_request_id

# Four times what an SDK sends with every beta switched on; nginx takes 8 KiB a line, Node 16 KiB in all.
HEAD_BYTES = 16 << 10

# A peer that neither takes what we send nor answers for so long is gone, whatever its socket says. A slow reader makes
# some progress in that time.
DEAD_S = 300
PROBE_AFTER_S, PROBE_EVERY_S, PROBES = 60, 15, 4

_HEAD_TOO_LARGE = InvalidRequest(f"The head of the request is larger than {HEAD_BYTES} bytes.")
_NOT_HTTP = InvalidRequest("This is not a valid HTTP/1.1 request.")


class Connection(HttpToolsProtocol):
    """A client's connection.  Handlers find it as ``scope["state"]["connection"]``.

    ``on_lost`` is called when the client is gone; whoever sets it looks at ``is_lost`` as well.
    """

    # A request that trickles in is an attack or a dead link. A big one may take longer, as long as it moves: 64 KiB/s
    # brings 20 MB of images over a poor uplink in 5 minutes, and makes it dear to hold a connection open.
    request_s = 30.0
    slowest_bytes_per_s = 64 << 10

    # Beside uvicorn's 30 attributes, which is where a class's instances stop sharing the keys of their dictionaries.
    __slots__ = ("_began_s", "_clock", "_in_head", "_is_coming", "_received", "is_lost", "on_lost")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.is_lost = False
        self.on_lost: Callable[[], None] | None = None
        self._is_coming = self._in_head = False  # a request has begun to arrive, and not all of it, or of its head, has
        self._clock: asyncio.TimerHandle | None = None
        super().connection_made(HeadHolding(transport, self.loop))  # type: ignore[arg-type]
        _notice_death(transport.get_extra_info("socket"))
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        super().connection_lost(exc)
        self.is_lost = True
        if self.on_lost is not None:
            self.on_lost()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._is_coming or self.transport.is_closing():
            return
        if self._clock is None:
            self._start_clock()
        self._received += len(data)
        if self._in_head and self._received > HEAD_BYTES:
            self._refuse(_HEAD_TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["connection"] = self
        self._is_coming = self._in_head = True

    def on_headers_complete(self) -> None:
        if len(self.url) + sum(map(len, chain.from_iterable(self.headers))) > HEAD_BYTES:
            raise ValueError("the head is too large")  # which the parser takes as the end of its work
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._is_coming = False
        if self._clock is not None:
            self._stop_clock()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn does with a request that its parser cannot take."""
        whole = sum(map(len, chain.from_iterable(getattr(self, "headers", None) or ())))
        self._refuse(_HEAD_TOO_LARGE if whole > HEAD_BYTES else _NOT_HTTP)

    def _start_clock(self) -> None:
        self._received = 0
        self._began_s = self.loop.time()
        self._clock = self.loop.call_later(self.request_s, self._look)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _look(self) -> None:
        """Time is up, unless enough has come to deserve more of it."""
        left_s = self._began_s + self.request_s + self._received / self.slowest_bytes_per_s - self.loop.time()
        if left_s > 0:
            self._clock = self.loop.call_later(left_s, self._look)
            return
        self._clock = None
        if self._is_coming and not (self.cycle and self.cycle.response_started):
            self._refuse(RequestTimeout("The request came too slowly."))
        else:
            self.transport.close()

    def _refuse(self, error: RelayError) -> None:
        """Answer what no handler will, in the shape of the surface it was meant for as far as that can be told."""
        path = getattr(self, "url", b"").decode("latin-1").partition("?")[0]
        surface, request_id = surface_of(path, {}), new_request_id()
        body = body_of(error, surface, request_id)
        headers = [*error_headers(error, surface, request_id), (b"content-length", b"%d" % len(body))]
        lines = [b"%b: %b" % header for header in [*headers, (b"connection", b"close")]]
        self.transport.write(b"\r\n".join([b"HTTP/1.1 %d " % error.status, *lines, b"", body]))
        self.transport.close()


class HeadHolding:
    """A transport that sends the head of an answer together with what follows it in the same turn of the loop.

    uvloop writes at once, so this is one system call instead of two for every answer that is no stream, and one wakeup
    of the client. What uvicorn calls of a transport is here, and no more.
    """

    __slots__ = ("_head", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head + data)
        elif data.startswith(b"HTTP/1.1 "):
            self._head = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)


def _notice_death(connection: socket.socket | None) -> None:
    """Let the kernel find out that a peer is gone, where it knows how."""
    if connection is None or connection.family == socket.AF_UNIX:
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", PROBE_AFTER_S),
        ("TCP_KEEPINTVL", PROBE_EVERY_S),
        ("TCP_KEEPCNT", PROBES),
        ("TCP_USER_TIMEOUT", DEAD_S * 1000),
    ):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
