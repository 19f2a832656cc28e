"""The queue, live: what waits, runs and failed; lanes and workers; and the jobs, which can be cancelled and replayed.

Redis tells nobody what changes there, so an open page has it asked once a second, and is sent what has changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from relay.broker.keys import partition_of
from relay.broker.lanes import Lane
from relay.broker.listing import Filter
from relay.broker.queue import JobStatus
from relay.console.pages import DASHBOARD
from relay.console.pages.events import LiveEvents, event
from relay.console.pages.overview import ingress_url
from relay.console.pages.period import now_ms
from relay.console.pages.site import LoginNeeded, Site, Visit
from relay.console.viewer import JOBS, MANAGE_JOBS, Viewer
from relay.core.errors import Conflict, InvalidRequest, NotFound, RelayError
from relay.core.job import FAILED, QUEUED, STATUS, new_id

ROWS: Final = 50
LOOK_EVERY_S: Final = 1.0
STATUSES: Final = tuple(dict.fromkeys(STATUS.values()))
# Counters that a worker keeps; those that tell of trouble come last.
COUNTERS: Final = {
    "open_streams": "running",
    "jobs": "done",
    "requeued": "requeued",
    "interrupted": "interrupted",
    "worker_lost": "workers lost",
    "targets_out": "targets out",
}


@dataclass(frozen=True, slots=True)
class Queued:
    """The queue at one moment; of a tenant, only what is theirs."""

    waiting: int
    running: int
    dead: int
    lanes: list[Lane]
    workers: dict[str, dict[str, float]]


class JobsPage:
    def __init__(self, site: Site) -> None:
        self._site = site

    def router(self) -> APIRouter:
        router = APIRouter()
        router.add_api_route(f"{DASHBOARD}/jobs", self.show, methods=["GET"])
        router.add_api_route(f"{DASHBOARD}/jobs/live", self.live, methods=["GET"])
        router.add_api_route(f"{DASHBOARD}/jobs/{{job_id}}/cancel", self.cancel, methods=["POST"])
        router.add_api_route(f"{DASHBOARD}/jobs/{{job_id}}/replay", self.replay, methods=["POST"])
        return router

    async def show(self, request: Request) -> Response:
        visit = await self._site.visit(request, JOBS)
        query = {name: value for name, value in request.query_params.items() if value}
        return self._site.page(
            "jobs.html",
            visit,
            statuses=STATUSES,
            query=query,
            tenants=await self._site.tenants(visit.viewer),
            live="" if "after" in query else f"{DASHBOARD}/jobs/live?{urlencode(query)}",
            ingress=ingress_url(self._site, request),
            fragment=await self._fragment(visit),
        )

    async def live(self, request: Request) -> Response:
        visit = await self._site.visit(request, JOBS)
        _wanted(visit)
        return LiveEvents(self._site.console, self._changes(visit))

    async def _changes(self, visit: Visit) -> AsyncGenerator[bytes, None]:
        shown = ""
        while True:
            try:
                await self._site.visit(visit.request, JOBS)  # a key may be revoked while its page is open
                fragment = await self._fragment(visit)
            except LoginNeeded:
                return
            except RelayError as error:
                yield event("trouble", error.message)
            else:
                if fragment != shown:
                    shown = fragment
                    yield event("jobs", fragment)
            await asyncio.sleep(LOOK_EVERY_S)

    async def _fragment(self, visit: Visit) -> str:
        """The part of the page that changes."""
        after = visit.request.query_params.get("after", "")
        if after and partition_of(after) != self._site.console.settings.partition:
            raise InvalidRequest(f"after: {after[:80]!r} is not the id of a job", param="after")
        jobs, last = await self._jobs(visit.viewer, *_wanted(visit), after)
        query = {name: value for name, value in visit.request.query_params.items() if value} | {"after": last}
        older = f"{DASHBOARD}/jobs?{urlencode(query)}" if last else ""
        return self._site.render(
            "_jobs.html",
            visit,
            queued=await self._queued(visit.viewer),
            jobs=jobs,
            older=older,
            is_filtered=any(name in query for name in ("status", "tenant", "model")),
            counters=COUNTERS,
            waits=QUEUED,
            failed=FAILED,
            may_manage=visit.viewer.may(MANAGE_JOBS),
            ingress=ingress_url(self._site, visit.request),
            now=now_ms() // 1000 * 1000,
        )

    async def _jobs(
        self, viewer: Viewer, tenant: str | None, wanted: Filter, after: str
    ) -> tuple[list[JobStatus], str]:
        """A page, newest first, and behind which job the next one begins; '' when there is none."""
        tenants = [tenant] if tenant else await self._site.tenants(viewer)
        listing = self._site.console.listing
        pages = await asyncio.gather(*[listing.page(each, wanted, after, ROWS) for each in tenants])
        jobs = sorted((job for page in pages for job in page.jobs), key=lambda each: each.job.id, reverse=True)
        more = len(jobs) > ROWS or any(page.more for page in pages)
        return jobs[:ROWS], jobs[:ROWS][-1].job.id if more and jobs else ""

    async def _queued(self, viewer: Viewer) -> Queued:
        console = self._site.console
        if viewer.tenant is not None:
            tally, lanes = await asyncio.gather(console.lanes.of_tenant(viewer.tenant), console.lanes.all())
            return Queued(*tally, [lane for lane in lanes if lane.tenant == viewer.tenant], {})
        counts, dead, lanes, workers = await asyncio.gather(
            console.queue.counts(), console.lanes.dead_letters(), console.lanes.all(), console.queue.worker_stats()
        )
        return Queued(counts[QUEUED], counts["running"], dead, lanes, workers)

    async def cancel(self, request: Request, job_id: str) -> Response:
        status = await self._managed(request, job_id)
        await self._site.console.queue.cancel(job_id, status.job.tenant)
        return RedirectResponse(f"{DASHBOARD}/jobs/{job_id}", 303)

    async def replay(self, request: Request, job_id: str) -> Response:
        """As a new job with the same request, for the same targets."""
        status = await self._managed(request, job_id)
        if status.state != FAILED:
            raise Conflict(f"Only a failed job can be replayed; {job_id} is {status.status}.")
        old, queue = status.job, self._site.console.queue
        again = replace(
            old,
            id=new_id(self._site.console.settings.partition),
            created_ms=now_ms(),
            replay_of=old.id,
            on_disconnect="finish",
            run_at_ms=0,
            expires_at_ms=0,
            batch="",
            trace={},
        )
        accepted = await queue.submit(again, await queue.body(old))
        return RedirectResponse(f"{DASHBOARD}/jobs/{accepted.job_id}", 303)

    async def _managed(self, request: Request, job_id: str) -> JobStatus:
        """A job that this form may change.  Raises what is wrong with form, right or job."""
        visit = await self._site.visit(request, MANAGE_JOBS)
        await self._site.form(visit)
        return await status_of(self._site, visit, job_id)


async def status_of(site: Site, visit: Visit, job_id: str) -> JobStatus:
    """Raises ``NotFound``, for what can be no id of ours too: others could name other keys in Redis."""
    if partition_of(job_id) != site.console.settings.partition:
        raise NotFound(f"No job with the id {job_id[:80]!r}.")
    return await site.console.queue.status(job_id, visit.viewer.tenant)


def _wanted(visit: Visit) -> tuple[str | None, Filter]:
    """Of which tenant, and which of its jobs.  Raises ``InvalidRequest`` and ``Forbidden``."""
    query = visit.request.query_params
    status = query.get("status", "")
    if status and status not in STATUSES:
        raise InvalidRequest(f"status: {status[:40]!r} is none of {', '.join(STATUSES)}", param="status")
    return visit.viewer.narrowed(query.get("tenant")), Filter(status=status, model=query.get("model", "")[:200])
