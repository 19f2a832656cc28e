"""A job's result: the provider's answer as its own API would have given it, for as long as the job is kept.

An answer that streamed is shown as if it had not. What failed is answered with the provider's own error, or with ours
in the form of the surface where the job came in.
"""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from relay.broker.queue import JobStatus
from relay.broker.results import Answer
from relay.core.errors import BY_CODE, UpstreamProtocolError, from_code
from relay.core.job import DONE
from relay.core.translate.errors_between import kept_error
from relay.ingress.documentation import KEY, problems
from relay.ingress.exchange import error_headers
from relay.ingress.headers import HeaderList, from_provider
from relay.ingress.jobs.access import JobId, checked, key_of
from relay.ingress.jobs.views import JobView
from relay.ingress.jobs.wait import Waiting, Wish
from relay.ingress.prefer import prefer
from relay.ingress.wiring import Ingress

# An answer may have 64 MiB, and is held whole.
RESULTS_IN_HAND = 8
RETRY_AFTER_S = 2

_JSON: HeaderList = [(b"content-type", b"application/json")]
# What is still true of an answer a day later; its rate limits are not.
_LASTING = frozenset({b"content-type", b"request-id", b"x-request-id"})

_DESCRIPTION = """The provider's status, content type and body; of an answer that streamed, the body it would have had
unstreamed. A failed job answers with the provider's error, or with the relay's own in the form of the surface, and
its status. 202 with the job while it has not ended."""


class JobResults:
    """The results of jobs."""

    def __init__(self, ingress: Ingress) -> None:
        self._ingress = ingress
        self._in_hand = asyncio.Semaphore(RESULTS_IN_HAND)

    def router(self) -> APIRouter:
        router = APIRouter(tags=["jobs"], dependencies=KEY)
        router.add_api_route(
            "/v1/jobs/{job_id}/result",
            self.result,
            methods=["GET"],
            summary="A job's result",
            description=_DESCRIPTION,
            response_class=Response,
            responses={
                200: {"description": "The provider's answer.", "content": {"application/json": {}}},
                202: {"description": "It has not ended.", "model": JobView},
                "4XX": {"description": "The provider's error, or the relay's own in the form of the surface."},
                "5XX": {"description": "The provider's error, or the relay's own in the form of the surface."},
                **problems(401, 403, 404, 410, 503),
            },
        )
        return router

    async def result(self, request: Request, job_id: JobId, wish: Wish = "") -> Response:
        key = await key_of(self._ingress, request, "jobs:read")
        status = await self._ingress.queue.status(checked(self._ingress, job_id), key.tenant)
        wait_s = prefer(wish.encode("latin-1")).wait_s
        if wait_s and not status.ended:
            return Waiting(self._ingress, status, wait_s, self._answer)
        return await self._answer(status)

    async def _answer(self, status: JobStatus) -> Response:
        if not status.ended:
            return JSONResponse(JobView.of(status).model_dump(), 202, {"retry-after": str(RETRY_AFTER_S)})
        results, job = self._ingress.results, status.job
        async with self._in_hand:
            answer = await (results.of(job) if status.state == DONE else results.refusal(job))
        if answer is None:
            return _failure(status)
        headers = [pair for pair in from_provider(answer.headers, stream=False) if pair[0].lower() in _LASTING]
        return _response(status, answer, headers)


def _failure(status: JobStatus) -> Response:
    """The error of a job whose provider's own answer does not tell it, or is not kept any more."""
    job, code, message = status.job, status.error or "internal", status.message or ""
    shown = kept_error(job.surface, code, message, status.http_status, job.id)
    ours = error_headers(from_code(code, message), job.surface, job.id) if code in BY_CODE else _JSON
    return _response(status, Answer(shown.status, [], shown.body), ours)


def _response(status: JobStatus, answer: Answer, headers: HeaderList) -> Response:
    # There are servers that answer 999; HTTP has no such thing to say.
    response = Response(answer.body, answer.status if 200 <= answer.status < 600 else UpstreamProtocolError.status)
    response.raw_headers += [*headers, (b"x-relay-job-id", status.job.id.encode())]
    return response
