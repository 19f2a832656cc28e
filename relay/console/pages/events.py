"""Server-sent events of the dashboard: an answer that goes on until its reader leaves or the console stops."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any, Final

import orjson
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from relay.console.wiring import Console
from relay.core.errors import Unavailable

# Shorter than the patience of any proxy.
QUIET_S: Final = 15.0
# Pages that are looked at; each costs a question to Redis a second.
MOST_OPEN: Final = 200

_HEADERS: Final = {"cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}


def event(name: str, data: Any, id_: str = "") -> bytes:
    """Data goes out as JSON, which has no line break."""
    head = f"id: {id_}\n" if id_ else ""
    return f"{head}event: {name}\ndata: ".encode() + orjson.dumps(data) + b"\n\n"


class LiveEvents(Response):
    """Sends what ``events`` gives; nothing else reads the request, so we hear it when the client leaves.

    Raises ``Unavailable`` where too many pages are open.
    """

    def __init__(self, console: Console, events: AsyncGenerator[bytes, None]) -> None:
        if console.live_pages >= MOST_OPEN:
            raise Unavailable("Too many pages are open here.", retry_after_s=10)
        super().__init__(media_type="text/event-stream", headers=_HEADERS)
        del self.headers["content-length"]
        self._console = console
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._console.live_pages += 1
        sending = asyncio.create_task(self._send(send))
        ends = [sending, asyncio.create_task(_left(receive)), asyncio.create_task(self._console.stopping.wait())]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._console.live_pages -= 1
            for task in ends:
                task.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
        if sending.cancelled():
            with contextlib.suppress(OSError):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            sending.result()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": b"retry: 2000\n\n", "more_body": True})
        async for piece in self._with_comments():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _with_comments(self) -> AsyncGenerator[bytes, None]:
        """The events, and a comment after every silence."""
        following: asyncio.Task[bytes] | None = None
        try:
            while True:
                following = following or asyncio.create_task(anext(self._events))
                done, _ = await asyncio.wait([following], timeout=QUIET_S)
                if not done:
                    yield b": still here\n\n"
                    continue
                try:
                    yield following.result()
                except StopAsyncIteration:
                    return
                following = None
        finally:
            if following is not None:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
            await self._events.aclose()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
