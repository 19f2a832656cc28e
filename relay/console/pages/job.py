"""A job: where its time went, call by call; what went wrong; and its stream, live or from the log."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any, Final, NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import Response

from relay.broker.queue import JobStatus
from relay.console.pages import DASHBOARD
from relay.console.pages.content import content_of
from relay.console.pages.events import LiveEvents, event
from relay.console.pages.jobs import status_of
from relay.console.pages.period import now_ms
from relay.console.pages.site import Site
from relay.console.usage_views import call_view
from relay.console.viewer import ERASE_CONTENT, JOBS, MANAGE_JOBS
from relay.core.errors import RelayError
from relay.core.fingerprint import Fingerprint, parse
from relay.core.frame import BODY, END, EVENTS, HEAD, START, Cursor, Frame, parse_cursor, split_events
from relay.core.job import FAILED
from relay.ledger.queries import Filter, rows

# Attempts of one job; more than RELAY_RETRIES and every target allow.
MOST_CALLS: Final = 100

_NAMES: Final = {HEAD: "head", EVENTS: "events", BODY: "body", END: "end"}


class Bar(NamedTuple):
    """A stretch of the waterfall; begin and length in percent of the whole."""

    label: str
    kind: str
    begin: float
    length: float
    ms: int
    note: str = ""


class JobPage:
    def __init__(self, site: Site) -> None:
        self._site = site

    def router(self) -> APIRouter:
        router = APIRouter()
        router.add_api_route(f"{DASHBOARD}/jobs/{{job_id}}", self.show, methods=["GET"])
        router.add_api_route(f"{DASHBOARD}/jobs/{{job_id}}/live", self.live, methods=["GET"])
        return router

    async def show(self, request: Request, job_id: str) -> Response:
        site = self._site
        visit = await site.visit(request, JOBS)
        status = await status_of(site, visit, job_id)
        wanted = Filter(tenant=status.job.tenant, job=job_id)
        page = await site.console.ledger(partial(rows, wanted=wanted, limit=MOST_CALLS))
        calls = sorted(page.rows, key=lambda row: (row["started_ms"], row["id"]))
        return site.page(
            "job.html",
            visit,
            status=status,
            job=status.job,
            bars=waterfall(status, calls, now_ms()),
            whole_ms=(status.ended_ms or now_ms()) - status.job.created_ms,
            calls=[(call, call_view(call)) for call in calls],
            may_cancel=visit.viewer.may(MANAGE_JOBS) and not status.ended,
            may_replay=visit.viewer.may(MANAGE_JOBS) and status.state == FAILED,
            **_prompt(status.job.fingerprint, calls),
            content=await content_of(site, visit, job_id),
            may_delete=visit.viewer.may(ERASE_CONTENT),
        )

    async def live(self, request: Request, job_id: str) -> Response:
        visit = await self._site.visit(request, JOBS)
        status = await status_of(self._site, visit, job_id)
        seen = request.headers.get("last-event-id")
        cursor = parse_cursor(seen) if seen else START
        return LiveEvents(self._site.console, self._frames(status.job.id, cursor))

    async def _frames(self, job_id: str, cursor: Cursor) -> AsyncGenerator[bytes, None]:
        try:
            reader = await self._site.console.subscriber.open(job_id, cursor)
            with contextlib.closing(reader):
                while True:
                    for frame in await reader.read():
                        yield event(_NAMES.get(frame.kind, "events"), _texts(frame), str(frame.cursor))
                        if frame.kind == END:
                            return
        except RelayError as error:  # expired, interrupted, lost: the page says so and asks no more
            yield event("trouble", error.message)


def _prompt(fingerprint: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    """The prompt's prefixes, and where a call says why it was not served from the cache."""
    try:
        found = parse(fingerprint)
    except ValueError:
        found = Fingerprint("", ())
    reasons: dict[str, str] = {}
    for call in calls:
        if call["cache_reason_at"]:
            reasons[call["cache_reason_at"]] = call["cache_reason"]
    return {"prompt": found, "reasons": reasons}


def _texts(frame: Frame) -> list[str]:
    pieces = split_events(frame) if frame.kind == EVENTS else [frame.data]
    return [piece.decode(errors="replace") for piece in pieces]


def waterfall(status: JobStatus, calls: list[dict[str, Any]], now: int) -> list[Bar]:
    """What the job did when: waiting, then each provider call up to its first event and to its end.

    While a call has no record yet, the job's own times stand for it.
    """
    created, end = status.job.created_ms, status.ended_ms or now
    taken = status.claimed_ms or end
    stretches = [("Waiting in the queue", "wait", created, taken, "")]
    for call in calls:
        note = f"{call['outcome']}{', ' + str(call['error']) if call['error'] else ''}"
        began, over = call["started_ms"], call["ended_ms"] or end
        stretches += _call(f"Call {call['attempt']}", began, call["first_event_ms"], over, note)
    if status.dispatched_ms and len(calls) < status.calls:
        first = None if status.first_ms is None else status.first_ms - status.dispatched_ms
        stretches += _call(f"Call {status.calls}", status.dispatched_ms, first, end, "")
    whole = max(1, end - created)

    def bar(label: str, kind: str, begin: int, stop: int, note: str) -> Bar:
        left = min(max(0.0, 100 * (begin - created) / whole), 99.5)
        length = min(max(0.5, 100 * (stop - begin) / whole), 100 - left)
        return Bar(label, kind, round(left, 2), round(length, 2), max(0, stop - begin), note)

    return [bar(*stretch) for stretch in stretches]


def _call(name: str, began: int, first_ms: int | None, over: int, note: str) -> list[tuple[str, str, int, int, str]]:
    if first_ms is None:
        return [(f"{name}: no event", "provider", began, over, note)]
    first = began + first_ms
    return [
        (f"{name}: to the first event", "provider", began, first, ""),
        (f"{name}: answer", "answer", first, max(first, over), note),
    ]
