"""The content API: what a job's client sent and what it was answered, where it asked to have that kept.

Prompts are other people's words, so a key that reads usage does not read them: that takes a scope of its own, and
erasing them another. Bodies are shown as they were, byte for byte; a program may compare them with what it sent.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Path, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from relay.console.answers import problems
from relay.console.usage_api import KEY, presented
from relay.console.usage_views import moment
from relay.console.viewer import CONTENT, ERASE_CONTENT, Viewer
from relay.console.wiring import Console
from relay.core import document
from relay.core.errors import InvalidRequest, NotFound
from relay.ledger.contents import Kept, erase, find
from relay.ledger.reading import Connection

PATH: Final = "/v1/usage/jobs/{job_id}/content"

JobId = Annotated[str, Path(examples=["0-0199a1b2c3d47e5f8a9b0c1d2e3f4a5b"], max_length=200, pattern=r"^[^\x00]*$")]


class AnswerView(BaseModel):
    status: int = Field(description="The provider's, or that of the error the relay answered with.")
    body: Any = Field(description="JSON as it was; text where it is none; null if it is not here.")


class ContentView(BaseModel):
    """What was asked and answered."""

    job: str
    state: str = Field(
        description="`stored`; `pending`: the job has not ended, or the ledger is not there yet; `too_big`: a body is "
        "larger than what is kept, `lost`: a body was gone before the ledger came, either is null then.",
        examples=["stored"],
    )
    expires_at: str = Field(description="When it is removed.")
    request_bytes: int | None
    response_bytes: int | None
    request: Any = Field(description="As the client sent it, byte for byte; null if it is not here.")
    response: AnswerView | None = Field(
        description="Of an answer that streamed, the body it would have had unstreamed, as far as it came; null for a "
        "job that was cancelled before."
    )


class ContentApi:
    """``/v1/usage/jobs/{job}/content``."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def router(self) -> APIRouter:
        router = APIRouter(tags=["usage"], dependencies=KEY)
        router.add_api_route(
            PATH,
            self.show,
            methods=["GET"],
            summary="What a job was asked and answered",
            description="For jobs that asked to have it kept (`x-relay-log: content`), as long as it is. Needs the "
            "scope `content:read`.",
            response_model=ContentView,
            responses=problems(401, 403, 404, 503),
        )
        router.add_api_route(
            PATH,
            self.erase,
            methods=["DELETE"],
            status_code=204,
            response_class=Response,
            summary="Forget what a job was asked and answered",
            description="At once and for good; its usage stays. Needs the scope `content:write`.",
            responses=problems(401, 403, 404, 503),
        )
        return router

    async def show(self, request: Request, job_id: JobId) -> Response:
        viewer = await self._viewer(request, CONTENT)
        answer = await self._console.ledger(partial(_answer, job_id=job_id, tenant=viewer.tenant))
        return Response(answer, media_type="application/json")

    async def erase(self, request: Request, job_id: JobId) -> Response:
        viewer = await self._viewer(request, ERASE_CONTENT)
        if not await self._console.change(partial(erase, job=job_id, tenant=viewer.tenant)):
            raise not_kept(job_id)
        return Response(status_code=204)

    async def _viewer(self, request: Request, scope: str) -> Viewer:
        viewer = Viewer(await self._console.api_keys.authenticate(presented(request)))
        viewer.require(scope)
        return viewer


def not_kept(job_id: str) -> NotFound:
    return NotFound(f"No content is kept of a job with the id {job_id[:80]!r}.")


def _answer(connection: Connection, job_id: str, tenant: str | None) -> bytes:
    """Made beside the event loop: bodies may be large.  Raises ``NotFound``."""
    kept = find(connection, job_id, tenant)
    if kept is None:
        raise not_kept(job_id)
    return as_json(kept)


def as_json(kept: Kept) -> bytes:
    """A ``ContentView``; the bodies go in as they are."""
    facts = {"job": kept.job, "state": kept.state, "expires_at": moment(kept.expires_ms)}
    sizes = {"request_bytes": kept.request_bytes, "response_bytes": kept.response_bytes}
    response = b"null"
    if kept.status is not None:
        response = b'{"status":%d,"body":%b}' % (kept.status, _value(kept.response))
    head = orjson.dumps(facts | sizes)[:-1]
    return b'%b,"request":%b,"response":%b}' % (head, _value(kept.request), response)


def _value(body: bytes | None) -> bytes:
    """A body as a JSON value: itself if it is one, else its text."""
    if body is None:
        return b"null"
    try:
        document.parse(body)
    except InvalidRequest:
        return orjson.dumps(body.decode(errors="replace"))
    return body
