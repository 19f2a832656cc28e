"""Connections to Redis: the one place where clients are made.

``client`` is redis-py for everything that is not on the data path. ``Link`` is the data path: one connection that any
number of tasks share, commands going out in the order of the calls and replies coming back in that order. It is
hiredis on an asyncio protocol and nothing more. Measured with SET on loopback: 16 µs of CPU a command from one task and
6 µs from twenty, against 112 and 93 µs through redis-py's asyncio client.

Neither retries by itself. redis-py's default of ten retries runs a command twice when a reply is lost; our scripts
are made to be repeated, and their callers decide when.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import hiredis
import redis
from redis.asyncio import Redis
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, NoScriptError, OutOfMemoryError, RedisError, ResponseError

from relay.broker.scripts import Script

__all__ = [
    "Address",
    "Client",
    "ConnectionError",
    "Link",
    "OutOfMemoryError",
    "RedisError",
    "ResponseError",
    "Wire",
    "address",
    "blocking_client",
    "client",
]

# Longer than any answer a healthy Redis gives (slowest seen: 0.3 s, a 30 MB request through AOF on a busy disk), short
# enough that a dead peer is noticed well within a lease.
TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 2.0

_ERRORS: dict[str, type[RedisError]] = {
    "NOSCRIPT": NoScriptError,
    "OOM": OutOfMemoryError,
    # Not able to serve now, as if it were not there: a restart or a failover is under way, or a disk is full.
    **dict.fromkeys(("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "MISCONF"), ConnectionError),
}


_NO_RETRY: dict[str, Any] = {
    "socket_timeout": TIMEOUT_S,
    "socket_connect_timeout": CONNECT_TIMEOUT_S,
    "health_check_interval": 0,
}


Client = Redis


def client(url: str) -> Client:
    """A redis-py client with every hidden retry off."""
    return Redis.from_url(url, retry=Retry(NoBackoff(), 0), **_NO_RETRY)


def blocking_client(url: str, *, text: bool = False) -> redis.Redis:
    """The same without asyncio: for RQ's own code, before and after the event loop runs, and for the ledger.

    ``text``: replies as text, made where they are parsed; what is no UTF-8 in them is replaced.
    """
    decoding = {"decode_responses": True, "encoding_errors": "replace"} if text else {}
    return redis.Redis.from_url(url, retry=redis.retry.Retry(NoBackoff(), 0), **_NO_RETRY, **decoding)


# Where a server is and who we are there, in the words of redis-py's connection arguments.
Address = dict[str, Any]


def address(source: str | redis.Redis) -> Address:
    """The address in a URL (redis://, rediss://, unix://), or that of a client somebody else has made."""
    if isinstance(source, str):
        return dict(parse_url(source))
    pool = source.connection_pool
    secure = issubclass(pool.connection_class, redis.SSLConnection)
    return {**pool.connection_kwargs, **({"connection_class": SSLConnection} if secure else {})}


def _error(text: str) -> RedisError:
    return _ERRORS.get(text.partition(" ")[0], ResponseError)(text)


class Wire(asyncio.Protocol):
    """One TCP connection of a ``Link``; a new one is made for every reconnect, so that a late loss cannot hurt it."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._reader = hiredis.Reader(replyError=_error)
        self._timer: asyncio.TimerHandle | None = None
        self._unsent: list[bytes] = []
        self.pending: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self.transport: asyncio.Transport | None = None
        self.lost: ConnectionError | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        reader, receive = self._reader, self._link.receive
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                receive(self, reply)
        except hiredis.ProtocolError as error:
            self.drop(f"Redis answered garbage: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        self.drop("connection to Redis lost" + (f": {error}" if error else ""))

    def send(self, command: tuple[Any, ...], timeout_s: float) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Any] = loop.create_future()
        if self.lost or self.transport is None:
            reply.set_exception(self.lost or ConnectionError("not connected to Redis"))
            return reply
        self.write(*command)
        self.pending.append((loop.time() + timeout_s, reply))
        if self._timer is None:
            self._timer = loop.call_later(timeout_s, self._check_timeout)
        return reply

    def write(self, *command: Any) -> None:
        """Send a command whose reply nobody waits for here: SUBSCRIBE and its kind.

        All commands of one turn of the loop leave in one system call, and Redis reads them in one.
        """
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._write_out)
        self._unsent.append(hiredis.pack_command(command))

    def _write_out(self) -> None:
        unsent, self._unsent = self._unsent, []
        if self.transport is not None and not self.lost:
            self.transport.write(unsent[0] if len(unsent) == 1 else b"".join(unsent))

    def answer(self, reply: Any) -> None:
        """Hand a reply to the oldest command."""
        if not self.pending:
            self.drop("Redis sent a reply that nobody asked for")
            return
        _, waiting = self.pending.popleft()
        if waiting.done():
            return
        if isinstance(reply, Exception):
            waiting.set_exception(reply)
            if isinstance(reply, ConnectionError):
                self.drop("Redis cannot serve now")
        else:
            waiting.set_result(reply)

    def drop(self, reason: str) -> None:
        """Give this connection up; whoever waits on it fails."""
        if self.lost:
            return
        self.lost = ConnectionError(f"{self._link.name}: {reason}")
        if self.transport is not None:
            self.transport.abort()
        if self._timer is not None:
            self._timer.cancel()
        pending, self.pending = self.pending, deque()
        for _, waiting in pending:
            if not waiting.done():
                waiting.set_exception(self.lost)
                waiting.exception()  # seen: a caller that has left must not become a warning
        self._link.dropped(self)

    def _check_timeout(self) -> None:
        self._timer = None
        if not self.pending:
            return
        loop = asyncio.get_running_loop()
        wait_s = self.pending[0][0] - loop.time()
        if wait_s <= 0:
            self.drop("no answer from Redis in time")
        else:
            self._timer = loop.call_later(wait_s, self._check_timeout)


class Link:
    """One connection to Redis, shared. Connects when first used and again after a loss; what was in flight then fails.

    A command that failed with ``ConnectionError`` may or may not have been executed.
    """

    def __init__(self, address: Address, name: str) -> None:
        self.name = name
        self._options = address
        self.wire: Wire | None = None
        self._connecting = asyncio.Lock()
        self._closed = False

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script by its hash; a server that does not know it (restart, SCRIPT FLUSH) gets the source."""
        try:
            return await self.execute("EVALSHA", script.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await self.execute("EVAL", script.source, len(keys), *keys, *args)

    async def execute(self, *command: Any, timeout_s: float = TIMEOUT_S) -> Any:
        """Send one command and wait for its reply.  Raises ``RedisError``; ``ConnectionError`` when the link broke."""
        wire = self.wire or await self.connect()
        return await wire.send(command, timeout_s)

    async def insist(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script until Redis has answered, however long that takes; it may run more than once.

        For a worker, whose running calls outlive a restart of Redis. Memory that is full is waited for as well.
        """
        pause_s = 0.02
        while True:
            try:
                return await self.run(script, keys, args)
            except (ConnectionError, OutOfMemoryError):
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 0.5)

    async def connect(self) -> Wire:
        """Connect, authenticate, select, once for all who ask.  Raises ``ConnectionError``."""
        async with self._connecting:
            if self.wire is not None:
                return self.wire
            if self._closed:
                raise ConnectionError(f"{self.name}: closed")
            wire = Wire(self)
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await self._open(wire)
                    for greeting in self._greetings():
                        await wire.send(greeting, CONNECT_TIMEOUT_S)
            except (OSError, RedisError) as error:
                reason = f"cannot reach Redis: {error or type(error).__name__}"
                wire.drop(reason)
                raise ConnectionError(f"{self.name}: {reason}") from error
            except BaseException:  # the caller has left; nobody would close what is half open
                wire.drop("given up")
                raise
            self.wire = wire
            return wire

    def close(self) -> None:
        self._closed = True
        if self.wire:
            self.wire.drop("closed")

    def receive(self, wire: Wire, reply: Any) -> None:
        """What to do with a reply; a subscriber has its own mind."""
        wire.answer(reply)

    def dropped(self, wire: Wire) -> None:
        """The connection is gone."""
        if wire is self.wire:
            self.wire = None

    async def _open(self, wire: Wire) -> None:
        loop = asyncio.get_running_loop()
        if path := self._options.get("path"):
            await loop.create_unix_connection(lambda: wire, path)
            return
        context: ssl.SSLContext | None = None
        if self._options.get("connection_class") is SSLConnection:
            wanted = {k: v for k, v in self._options.items() if k.startswith("ssl_")}
            context = SSLConnection(**wanted).ssl_context.get()
        host, port = self._options.get("host", "localhost"), self._options.get("port", 6379)
        await loop.create_connection(lambda: wire, host, port, ssl=context)

    def _greetings(self) -> list[tuple[Any, ...]]:
        greetings: list[tuple[Any, ...]] = []
        if password := self._options.get("password"):
            user = self._options.get("username")
            greetings.append(("AUTH", user, password) if user else ("AUTH", password))
        if db := self._options.get("db"):
            greetings.append(("SELECT", db))
        return [*greetings, ("CLIENT", "SETNAME", re.sub("[^!-~]", "-", self.name))]
