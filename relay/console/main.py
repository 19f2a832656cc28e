"""The console process: ``relay console``. The usage API and the dashboard, apart from the ingress and its streams."""

from __future__ import annotations

import socket
from types import FrameType

import uvicorn

from relay import serving
from relay.console.app import application
from relay.console.wiring import Console
from relay.settings import Settings

# Live pages are told to end at once; an export that is under way may take so long.
CLOSING_S = 5


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; returns when everything is done."""
    app = application(console := Console(settings))
    config = serving.config(
        app, settings.host, settings.console_port, http="httptools", timeout_graceful_shutdown=CLOSING_S
    )
    Server(config, console).run()


class Server(serving.Server):
    """Tells the live pages when it is time."""

    name = "console"

    def __init__(self, config: uvicorn.Config, console: Console) -> None:
        super().__init__(config)
        self._console = console

    async def begin(self) -> None:
        await self._console.start()

    async def end(self) -> None:
        await self._console.close()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._console.stopping.set()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit  # a second signal waits for nobody
        self.should_exit = True
