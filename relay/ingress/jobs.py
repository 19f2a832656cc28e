"""The jobs API: where a job stands, its events from any point on, and its cancellation.

FastAPI, for its documentation; only the stream's bytes take the short way past it. Errors are RFC 9457 problem details.
A job of somebody else is answered like one that does not exist.
"""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from relay.broker.queue import JobStatus
from relay.broker.subscriber import Reader
from relay.core.errors import InvalidRequest, NotFound, Unavailable
from relay.core.frame import START, Cursor, Frame, parse_cursor
from relay.core.job import CLAIMED, DISPATCHED, STREAMING, Job
from relay.ingress.documentation import KEY, problems
from relay.ingress.exchange import ClientGone, Exchange, Receive, Scope, Send
from relay.ingress.headers import by_name
from relay.ingress.requests import authenticate, check_scope
from relay.ingress.stream import JobStream, says_nothing
from relay.ingress.watch import Watch
from relay.ingress.wiring import Ingress

# Shorter than the native surfaces' 15 s: browsers read this, and it begins while the job still waits.
KEEP_ALIVE_S = 10.0

_ID = re.compile(r"([a-z0-9]{1,16})-[0-9a-f]{32}", re.ASCII)

# Event numbers pass through Lua, whose numbers are doubles: none of ours is larger.
_LARGEST = 2**53

# An ended job's events are read before the answer begins, since they decide its status. Redis answers in milliseconds.
READ_S = 5.0

_STREAM_EXAMPLE = """retry: 2310

id: 1763760000000-1
event: message_start
data: {"type":"message_start","message":{"id":"msg_01","type":"message","role":"assistant","content":[]}}

: keep-alive

id: 1763760000000-2
event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}
"""

_ID_EXAMPLE = "0-0199a1b2c3d47e5f8a9b0c1d2e3f4a5b"
JobId = Annotated[str, Path(description="As in the header `x-relay-job-id`.", examples=[_ID_EXAMPLE])]


class WorkerView(BaseModel):
    name: str
    pid: int | None


class TimingsView(BaseModel):
    """Unix time in milliseconds; null: not reached."""

    created_ms: int
    claimed_ms: int | None
    dispatched_ms: int | None
    first_event_ms: int | None
    ended_ms: int | None


class ErrorView(BaseModel):
    code: str
    message: str


class LinksView(BaseModel):
    self: str
    stream: str
    cancel: str


class JobView(BaseModel):
    """A job."""

    id: str
    object: Literal["job"] = "job"
    status: Literal["queued", "in_progress", "completed", "failed", "cancelled"]
    state: Literal["queued", "claimed", "dispatched", "streaming", "done", "failed", "cancelled"] = Field(
        description="Where in its life the job is: `dispatched` means that the provider may have been called, "
        "`streaming` that there is output."
    )
    endpoint: str
    model: str = Field(description="As the client named it.")
    provider: str
    stream: bool
    attempt: int = Field(description="Provider calls so far; 0 while the job waits.")
    generation: int = Field(description="Names the attempt; the first part of its event ids.")
    last_event: str | None = Field(description="Id of the newest event.", examples=["1763760000000-12"])
    http_status: int | None = Field(description="The provider's.")
    usage_kind: Literal["final", "partial", "unknown"] | None = Field(
        description="What is known of the attempt's cost; null until it has ended."
    )
    worker: WorkerView | None = Field(description="Who runs it; null when nobody does.")
    timings: TimingsView
    error: ErrorView | None
    links: LinksView

    @classmethod
    def of(cls, status: JobStatus) -> JobView:
        job, here = status.job, f"/v1/jobs/{status.job.id}"
        running = status.state in (CLAIMED, DISPATCHED, STREAMING)
        return cls.model_validate(
            {
                "id": job.id,
                "status": status.status,
                "state": status.state,
                "endpoint": job.endpoint,
                "model": job.model,
                "provider": job.provider,
                "stream": job.stream,
                "attempt": status.attempts,
                "generation": status.generation,
                "last_event": f"{status.generation}-{status.sequence}" if status.sequence else None,
                "http_status": status.http_status,
                "usage_kind": status.usage_kind,
                "worker": {"name": status.worker, "pid": status.worker_pid} if running else None,
                "timings": {
                    "created_ms": job.created_ms,
                    "claimed_ms": status.claimed_ms,
                    "dispatched_ms": status.dispatched_ms,
                    "first_event_ms": status.first_ms,
                    "ended_ms": status.ended_ms,
                },
                "error": {"code": status.error, "message": status.message or ""} if status.error else None,
                "links": {"self": here, "stream": f"{here}/stream", "cancel": f"{here}/cancel"},
            }
        )


class Jobs:
    """The endpoints below ``/v1/jobs``."""

    def __init__(self, ingress: Ingress) -> None:
        self._ingress = ingress

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"], dependencies=KEY)
        router.add_api_route(
            "", self.show, methods=["GET"], summary="Where a job stands", responses=problems(401, 403, 404, 503)
        )
        router.add_api_route(
            "/cancel",
            self.cancel,
            methods=["POST"],
            summary="Cancel a job",
            description="At once while it waits; a running one ends when its worker hears of it. "
            "Asking again changes nothing.",
            responses=problems(401, 403, 404, 503),
        )
        router.add_api_route(
            "/stream",
            self.stream,
            methods=["GET"],
            summary="A job's events",
            description="Server-sent events with an `id` each, in the dialect the job came in by: from the first, or "
            "behind `Last-Event-ID`, while the job runs and until its log expires. 204 when nothing is left to see.",
            response_class=Response,
            responses={
                200: {"content": {"text/event-stream": {"example": _STREAM_EXAMPLE}}},
                204: {"description": "It has ended and there is nothing more to see."},
                **problems(400, 401, 403, 404, 410, 503),
            },
        )
        router.add_api_route("/stream", self.stream, methods=["HEAD"], include_in_schema=False)
        return router

    async def show(self, request: Request, job_id: JobId) -> JobView:
        tenant = await self._tenant(request, "jobs:read")
        return JobView.of(await self._ingress.queue.status(self._checked(job_id), tenant))

    async def cancel(self, request: Request, job_id: JobId) -> JobView:
        tenant = await self._tenant(request, "jobs:write")
        return JobView.of(await self._ingress.queue.cancel(self._checked(job_id), tenant))

    async def stream(
        self,
        request: Request,
        job_id: JobId,
        last_event_id: Annotated[str | None, Header(description="The last event seen; EventSource sends it.")] = None,
        from_query: Annotated[
            str | None, Query(alias="last_event_id", description="The same, where no header can be set.")
        ] = None,
    ) -> Response:
        tenant = await self._tenant(request, "jobs:read")
        status = await self._ingress.queue.status(self._checked(job_id), tenant)
        # A reconnecting EventSource still has the query of its first request; the header is newer.
        given = last_event_id or from_query
        cursor = _cursor(given) if given else START
        if request.method == "HEAD":
            return _without_length(Response(media_type="text/event-stream"))
        reader = await self._ingress.subscriber.open(job_id, cursor)
        try:
            first = await _first_of(reader) if status.ended else []
        except BaseException:
            reader.close()
            raise
        if first and says_nothing(first, cursor):
            reader.close()
            return Response(status_code=204)
        return _Events(self._ingress, reader, status.job, first)

    async def _tenant(self, request: Request, scope: str) -> str:
        key = await authenticate(by_name(request.headers.raw), self._ingress.api_keys)
        check_scope(key, scope)
        return key.tenant

    def _checked(self, job_id: str) -> str:
        """An id that can be one of ours: others could name other keys in Redis.  Raises ``NotFound``."""
        match = _ID.fullmatch(job_id)
        if not match or match[1] != self._ingress.settings.partition:
            raise NotFound(f"No job with the id {job_id!r}.")
        return job_id


class _Events(Response):
    """An answer that is sent as it comes."""

    def __init__(self, ingress: Ingress, reader: Reader, job: Job, first: list[Frame]) -> None:
        super().__init__()
        self._ingress = ingress
        self._reader = reader
        self._job = job
        self._first = first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, "relay")
        exchange.job_id, exchange.unread = self._job.id, False
        quiet_s = min(KEEP_ALIVE_S, self._ingress.settings.heartbeat_s)
        watch = Watch(self._reader, exchange, self._ingress.watches, quiet_s)
        try:
            await JobStream(exchange, watch, self._job.surface).send(self._first)
        except ClientGone:
            pass
        except Exception as error:
            await exchange.fail_unforeseen(error)
        finally:
            watch.close()


def _without_length(response: Response) -> Response:
    del response.headers["content-length"]
    return response


async def _first_of(reader: Reader) -> list[Frame]:
    try:
        async with asyncio.timeout(READ_S):
            return await reader.read()
    except TimeoutError:
        raise Unavailable("Redis does not answer.", retry_after_s=2) from None


def _cursor(text: str) -> Cursor:
    """Raises ``InvalidRequest`` for what is no event id of ours."""
    cursor = parse_cursor(text)
    if max(cursor) > _LARGEST:
        raise InvalidRequest(f"Last-Event-ID {text!r} is not an event id of this relay: it is too large.")
    return cursor
