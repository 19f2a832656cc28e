"""HTTP/1.1 by hand: the few lines a test needs to send any bytes it likes and to see every byte that comes back.

Shared by the scripted upstream (server side) and the tests' clients. It corrects nothing: what a test writes is sent.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

# Longer than any header block or line of ours; asyncio's own default of 64 KiB is shorter than some SSE lines.
LINE_LIMIT = 1 << 24
READ_BYTES = 1 << 16


class Headers(tuple[tuple[str, str], ...]):
    """Header lines in the order they came, looked up without regard to case."""

    def get(self, name: str, default: str | None = None) -> str | None:
        return next((value for key, value in self if key.lower() == name.lower()), default)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self if key.lower() == name.lower()]

    def __contains__(self, name: object) -> bool:
        return any(key.lower() == str(name).lower() for key, _ in self)


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: Headers
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Truncated(Exception):
    """The connection ended before the body did."""


async def read_head(reader: asyncio.StreamReader) -> tuple[str, Headers]:
    """The first line and the headers.  Raises ``Truncated`` when the peer closed instead."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        raise Truncated(f"connection closed in the head: {error.partial!r}") from None
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return first, Headers((name.strip(), value.strip()) for name, _, value in pairs)


async def read_body(
    reader: asyncio.StreamReader, headers: Headers, *, until_close: bool
) -> AsyncGenerator[bytes, None]:
    """The body's bytes as they come, without their framing.  Raises ``Truncated`` when the framing was not closed."""
    try:
        if "chunked" in (headers.get("transfer-encoding") or ""):
            while size := int((await reader.readline()).split(b";")[0] or b"x", 16):
                yield await reader.readexactly(size)
                await reader.readexactly(2)
            await reader.readuntil(b"\r\n")
        elif (length := headers.get("content-length")) is not None:
            left = int(length)
            while left:
                piece = await reader.read(min(left, READ_BYTES))
                if not piece:
                    raise Truncated(f"connection closed with {left} bytes of the body to come")
                left -= len(piece)
                yield piece
        elif until_close:
            while piece := await reader.read(READ_BYTES):
                yield piece
    except (asyncio.IncompleteReadError, ValueError) as error:
        raise Truncated(f"connection closed inside the body: {error}") from None


@dataclass(slots=True)
class Exchange:
    """One request on its own connection, and the answer as it comes in."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    status: int = 0
    headers: Headers = field(default_factory=Headers)

    @classmethod
    async def open(cls, port: int, raw: bytes, *, receive_buffer: int | None = None) -> Exchange:
        """Send ``raw`` and wait for the head of the answer. A small ``receive_buffer`` makes a slow reader felt."""
        exchange = await cls.send(port, raw, receive_buffer=receive_buffer)
        try:
            await exchange.answered()
        except BaseException:  # a client that loses its patience, too
            exchange.writer.close()
            raise
        return exchange

    @classmethod
    async def send(cls, port: int, raw: bytes, *, receive_buffer: int | None = None) -> Exchange:
        connection = socket.socket()
        connection.setblocking(False)
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
        except BaseException:
            connection.close()
            raise
        limit = receive_buffer or LINE_LIMIT
        reader, writer = await asyncio.open_connection(sock=connection, limit=limit)
        exchange = cls(reader, writer)
        writer.write(raw)
        try:
            await writer.drain()
        except BaseException:
            writer.close()
            raise
        return exchange

    async def answered(self) -> None:
        first, self.headers = await read_head(self.reader)
        self.status = int(first.split(" ", 2)[1])

    def pieces(self) -> AsyncGenerator[bytes, None]:
        return read_body(self.reader, self.headers, until_close=True)

    async def body(self) -> bytes:
        return b"".join([piece async for piece in self.pieces()])

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):  # The other side was faster.
            await self.writer.wait_closed()


def render(method: str, path: str, headers: Iterable[tuple[str, str]] = (), body: bytes | None = None) -> bytes:
    """A request's bytes. ``Host`` and, with a body, ``Content-Length`` are added where missing; nothing is checked."""
    lines = list(headers)
    names = {name.lower() for name, _ in lines}
    if "host" not in names:
        lines.insert(0, ("host", "127.0.0.1"))
    if body is not None and not names & {"content-length", "transfer-encoding"}:
        lines.append(("content-length", str(len(body))))
    head = "".join([f"{method} {path} HTTP/1.1\r\n", *(f"{name}: {value}\r\n" for name, value in lines), "\r\n"])
    return head.encode("latin-1") + (body or b"")


async def request(
    port: int, method: str, path: str, headers: Iterable[tuple[str, str]] = (), body: bytes | None = None
) -> Response:
    """One request on a fresh connection, read to its end."""
    exchange = await Exchange.open(port, render(method, path, [*headers, ("connection", "close")], body))
    try:
        return Response(exchange.status, exchange.headers, await exchange.body())
    finally:
        await exchange.close()
