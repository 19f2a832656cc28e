"""The ingress process: ``relay serve``.

Its way out is as defined as its way in: SIGTERM makes it not ready, then closes the door, then waits for the streams
that are open; what is not done after ``drain_s`` is told so. A second signal cuts the waiting short.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from types import FrameType
from typing import Literal

import uvicorn
from starlette.types import ASGIApp

from relay import serving, telemetry
from relay.core.errors import RelayError
from relay.core.origins import origins_of
from relay.ingress.app import App
from relay.ingress.batches.runner import BatchRunner
from relay.ingress.cors import Cors
from relay.ingress.protocol import Connection
from relay.ingress.watch import stop_all
from relay.ingress.wiring import Ingress
from relay.settings import Settings

# Longer than any load balancer's idle time we know of (AWS: 60 s), so that it is never us who close first.
KEEP_ALIVE_S = 75
BACKLOG = 4096

# Between "not ready" and the closed door, if anybody is connected at all: the time a prober needs to notice.
NOTICE_S = 1.0

# After the drain, for the last bytes to leave.
CLOSING_S = 5


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; returns when everything is done."""
    app: ASGIApp = App(ingress := Ingress(settings))
    if origins := origins_of(settings.cors_origins):
        app = Cors(app, origins)
    if traces := telemetry.start("ingress"):
        from relay.ingress.tracing import Traced  # which takes long to import, and is rarely wanted

        app = Traced(app, traces)
    config = serving.config(
        app,
        settings.host,
        settings.port,
        http=Connection,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=CLOSING_S,
    )
    try:
        Server(config, ingress).run()
    finally:
        if traces:
            traces.close()


class Server(serving.Server):
    """Lets the streams that are open end, within bounds."""

    name = "ingress"

    def __init__(self, config: uvicorn.Config, ingress: Ingress) -> None:
        super().__init__(config)
        self._ingress = ingress
        self._hurry = asyncio.Event()

    async def begin(self) -> None:
        try:
            await self._ingress.start()
            self._ingress.run_beside(BatchRunner(self._ingress).run())
        except RelayError as error:
            raise SystemExit(f"relay: RELAY_API_KEY: {error.message}") from None

    async def end(self) -> None:
        await self._ingress.close()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._ingress.draining = True
        if self.server_state.connections and not self._hurry.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), NOTICE_S)
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await self._streams_end()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self._hurry.set()
        self._ingress.draining = True
        self.should_exit = True

    async def _streams_end(self) -> None:
        """Wait for what is under way; end what takes too long with an error, and cut what does not take even that."""
        if await self._all_done(self._ingress.settings.drain_s):
            return
        stop_all(self._ingress.watches)
        if not await self._all_done(CLOSING_S):
            for connection in list(self.server_state.connections):
                connection.transport.abort()

    async def _all_done(self, timeout_s: float) -> bool:
        """Whether every request was answered within the time; nobody waits after a second signal."""
        waits = [asyncio.create_task(self._answered()), asyncio.create_task(self._hurry.wait())]
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        return not self.server_state.tasks

    async def _answered(self) -> Literal[True]:
        while self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks)
        return True
