"""The console process: ``relay console``. The usage API and the dashboard, apart from the ingress and its streams."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Iterator
from types import FrameType

import uvicorn

from relay import process
from relay.console.app import application
from relay.console.wiring import Console
from relay.settings import Settings

# Live pages are told to end at once; an export that is under way may take so long.
CLOSING_S = 5


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; returns when everything is done."""
    console = Console(settings)
    config = uvicorn.Config(
        application(console),
        host=settings.host,
        port=settings.console_port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=CLOSING_S,
    )
    Server(config, console).run()


class Server(uvicorn.Server):
    """uvicorn's, with the console's beginning and end."""

    def __init__(self, config: uvicorn.Config, console: Console) -> None:
        super().__init__(config)
        self._console = console

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self._console.start()
        await super().startup(sockets)
        process.settle()
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        sys.stdout.write(f"ready console http://{f'[{host}]' if ':' in host else host}:{port}\n")
        sys.stdout.flush()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._console.stopping.set()
        await super().shutdown(sockets)
        await self._console.close()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit  # a second signal waits for nobody
        self.should_exit = True

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
