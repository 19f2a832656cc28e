"""The usage API: calls, sums, sums over time, and a file of it all.

For programs, with an API key of the relay; the dashboard asks the ledger itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated

import orjson
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response, StreamingResponse
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import Field

from relay.console import export
from relay.console.answers import problems
from relay.console.filters import UsageFilter
from relay.console.usage_views import CallList, SumList, call_view, sums_view
from relay.console.viewer import USAGE, Viewer
from relay.console.wiring import Console
from relay.core.errors import InvalidRequest
from relay.ledger.queries import GROUPS, MOST_ROWS, Filter, Page, Step, rows, summary, timeline

# Only for the documentation: ``presented`` reads the key.
KEY = [
    Depends(APIKeyHeader(name="x-api-key", auto_error=False)),
    Depends(HTTPBearer(auto_error=False, scheme_name="Bearer")),
]
MOST_GROUPED_BY = 4


class RowsQuery(UsageFilter):
    limit: Annotated[int, Field(ge=1, le=MOST_ROWS)] = 50
    cursor: str | None = Field(None, description="`next_cursor` of the page before.")


class SummaryQuery(UsageFilter):
    by: Annotated[list[str], Field(max_length=MOST_GROUPED_BY)] = Field(
        [], description=f"What to group by, up to {MOST_GROUPED_BY} of: {', '.join(GROUPS)}.", examples=[["model"]]
    )


class TimelineQuery(UsageFilter):
    step: Step = "hour"


class ExportQuery(UsageFilter):
    format: export.Format = "csv"


class UsageApi:
    """``/v1/usage`` and what is below it."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def router(self) -> APIRouter:
        router = APIRouter(tags=["usage"], dependencies=KEY, responses=problems(400, 401, 403, 503))
        router.add_api_route(
            "/v1/usage",
            self.rows,
            methods=["GET"],
            summary="Provider calls, newest first",
            description="With all that is known of each: tokens, cache, money, times, outcome.",
            response_model=CallList,
        )
        router.add_api_route(
            "/v1/usage/summary",
            self.summary,
            methods=["GET"],
            summary="Sums over calls",
            description="One row, or one for each group; the dearest first, or by time.",
            response_model=SumList,
        )
        router.add_api_route(
            "/v1/usage/timeline",
            self.timeline,
            methods=["GET"],
            summary="Sums over time",
            description="Every hour or day of the period, those without calls included.",
            response_model=SumList,
        )
        router.add_api_route(
            "/v1/usage/export",
            self.file,
            methods=["GET"],
            summary="Provider calls as a file",
            description="Streamed. In CSV an apostrophe stands before a text that a spreadsheet would compute.",
            response_class=Response,
            responses={200: {"content": {"text/csv": {}, "application/jsonl": {}}}},
        )
        return router

    async def rows(self, request: Request, query: Annotated[RowsQuery, Query()]) -> Response:
        wanted = await self._wanted(request, query)
        page: Page = await self._console.ledger(
            partial(rows, wanted=wanted, cursor=query.cursor or None, limit=query.limit)
        )
        data = [call_view(row) for row in page.rows]
        return _json(CallList(data=data, has_more=page.cursor is not None, next_cursor=page.cursor))

    async def summary(self, request: Request, query: Annotated[SummaryQuery, Query()]) -> Response:
        for name in query.by:
            if name not in GROUPS:
                raise InvalidRequest(f"by: {name[:80]!r} is none of {', '.join(GROUPS)}", param="by")
        by = list(dict.fromkeys(query.by))
        found = await self._console.ledger(partial(summary, wanted=await self._wanted(request, query), by=by))
        return _json(SumList(by=by, data=[sums_view(each, by) for each in found]))

    async def timeline(self, request: Request, query: Annotated[TimelineQuery, Query()]) -> Response:
        wanted = await self._wanted(request, query)
        found = await self._console.ledger(partial(timeline, wanted=wanted, step=query.step))
        data = [sums_view(each, [query.step]) | {"cache_reasons": each["cache_reasons"]} for each in found]
        return _json(SumList(by=[query.step], data=data))

    async def file(self, request: Request, query: Annotated[ExportQuery, Query()]) -> Response:
        wanted = await self._wanted(request, query)
        first = await self._page(wanted, None)  # what can go wrong goes wrong before the answer begins
        name = f'attachment; filename="usage.{query.format}"'
        return StreamingResponse(
            self._pieces(query.format, wanted, first),
            media_type=export.TYPES[query.format],
            headers={"content-disposition": name},
        )

    async def _pieces(self, form: export.Format, wanted: Filter, page: Page) -> AsyncIterator[bytes]:
        yield export.head(form) + export.lines(form, page.rows)
        while page.cursor:
            page = await self._page(wanted, page.cursor)
            yield export.lines(form, page.rows)

    async def _page(self, wanted: Filter, cursor: str | None) -> Page:
        return await self._console.ledger(partial(rows, wanted=wanted, cursor=cursor, limit=export.PAGE_CALLS))

    async def _wanted(self, request: Request, query: UsageFilter) -> Filter:
        """Raises ``Unauthenticated``, ``Forbidden`` and ``Unavailable``."""
        viewer = Viewer(await self._console.api_keys.authenticate(presented(request)))
        viewer.require(USAGE)
        return query.wanted(viewer.narrowed(query.tenant))


def presented(request: Request) -> str | None:
    """The API key in a request: ``x-api-key``, which counts when both are there, or a bearer token."""
    if key := request.headers.get("x-api-key"):
        return key
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def _json(found: CallList | SumList) -> Response:
    """Past FastAPI and pydantic, which would look at every value of a thousand rows again."""
    return Response(orjson.dumps(dict(found)), media_type="application/json")
