"""What our two HTTP processes have in common: uvicorn without its habits, one ready line, and a way out with code 0."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

import uvicorn

from relay import process


def config(app: Any, host: str, port: int, **more: Any) -> uvicorn.Config:
    """No lifespan, no log of its own, no word of itself in the answers, no belief in forwarded headers."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        **more,
    )


class Server(uvicorn.Server):
    """``begin`` and ``end`` are a subclass's own; ``name`` is what the ready line calls it."""

    name: str

    async def begin(self) -> None:
        """Before the door opens."""

    async def end(self) -> None:
        """When the last answer is out."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.begin()
        await super().startup(sockets)
        process.settle()
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        sys.stdout.write(f"ready {self.name} http://{f'[{host}]' if ':' in host else host}:{port}\n")
        sys.stdout.flush()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        await self.end()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Unlike uvicorn we do not raise the signal again when all is done: asked to stop, we exit with 0."""
        loop, numbers = asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)
