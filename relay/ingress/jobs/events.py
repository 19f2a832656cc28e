"""A job's events over HTTP, from any point on: ``GET /v1/jobs/{id}/stream``.

FastAPI decides and documents; the bytes take the short way past it.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response

from relay.broker.queue import JobStatus
from relay.broker.subscriber import Reader
from relay.core.errors import InvalidRequest, UpstreamProtocolError
from relay.core.frame import START, Cursor, parse_cursor
from relay.core.job import QUEUED
from relay.ingress.documentation import KEY, TOKEN, problems
from relay.ingress.exchange import Exchange, Receive, Scope, Send
from relay.ingress.jobs import snapshot
from relay.ingress.jobs.access import JobId, checked
from relay.ingress.jobs.snapshot import NOTHING, Snapshot
from relay.ingress.jobs.stream_tokens import reader_of
from relay.ingress.stream import JobStream, says_nothing
from relay.ingress.watch import Watch
from relay.ingress.wiring import Ingress

# Shorter than the native surfaces' 15 s: browsers read this, and it begins while the job still waits.
KEEP_ALIVE_S = 10.0

# Event numbers pass through Lua, whose numbers are doubles: none of ours is larger.
_LARGEST = 2**53

# A snapshot's answer is held whole while it is put together; there are answers of 64 MiB.
SNAPSHOTS_IN_HAND = 8

_DESCRIPTION = """Server-sent events with an `id` each, in the dialect the job came in by: from the first, or
behind `Last-Event-ID`, while the job runs and until its log expires. 204 when nothing is left to see.

With `snapshot=1` a reader who has seen nothing gets what was said so far in a few events, pieces of text joined, and
the rest as it comes. Only the last of the few has an `id`: up to there a reader who is cut off starts again."""

_STREAM_EXAMPLE = """retry: 2310

: queued, 12 ahead

id: 1763760000000-1
event: message_start
data: {"type":"message_start","message":{"id":"msg_01","type":"message","role":"assistant","content":[]}}

: keep-alive

id: 1763760000000-2
event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}
"""


class JobStreams:
    """The streams of jobs."""

    def __init__(self, ingress: Ingress) -> None:
        self._ingress = ingress
        self._in_hand = asyncio.Semaphore(SNAPSHOTS_IN_HAND)

    def router(self) -> APIRouter:
        router = APIRouter(tags=["jobs"], dependencies=[*KEY, *TOKEN])
        router.add_api_route(
            "/v1/jobs/{job_id}/stream",
            self.stream,
            methods=["GET"],
            summary="A job's events",
            description=_DESCRIPTION,
            response_class=Response,
            responses={
                200: {"content": {"text/event-stream": {"example": _STREAM_EXAMPLE}}},
                204: {"description": "It has ended and there is nothing more to see."},
                **problems(400, 401, 403, 404, 410, 503),
            },
        )
        router.add_api_route("/v1/jobs/{job_id}/stream", self.stream, methods=["HEAD"], include_in_schema=False)
        return router

    async def stream(
        self,
        request: Request,
        job_id: JobId,
        last_event_id: Annotated[str | None, Header(description="The last event seen; EventSource sends it.")] = None,
        from_query: Annotated[
            str | None, Query(alias="last_event_id", description="The same, where no header can be set.")
        ] = None,
        as_snapshot: Annotated[
            bool, Query(alias="snapshot", description="Begin with the message so far, unless an event was seen.")
        ] = False,
    ) -> Response:
        tenant = await reader_of(self._ingress, request, job_id)
        status = await self._ingress.queue.status(checked(self._ingress, job_id), tenant)
        # A reconnecting EventSource still has the query of its first request; the header is newer.
        given = last_event_id or from_query
        cursor = _cursor(given) if given else START
        if request.method == "HEAD":
            return _without_length(Response(media_type="text/event-stream"))
        reader = await self._ingress.subscriber.open(job_id, cursor)
        try:
            begun = await self._begun(reader, status, as_snapshot)
        except UpstreamProtocolError:
            # Too much to be put together: the reader has read it, so another one begins at the start.
            reader.close()
            reader, begun = await self._ingress.subscriber.open(job_id), NOTHING
        except BaseException:
            reader.close()
            raise
        if begun.frames and says_nothing(begun.frames, cursor):
            reader.close()
            return Response(status_code=204)
        return _Events(self._ingress, reader, status, begun)

    async def _begun(self, reader: Reader, status: JobStatus, as_snapshot: bool) -> Snapshot:
        """What there is to show at once: what was said so far if that is wanted; of an ended job, what is left."""
        if as_snapshot and status.sequence and reader.cursor == START:
            async with self._in_hand:
                return await snapshot.read(reader, status.job.surface, Cursor(status.generation, status.sequence))
        return Snapshot(b"", await snapshot.page_of(reader)) if status.ended else NOTHING


class _Events(Response):
    """An answer that is sent as it comes."""

    def __init__(self, ingress: Ingress, reader: Reader, status: JobStatus, begun: Snapshot) -> None:
        super().__init__()
        self._ingress = ingress
        self._reader = reader
        self._job = status.job
        self._waits = status.state == QUEUED
        self._begun = begun

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, "relay")
        exchange.job_id, exchange.unread = self._job.id, False
        quiet_s = min(KEEP_ALIVE_S, self._ingress.settings.heartbeat_s)
        watch = Watch(self._reader, exchange, self._ingress.watches, quiet_s)
        ahead = partial(self._ingress.line.ahead, self._job) if self._waits else None
        stream = JobStream(exchange, watch, self._job.surface, ahead)
        try:
            async with exchange:
                await stream.open(self._begun.events)
                frames, self._begun = self._begun.frames, NOTHING  # a snapshot may be large, and the end an hour away
                await stream.send(frames)
        finally:
            watch.close()


def _without_length(response: Response) -> Response:
    del response.headers["content-length"]
    return response


def _cursor(text: str) -> Cursor:
    """Raises ``InvalidRequest`` for what is no event id of ours."""
    cursor = parse_cursor(text)
    if max(cursor) > _LARGEST:
        raise InvalidRequest(f"Last-Event-ID {text!r} is not an event id of this relay: it is too large.")
    return cursor
