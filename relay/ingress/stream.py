"""A job's frames as HTTP: the provider's own answer on the native surfaces, numbered events on a job's stream.

Bytes go out as they are in the frames; only a job's stream adds ``id:`` lines. The native surfaces cannot have them:
the OpenAI Python SDK breaks on a comment that follows one.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple

import orjson

from relay.core.errors import RelayError, Surface, Unavailable, UpstreamProtocolError, event_of, from_code
from relay.core.frame import BODY, END, EVENTS, HEAD, Cursor, Frame, split_events
from relay.core.job import Dialect
from relay.ingress.exchange import Exchange
from relay.ingress.headers import EVENT_STREAM, UNBUFFERED, HeaderList, from_provider
from relay.ingress.watch import Watch

# OpenAI's SDK takes a comment only inside an event: a line that is followed by no blank one.
_COMMENT = b": keep-alive\n\n"
KEEP_ALIVE: dict[Surface, bytes] = {"anthropic": _COMMENT, "openai": b": ping\n", "relay": _COMMENT}

# EventSource comes back after so long. Spread, or all readers of a restarted ingress would be back in one moment.
RETRY_MS = (1000, 5000)

Ahead = Callable[[], Awaitable[int | None]]

_LINE_END = re.compile(rb"\r\n|\r|\n")


class Head(NamedTuple):
    """How the provider's answer began."""

    status: int
    headers: list[tuple[str, str]]
    is_stream: bool

    @classmethod
    def decode(cls, data: bytes) -> Head:
        head = orjson.loads(data)
        status, headers = head["status"], head["headers"]
        if not 200 <= status < 600:
            status = UpstreamProtocolError.status  # there are servers that answer 999; HTTP has no such thing to say
        types = [value for name, value in headers if name == "content-type"]
        return cls(status, headers, status == 200 and bool(types) and types[0].lower().startswith("text/event-stream"))

    def without_headers(self) -> Head:
        """For as long as a stream is open; they have been sent."""
        return self._replace(headers=[])


class NativeAnswer:
    """The provider's answer on the surface where the request came in.

    Nothing is answered before the provider has, so that its 401 stays a 401. Only if that takes longer than the watch
    has patience, a 200 goes out without it, and whatever comes has to fit into that.
    """

    __slots__ = ("_body", "_exchange", "_extra", "_head", "_heartbeat_s", "_watch")

    def __init__(self, exchange: Exchange, watch: Watch, heartbeat_s: float, extra: HeaderList) -> None:
        self._exchange = exchange
        self._watch = watch
        self._heartbeat_s = heartbeat_s
        self._extra = extra
        self._head: Head | None = None
        self._body: list[bytes] = []  # of an answer that is no stream; workers take none above 64 MiB

    async def send(self) -> None:
        """From the first frame to the last.  Raises the ``RelayError`` that ended the job, if one did."""
        exchange, read = self._exchange, self._watch.read
        while True:
            frames = await read()
            events = [frame.data for frame in frames if frame.kind == EVENTS]
            if len(events) == len(frames):
                data = events[0] if len(events) == 1 else b"".join(events)
            elif frames[-1].kind == END:
                await self._others(frames[:-1])
                return await self._end(orjson.loads(frames[-1].data), b"".join(events))
            else:
                await self._others(frames)
                data = b"".join(events)
            if data:
                exchange.first_s = exchange.first_s or time.perf_counter()
                await exchange.write(data)
            elif not frames:
                await self._keep_alive()
            del frames, events, data  # an event may be 16 MiB, and the next one an hour away

    async def _others(self, frames: list[Frame]) -> None:
        """What is no event.  A second head is that of a second attempt, of which the client need not know."""
        exchange = self._exchange
        for frame in frames:
            if frame.kind == HEAD:
                self._head = head = Head.decode(frame.data)
                self._body.clear()
                if head.is_stream and not exchange.begun:
                    headers = from_provider(head.headers, stream=True)
                    await exchange.begin(200, [*headers, *UNBUFFERED, *self._extra])
                    self._watch.expect(self._heartbeat_s)
                    self._head = head.without_headers()
            elif frame.kind == BODY:
                self._body.append(frame.data)

    async def _keep_alive(self) -> None:
        exchange = self._exchange
        if not exchange.begun and self._head is not None:
            return  # the rest of an answer that is no stream is on its way
        if not exchange.begun:
            await exchange.begin(200, [*EVENT_STREAM, *self._extra])
            self._watch.expect(self._heartbeat_s)
        await exchange.write(KEEP_ALIVE[exchange.surface])

    async def _end(self, end: dict[str, Any], events: bytes) -> None:
        exchange, head = self._exchange, self._head
        if error := error_in(end):
            if events and exchange.begun:
                await exchange.write(events)
            raise error
        if head is None:
            raise UpstreamProtocolError("The job ended without an answer.")
        if head.is_stream:
            await exchange.end(events)
        elif exchange.begun:
            await exchange.end(as_error(exchange.surface, head, b"".join(self._body)))
        else:
            headers = from_provider(head.headers, stream=False)
            await exchange.answer(head.status, [*headers, *self._extra], b"".join(self._body))


class JobStream:
    """A job's events with their ids, for whoever asks, from wherever they are.

    Errors take the form of the surface where the job came in, as everything in the stream does. ``ahead`` is asked how
    many jobs come before this one, as long as it waits; None for a job that does not.
    """

    __slots__ = ("_ahead", "_body", "_exchange", "_head", "_surface", "_watch")

    def __init__(self, exchange: Exchange, watch: Watch, surface: Dialect, ahead: Ahead | None = None) -> None:
        self._exchange = exchange
        self._watch = watch
        self._surface = surface
        self._ahead = ahead
        self._head: Head | None = None
        self._body: list[bytes] = []

    async def open(self, snapshot: bytes = b"") -> None:
        """Begin the answer; ``snapshot`` are finished events, with their id, that go before all others."""
        await self._exchange.begin(200, list(EVENT_STREAM))
        place = await self._comment() if self._ahead else b""
        await self._exchange.write(b"retry: %d\n\n" % random.randint(*RETRY_MS) + snapshot + place)

    async def send(self, first: list[Frame]) -> None:
        """The rest, to the last frame; ``first`` are frames that were read already."""
        exchange, watch = self._exchange, self._watch
        try:
            frames = first
            while not frames or frames[-1].kind != END:
                if ready := b"".join(map(self._shown, frames)):
                    await exchange.write(ready)
                frames = await watch.read()
                if not frames:
                    await exchange.write(await self._comment())
            await exchange.end(b"".join(map(self._shown, frames)))
        except RelayError as error:
            # A process that leaves ends the connection without a word: EventSource comes back, to another one.
            await exchange.end(b"" if watch.stopped else event_of(error, self._surface, exchange.job_id))

    async def _comment(self) -> bytes:
        """A sign of life, and while the job waits its place."""
        if self._ahead is not None and self._head is None:
            with suppress(Unavailable):
                ahead = await self._ahead()
                if ahead is not None:
                    return b": queued, %d ahead\n\n" % ahead
        return KEEP_ALIVE["relay"]

    def _shown(self, frame: Frame) -> bytes:
        if frame.kind == EVENTS:
            return numbered(frame)
        if frame.kind == BODY:
            self._body.append(frame.data)
        elif frame.kind == HEAD:
            self._head = Head.decode(frame.data).without_headers()
            self._body.clear()
        elif event := self._last_event(frame):
            return id_line(frame.cursor) + event
        return b""

    def _last_event(self, frame: Frame) -> bytes:
        """What remains to be said at the end: an error, or an answer that was no stream."""
        if error := error_in(orjson.loads(frame.data)):
            return event_of(error, self._surface, self._exchange.job_id)
        if self._head is None or self._head.is_stream:
            return b""
        body = b"".join(self._body)
        return _event(body) if self._head.status < 400 else as_error(self._surface, self._head, body)


def error_in(end: dict[str, Any]) -> RelayError | None:
    """The error a reader must be shown, if the provider's own bytes did not tell it."""
    told = end.get("error")
    if not told:
        return None
    error = from_code(told["code"], told["message"])
    error.param = told.get("param")
    error.was_retried = told.get("was_retried", False)
    return error


def says_nothing(frames: list[Frame], cursor: Cursor) -> bool:
    """Whether these frames of an ended job show a reader who stands at ``cursor`` nothing new."""
    end = frames[0]
    return end.kind == END and (end.cursor == cursor or error_in(orjson.loads(end.data)) is None)


def numbered(frame: Frame) -> bytes:
    """The events of a frame, each behind its id."""
    first = frame.follows + 1
    return b"".join(
        [
            id_line(Cursor(frame.generation, number)) + event
            for number, event in enumerate(split_events(frame), start=first)
        ]
    )


def id_line(cursor: Cursor) -> bytes:
    return b"id: %d-%d\n" % cursor


def as_error(surface: Dialect | Surface, head: Head, body: bytes) -> bytes:
    """A provider's whole answer, where only an event can still be sent: its own error object if it is one."""
    if head.status < 400:
        return event_of(UpstreamProtocolError("The provider answered a streaming request without a stream."), surface)
    try:
        is_object = isinstance(orjson.loads(body), dict)
    except ValueError:
        is_object = False
    if not is_object:
        return event_of(UpstreamProtocolError(f"The provider answered {head.status}, and not in JSON."), surface)
    return _event(body, b"" if surface == "openai" else b"event: error\n")


def _event(text: bytes, name: bytes = b"") -> bytes:
    """Any text as the data of one event, which puts its lines together again."""
    return name + b"".join([b"data: %b\n" % line for line in _LINE_END.split(text)]) + b"\n"
