"""What a job was asked and answered, where its client asked to have that kept: a section of the job's page, and a page
of its own, as content may be kept for longer than Redis knows the job.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from relay.console.content_api import not_kept
from relay.console.pages import DASHBOARD
from relay.console.pages.jobs import status_of
from relay.console.pages.site import Site, Visit
from relay.console.viewer import CONTENT, ERASE_CONTENT
from relay.core import document
from relay.core.errors import InvalidRequest, NotFound
from relay.ledger.contents import Kept, erase, find
from relay.ledger.reading import Connection

# The largest body that is put into a page. A browser takes a second for it; the API gives more.
SHOWN_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Shown:
    """What is kept, and its bodies as they are read: indented; None where one is not here, or too long for a page."""

    kept: Kept
    request: str | None
    response: str | None


class ContentPage:
    def __init__(self, site: Site) -> None:
        self._site = site

    def router(self) -> APIRouter:
        router = APIRouter()
        router.add_api_route(f"{DASHBOARD}/jobs/{{job_id}}/content", self.show, methods=["GET"])
        router.add_api_route(f"{DASHBOARD}/jobs/{{job_id}}/content/delete", self.delete, methods=["POST"])
        return router

    async def show(self, request: Request, job_id: str) -> Response:
        visit = await self._site.visit(request, CONTENT)
        content = await content_of(self._site, visit, job_id)
        if content is None:
            raise not_kept(job_id)
        return self._site.page("content.html", visit, content=content, may_delete=visit.viewer.may(ERASE_CONTENT))

    async def delete(self, request: Request, job_id: str) -> Response:
        site = self._site
        visit = await site.visit(request, ERASE_CONTENT)
        await site.form(visit)
        if not await site.console.change(partial(erase, job=_name(job_id), tenant=visit.viewer.tenant)):
            raise not_kept(job_id)
        try:
            await status_of(site, visit, job_id)
        except NotFound:  # its usage is what is left of it
            return RedirectResponse(f"{DASHBOARD}/usage?job={job_id}", 303)
        return RedirectResponse(f"{DASHBOARD}/jobs/{job_id}", 303)


async def content_of(site: Site, visit: Visit, job_id: str) -> Shown | None:
    """What they may see of a job's content; None also where there is none."""
    if not visit.viewer.may(CONTENT):
        return None
    return await site.console.ledger(partial(_shown, job_id=_name(job_id), tenant=visit.viewer.tenant))


def _name(job_id: str) -> str:
    return job_id.replace("\0", "")  # which no database takes


def _shown(connection: Connection, job_id: str, tenant: str | None) -> Shown | None:
    kept = find(connection, job_id, tenant)
    return kept and Shown(kept, indented(kept.request), indented(kept.response))


def indented(body: bytes | None) -> str | None:
    """JSON as people read it; other text as it is."""
    if body is None or len(body) > SHOWN_BYTES:
        return None
    try:
        text = json.dumps(document.parse(body), indent=2, ensure_ascii=False)
    except InvalidRequest:
        text = body.decode(errors="replace")
    return text.encode(errors="replace").decode()  # half of a character cannot be sent
