"""A provider that does exactly what a test tells it to, and remembers every byte it was sent.

    upstream.script = replay(stream, cut_at=[10, 300])
    ...
    assert upstream.calls[0].body == sent

A script is an async function of one ``Call``: it reads the request from it and writes the answer to it, at any pace and
cut anywhere. When the client leaves, the script is cancelled and the call's ``how`` says ``client_gone``.
Scripts never see ``/_…`` paths; those are a subclass's own (see ``badprovider``).
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from itertools import pairwise
from typing import Any

from tests.support.http import LINE_LIMIT, Headers, Truncated, read_body, read_head

Script = Callable[["Call"], Awaitable[None]]
HeaderLines = Sequence[tuple[str, str]]

JSON: HeaderLines = (("content-type", "application/json"), ("request-id", "req_scripted"))
EVENT_STREAM: HeaderLines = (("content-type", "text/event-stream; charset=utf-8"), ("request-id", "req_scripted"))


class Call:
    """One request as it arrived, and the means to answer it."""

    def __init__(self, first_line: str, headers: Headers, body: bytes, writer: asyncio.StreamWriter) -> None:
        self.method, self.path, _ = first_line.split(" ", 2)
        self.headers = headers
        self.body = body
        self.how = ""  # how the answer ended: complete, client_gone, or a script's own word
        self.ended = asyncio.Event()
        self.keep_alive = False
        self._writer = writer

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def id(self) -> str:
        """The relay's name for this call, ``<job>:<generation>``."""
        return self.headers.get("x-relay-call-id") or ""

    @property
    def wants_stream(self) -> bool:
        try:
            return self.json.get("stream") is True
        except (ValueError, AttributeError):
            return False

    async def head(self, status: int = 200, headers: HeaderLines = EVENT_STREAM, *, framing: str = "chunked") -> None:
        """Status line and headers. ``framing``: chunked, close, or the body's length as digits."""
        extra = {"chunked": "transfer-encoding: chunked", "close": "connection: close"}
        lines = [f"{name}: {value}" for name, value in headers]
        lines.append(extra.get(framing, f"content-length: {framing}"))
        await self.raw("\r\n".join([f"HTTP/1.1 {status} Scripted", *lines, "", ""]).encode("latin-1"))

    async def chunk(self, piece: bytes) -> None:
        """One piece of a chunked body."""
        if piece:
            await self.raw(b"%x\r\n%b\r\n" % (len(piece), piece))

    async def finish(self) -> None:
        """Close a chunked body properly."""
        await self.raw(b"0\r\n\r\n")
        self.keep_alive = True

    async def whole(self, status: int, body: bytes, headers: HeaderLines = JSON) -> None:
        """A complete answer with a length."""
        await self.head(status, headers, framing=str(len(body)))
        await self.raw(body)
        self.keep_alive = True

    async def raw(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def reset(self) -> None:
        """Drop the connection with RST, what was not delivered with it."""
        connection = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


def answer(body: bytes, *, status: int = 200, headers: HeaderLines = JSON) -> Script:
    """A whole answer at once."""

    async def script(call: Call) -> None:
        await call.whole(status, body, headers)

    return script


def replay(
    stream: bytes, *, cut_at: Iterable[int] = (), pace_s: float = 0, headers: HeaderLines = EVENT_STREAM
) -> Script:
    """A recorded stream, written in pieces that end at ``cut_at``, ``pace_s`` apart, and closed properly."""
    cuts = [0, *cut_at, len(stream)]

    async def script(call: Call) -> None:
        await call.head(200, headers)
        for start, end in pairwise(cuts):
            await call.chunk(stream[start:end])
            if pace_s:
                await asyncio.sleep(pace_s)
        await call.finish()

    return script


def metronome(stop: asyncio.Event, every_s: float = 0.01) -> Script:
    """A stream of output at an even pace, until told to stop."""

    async def script(call: Call) -> None:
        await call.head()
        while not stop.is_set():
            await call.chunk(b'event: content_block_delta\ndata: {"type":"content_block_delta"}\n\n')
            await asyncio.sleep(every_s)
        await call.finish()

    return script


def in_turn(*scripts: Script) -> Script:
    """The first script for the first call, and so on; the last one stays."""
    left = list(scripts)

    async def script(call: Call) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(call)

    return script


class Upstream:
    """The server. ``calls`` holds every request since ``reset``; ``script`` answers them."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.script: Script | None = None
        self.port = 0
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self, port: int = 0, *, tls: ssl.SSLContext | None = None) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: asyncio.StreamReaderProtocol(_Reader(), self._connected), "127.0.0.1", port, backlog=1024, ssl=tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server
        self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    def reset(self) -> None:
        self.calls.clear()
        self.script = None

    async def serve(self, call: Call) -> None:
        """Answer one call; a subclass may know what to do without a script."""
        self.calls.append(call)
        assert self.script, "a call came, and no script says what to answer"
        await self.script(call)

    def ended(self, call: Call) -> None:
        """Called once per call, when its answer is over."""

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task and isinstance(reader, _Reader)
        self._connections.add(task)
        try:
            while call := await self._receive(reader, writer):
                await self._answer(call, reader)
                if not call.keep_alive:
                    break
        except (Truncated, ConnectionError):
            pass  # The client went away between two requests.
        except asyncio.CancelledError:
            pass  # ``stop`` was called; a cancelled connection task would be reported as an error by asyncio.
        finally:
            self._connections.discard(task)
            writer.close()
            with suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Call | None:
        first, headers = await read_head(reader)
        if "100-continue" in (headers.get("expect") or ""):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        async with aclosing(read_body(reader, headers, until_close=False)) as pieces:
            body = b"".join([piece async for piece in pieces])
        return Call(first, headers, body, writer)

    async def _answer(self, call: Call, reader: _Reader) -> None:
        """Run the script until it is done or the client is gone, whichever is first."""
        script = asyncio.ensure_future(self.serve(call))
        watch = asyncio.ensure_future(reader.closed.wait())
        try:
            await asyncio.wait({script, watch}, return_when=asyncio.FIRST_COMPLETED)
            if script.done() and not isinstance(script.exception(), ConnectionError):
                script.result()
                call.how = call.how or "complete"
            else:
                call.how = "client_gone"
                call.keep_alive = False
        finally:
            self.ended(call)
            call.ended.set()
            for task in (script, watch):
                task.cancel()
            await asyncio.gather(script, watch, return_exceptions=True)


class _Reader(asyncio.StreamReader):
    """A stream reader that says when its peer has left, also while nobody reads."""

    def __init__(self) -> None:
        super().__init__(limit=LINE_LIMIT)
        self.closed = asyncio.Event()

    def feed_eof(self) -> None:
        super().feed_eof()
        self.closed.set()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self.closed.set()


@asynccontextmanager
async def serving(upstream: Upstream) -> AsyncGenerator[Upstream, None]:
    await upstream.start()
    try:
        yield upstream
    finally:
        await upstream.stop()
