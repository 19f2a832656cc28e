"""Runs the sandbox: as a process of its own (``run``), or beside other things in one event loop (``serving``)."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final, Protocol

import uvicorn
import uvloop
from pydantic import SecretStr
from starlette.types import ASGIApp

from relay.sandbox import guard
from relay.sandbox.app import make_app

# Longer than the idle time of any client's connection pool we know (httpx 5 s, aiohttp 15 s): were it shorter, a
# request could meet a connection that is just being closed.
_KEEP_ALIVE_S: Final = 75

# Open streams get this long after SIGTERM; nobody pays for them.
_GRACE_S: Final = 1


class SandboxSettings(Protocol):
    """The part of the settings that concerns the sandbox."""

    @property
    def sandbox_port(self) -> int: ...
    @property
    def sandbox_gap_ms(self) -> float: ...
    @property
    def sandbox_key(self) -> SecretStr: ...


def run(settings: SandboxSettings, *, host: str = "127.0.0.1", allow_remote: bool = False) -> None:
    """Serve until SIGTERM or Ctrl-C.  One line says when it is ready, and where."""
    try:
        listener = guard.listen(host, settings.sandbox_port, allow_remote=allow_remote)
    except (OSError, ValueError) as error:
        raise SystemExit(f"relay sandbox: {error}") from error
    key = settings.sandbox_key.get_secret_value()
    app = make_app(gap_ms=settings.sandbox_gap_ms, key=key, allow_remote=allow_remote)
    uvloop.run(_until_signal(listener, app))


@contextlib.asynccontextmanager
async def serving(
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    gap_ms: float = 0,
    key: str | None = None,
    allow_remote: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[str]:
    """A sandbox in the running loop; yields its URL.  Without a ``key`` any key will do; ``clock`` is its cache's."""
    listener = guard.listen(host, port, allow_remote=allow_remote)
    async with _server(listener, make_app(gap_ms=gap_ms, key=key, allow_remote=allow_remote, clock=clock)):
        yield guard.url_of(listener.getsockname())


async def _until_signal(listener: socket.socket, app: ASGIApp) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with _server(listener, app) as serving:
        sys.stdout.write(f"ready sandbox on {guard.url_of(listener.getsockname())}\n")
        sys.stdout.flush()
        waiting = asyncio.create_task(stop.wait())
        await asyncio.wait({waiting, serving}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()


@contextlib.asynccontextmanager
async def _server(listener: socket.socket, app: ASGIApp) -> AsyncIterator[asyncio.Task[None]]:
    # The socket listens already, so whoever is told the URL can connect, whether or not uvicorn is up yet.
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        log_config=None,  # logging belongs to the process
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield serving
    finally:
        server.should_exit = True
        await serving


class _Server(uvicorn.Server):
    """Leaves signals alone: uvicorn raises them again after its shutdown, and a stop on request would not exit 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
