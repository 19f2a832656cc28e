"""The jobs API: which jobs there are, where one stands, and its cancellation.

How a job comes in, its events and its result have modules of their own (``job_submission``, ``job_stream``,
``job_result``). FastAPI, for its documentation; errors are RFC 9457 problem details. A job of somebody else is answered
like one that does not exist.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

from relay.broker.listing import Filter
from relay.broker.queue import JobStatus
from relay.core.errors import InvalidRequest
from relay.ingress.documentation import KEY, TOKEN, problems
from relay.ingress.jobs.access import JobId, checked, is_job_id, key_of
from relay.ingress.jobs.new_job import Moment, unix_ms
from relay.ingress.jobs.stream_tokens import reader_of
from relay.ingress.jobs.views import JobList, JobView, Status
from relay.ingress.jobs.wait import Waiting, Wish
from relay.ingress.prefer import prefer
from relay.ingress.wiring import Ingress

Pairs = Annotated[
    list[str],
    Query(alias="metadata", max_length=16, description="`key=value`, as often as there are pairs a job must have."),
]


class Jobs:
    """The list of jobs, and each of them."""

    def __init__(self, ingress: Ingress) -> None:
        self._ingress = ingress

    def router(self) -> APIRouter:
        router = APIRouter(tags=["jobs"], dependencies=KEY)
        router.add_api_route(
            "/v1/jobs",
            self.all,
            methods=["GET"],
            summary="Jobs, newest first",
            description="Of the API key's tenant, as long as they are kept.",
            responses=problems(400, 401, 403, 503),
        )
        router.add_api_route(
            "/v1/jobs/{job_id}",
            self.show,
            methods=["GET"],
            summary="Where a job stands",
            response_model=JobView,
            dependencies=TOKEN,
            responses=problems(401, 403, 404, 503),
        )
        router.add_api_route(
            "/v1/jobs/{job_id}/cancel",
            self.cancel,
            methods=["POST"],
            summary="Cancel a job",
            description="At once while it waits; a running one ends when its worker hears of it. "
            "Asking again changes nothing.",
            responses=problems(401, 403, 404, 503),
        )
        return router

    async def all(
        self,
        request: Request,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        after: Annotated[str, Query(description="The `last_id` of the page before.")] = "",
        status: Status | None = None,
        model: Annotated[str, Query(description="As the client named it.")] = "",
        created_from: Annotated[Moment | None, Query(description="RFC 3339.")] = None,
        created_before: Annotated[Moment | None, Query(description="RFC 3339.")] = None,
        metadata: Pairs = [],  # noqa: B006 - FastAPI copies it
    ) -> JobList:
        key = await key_of(self._ingress, request, "jobs:read")
        if after and not is_job_id(self._ingress, after):
            raise InvalidRequest(f"after: {after[:80]!r} is not the id of a job.", param="after")
        wanted = Filter(
            status=status or "",
            model=model,
            from_ms=None if created_from is None else unix_ms(created_from),
            before_ms=None if created_before is None else unix_ms(created_before),
            metadata=_pairs(metadata),
        )
        page = await self._ingress.listing.page(key.tenant, wanted, after, limit)
        data = [JobView.of(found) for found in page.jobs]
        first = data[0].id if data else None
        return JobList(data=data, first_id=first, last_id=page.last or None, has_more=page.more)

    async def show(self, request: Request, job_id: JobId, wish: Wish = "") -> Response:
        tenant = await reader_of(self._ingress, request, job_id)
        status = await self._ingress.queue.status(checked(self._ingress, job_id), tenant)
        wait_s = prefer(wish.encode("latin-1")).wait_s
        if wait_s and not status.ended:
            return Waiting(self._ingress, status, wait_s, _shown)
        return await _shown(status)

    async def cancel(self, request: Request, job_id: JobId) -> JobView:
        key = await key_of(self._ingress, request, "jobs:write")
        return JobView.of(await self._ingress.queue.cancel(checked(self._ingress, job_id), key.tenant))


async def _shown(status: JobStatus) -> Response:
    return JSONResponse(JobView.of(status).model_dump())


def _pairs(given: list[str]) -> dict[str, str]:
    """Raises ``InvalidRequest`` for what is no pair."""
    pairs = dict(pair.split("=", 1) for pair in given if "=" in pair)
    if wrong := [pair for pair in given if "=" not in pair]:
        raise InvalidRequest(f"metadata: {wrong[0][:80]!r} is not of the form key=value.", param="metadata")
    return pairs
