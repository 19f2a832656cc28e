"""A reader of server-sent events over a raw socket, written from the WHATWG rules and not from ``relay.core.sse``.

It is what a careful client would be: it remembers ids, comments and every byte, so that tests can compare them.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from typing import Any, NamedTuple

from tests.support import http


class SseEvent(NamedTuple):
    id: str
    name: str
    data: str

    @property
    def json(self) -> Any:
        return json.loads(self.data)


def parse(body: bytes) -> list[tuple[str, str]]:
    """Name and data of every event in a whole body, by the letter of the WHATWG rules."""
    events = []
    name = ""
    data: list[str] = []
    text = body.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    for line in re.split(r"\r\n|\n|\r", text):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            events += [(name, "\n".join(data))] if data else []
            name, data = "", []
        elif field == "event":
            name = value
        elif field == "data":
            data.append(value)
    return events


class SseReader:
    """An open event stream: ``async for event in reader``; ``received`` are the body's bytes so far."""

    def __init__(self, exchange: http.Exchange) -> None:
        self.status = exchange.status
        self.headers = exchange.headers
        self.received = b""
        self.comments: list[str] = []
        self.last_id = ""
        self.arrivals: list[float] = []
        self._exchange = exchange
        self._events = self._parse()

    @classmethod
    async def open(
        cls,
        port: int,
        path: str,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
        *,
        last_event_id: str = "",
        receive_buffer: int | None = None,
    ) -> SseReader:
        """POST when there is a body, else GET; waits for the head of the answer."""
        lines = [*headers, *([("last-event-id", last_event_id)] if last_event_id else [])]
        raw = http.render("GET" if body is None else "POST", path, lines, body)
        return cls(await http.Exchange.open(port, raw, receive_buffer=receive_buffer))

    @property
    def job_id(self) -> str:
        return self.headers.get("x-relay-job-id") or ""

    def __aiter__(self) -> AsyncIterator[SseEvent]:
        return self._events

    async def next(self, timeout_s: float = 15.0) -> SseEvent:
        """The next event.  ``EOFError`` when the stream ended without one."""
        async with asyncio.timeout(timeout_s):
            try:
                return await anext(self._events)
            except StopAsyncIteration:
                raise EOFError("the stream has ended") from None

    async def take(self, count: int, timeout_s: float = 15.0) -> list[SseEvent]:
        return [await self.next(timeout_s) for _ in range(count)]

    async def rest(self, timeout_s: float = 30.0) -> list[SseEvent]:
        """Every event up to the end of the stream."""
        async with asyncio.timeout(timeout_s):
            return [event async for event in self._events]

    async def close(self) -> None:
        await self._exchange.close()
        await self._events.aclose()

    async def __aenter__(self) -> SseReader:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _parse(self) -> AsyncGenerator[SseEvent, None]:
        name = ""
        data: list[str] = []
        clock = asyncio.get_running_loop().time
        async with aclosing(self._lines()) as lines:
            async for line in lines:
                field, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if not line:
                    if data:
                        self.arrivals.append(clock())
                        yield SseEvent(self.last_id, name, "\n".join(data))
                    name, data = "", []
                elif not field:
                    self.comments.append(value)
                elif field == "event":
                    name = value
                elif field == "data":
                    data.append(value)
                elif field == "id":
                    self.last_id = value

    async def _lines(self) -> AsyncGenerator[str, None]:
        pending = b""
        async with aclosing(self._exchange.pieces()) as pieces:
            async for piece in pieces:
                self.received += piece
                *lines, pending = (pending + piece).split(b"\n")
                for line in lines:
                    yield line.decode("utf-8", "replace").removesuffix("\r")
