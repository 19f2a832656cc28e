"""Requests that are read as they come, because they may be larger than what is held in memory.

The batches and the files of the two surfaces are taken in by it. FastAPI only routes and documents them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from fastapi.responses import Response
from pydantic import BaseModel

from relay.core.errors import Surface, TooLarge
from relay.ingress.exchange import ClientGone, Exchange, Receive, Scope, Send

# Taken apart without a pause: of prompts these take 0.1 ms, of nothing but brackets, the worst there is, some 11.
BITE_BYTES = 4 << 10


class Upload(Response):
    """Answers with what ``take`` makes of the request."""

    def __init__(self, surface: Surface, take: Callable[[Exchange], Awaitable[BaseModel]]) -> None:
        super().__init__()
        self._surface = surface
        self._take = take

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with Exchange(scope, receive, send, self._surface) as exchange:
            made = await self._take(exchange)
            await exchange.answer(200, [(b"content-type", b"application/json")], made.model_dump_json().encode())


async def bites(exchange: Exchange, limit_bytes: int) -> AsyncIterator[bytes]:
    """The body in small pieces, others' work in between.  Raises ``TooLarge`` before it reads more than it must."""
    announced = exchange.headers.get(b"content-length")
    if announced is not None and int(announced) > limit_bytes:
        raise _too_large(f"{int(announced)} bytes", limit_bytes)
    size = 0
    while exchange.unread:
        message = await exchange.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        exchange.unread = message["more_body"]
        data = message["body"]
        size += len(data)
        if size > limit_bytes:
            raise _too_large("longer", limit_bytes)
        for at in range(0, len(data), BITE_BYTES):
            yield data[at : at + BITE_BYTES]
            await asyncio.sleep(0)


def _too_large(what: str, limit_bytes: int) -> TooLarge:
    return TooLarge(f"The request body is {what}; the limit is {limit_bytes} bytes.")
