"""A connection: what it bounds, and what it writes at once."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from uvicorn.server import ServerState

from relay.ingress.exchange import Receive, Scope, Send
from relay.ingress.protocol import HEAD_BYTES, Connection, HeadHolding
from tests.support import http

ECHO = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            break
    else:
        return
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Hasty(Connection):
    request_s = 0.5
    slowest_bytes_per_s = 256 << 10


@asynccontextmanager
async def served(kind: type[Connection]) -> AsyncIterator[int]:
    """A server with this kind of connections; its port."""
    loop = asyncio.get_running_loop()
    config = uvicorn.Config(echo, http=kind, ws="none", lifespan="off", interface="asgi3", log_config=None)
    config.load()
    state = ServerState()
    server = await loop.create_server(lambda: kind(config, state, {}, loop), "127.0.0.1", 0, family=socket.AF_INET)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for connection in list(state.connections):
        connection.transport.abort()
    await server.wait_closed()


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with served(Connection) as port:
        yield port


@pytest.fixture
async def hasty_port() -> AsyncIterator[int]:
    """Where a request has half a second."""
    async with served(Hasty) as port:
        yield port


async def test_a_request_in_pieces_is_one_request(port: int) -> None:
    exchange = await http.Exchange.send(port, ECHO[:10])
    for piece in (ECHO[10:30], ECHO[30:], b"he", b"llo"):
        exchange.writer.write(piece)
        await exchange.writer.drain()
    await exchange.answered()
    assert (exchange.status, await exchange.body()) == (200, b"hello")
    await exchange.close()


async def test_many_requests_on_one_connection_have_their_time_each(hasty_port: int) -> None:
    exchange = await http.Exchange.send(hasty_port, b"")
    clock = asyncio.get_running_loop().time
    until = clock() + 2 * Hasty.request_s
    while clock() < until:
        exchange.writer.write(ECHO + b"hello")
        await exchange.answered()
        assert await exchange.body() == b"hello"
    await exchange.close()


@pytest.mark.parametrize("beginning", [b"POST / HT", b"POST / HTTP/1.1\r\nhost: a\r\n", ECHO, ECHO + b"hell"])
async def test_a_request_that_trickles_in_is_refused(hasty_port: int, beginning: bytes) -> None:
    exchange = await http.Exchange.open(hasty_port, beginning)
    assert exchange.status == 408
    assert b"too slowly" in await exchange.body()
    assert await exchange.reader.read() == b""
    await exchange.close()


async def test_a_connection_that_says_nothing_is_closed(hasty_port: int) -> None:
    exchange = await http.Exchange.send(hasty_port, b"")
    assert await exchange.reader.read() == b""
    await exchange.close()


async def test_a_big_body_has_more_time_as_long_as_it_moves(hasty_port: int) -> None:
    size = 1 << 19  # worth two seconds more at this rate
    exchange = await http.Exchange.send(hasty_port, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % size)
    exchange.writer.write(b"x" * (size - 1))
    waiting = asyncio.ensure_future(exchange.answered())
    done, _ = await asyncio.wait({waiting}, timeout=2 * Hasty.request_s)
    assert not done
    exchange.writer.write(b"x")
    await waiting
    assert exchange.status == 200
    assert len(await exchange.body()) == size
    await exchange.close()


@pytest.mark.parametrize("pieces", [1, 40])
async def test_a_head_that_is_too_large_is_refused(port: int, pieces: int) -> None:
    head = b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x-a: %b\r\n" % (b"a" * 400) * (HEAD_BYTES // 400 + 1) + b"\r\n"
    step = -(-len(head) // pieces)
    exchange = await http.Exchange.send(port, b"")
    for at in range(0, len(head), step):
        exchange.writer.write(head[at : at + step])
        await exchange.writer.drain()
    await exchange.answered()
    assert exchange.status == 400
    assert str(HEAD_BYTES).encode() in await exchange.body()
    await exchange.close()


async def test_a_head_just_below_that_is_taken(port: int) -> None:
    padding = b"x-a: %b\r\n" % (b"a" * (HEAD_BYTES - 100))
    exchange = await http.Exchange.open(port, ECHO[:-2] + padding + b"\r\nhello")
    assert exchange.status == 200
    await exchange.close()


class Written(asyncio.Transport):
    """A transport that keeps what was written, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes) -> None:  # type: ignore[override]
        self.writes.append(data)

    def close(self) -> None:
        self.is_closed = True


HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


async def test_a_head_goes_out_with_what_follows_it_at_once() -> None:
    written = Written()
    transport = HeadHolding(written, asyncio.get_running_loop())
    for data in (HEAD, b"body", b"more", HEAD, b"next"):
        transport.write(data)
    assert written.writes == [HEAD + b"body", b"more", HEAD + b"next"]


async def test_a_head_that_nothing_follows_goes_out_in_the_same_turn() -> None:
    written = Written()
    transport = HeadHolding(written, asyncio.get_running_loop())
    transport.write(HEAD)
    assert written.writes == []
    await asyncio.sleep(0)
    assert written.writes == [HEAD]
    transport.write(b"body")
    assert written.writes == [HEAD, b"body"]


async def test_a_head_is_not_lost_when_the_connection_is_closed() -> None:
    written = Written()
    transport = HeadHolding(written, asyncio.get_running_loop())
    transport.write(HEAD)
    transport.close()
    assert written.writes == [HEAD]
    assert written.is_closed
