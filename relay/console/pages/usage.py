"""Calls, newest first: what each read from the cache, cost and saved, and on demand all that is known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import ValidationError

from relay.console.filters import MANY, UsageFilter, refusal
from relay.console.pages import DASHBOARD
from relay.console.pages.overview import ingress_url
from relay.console.pages.period import PERIODS, now_ms, period
from relay.console.pages.site import Site
from relay.console.pages.words import reason
from relay.console.usage_views import call_view
from relay.console.viewer import USAGE
from relay.ledger.queries import Filter, Page, rows, summary
from relay.ledger.reading import Connection
from relay.ledger.reasons import REASONS

ROWS: Final = 50

# What can be chosen from a list, with its label.
CHOICES: Final = {
    "model": "Model",
    "provider": "Provider",
    "app": "Application",
    "key_id": "Key",
    "outcome": "Outcome",
    "cache": "Cache",
    "cache_reason": "Why no hit",
}
# Choices in a list; a tenant that makes up applications must not make the page endless.
MOST_CHOICES: Final = 200
_NAMES: Final = {*MANY, "tenant", "job", "user"}


@dataclass(frozen=True, slots=True)
class Found:
    page: Page
    choices: dict[str, list[str]]


class UsagePage:
    def __init__(self, site: Site) -> None:
        self._site = site

    def router(self) -> APIRouter:
        router = APIRouter()
        router.add_api_route(f"{DASHBOARD}/usage", self.show, methods=["GET"])
        return router

    async def show(self, request: Request) -> Response:
        site = self._site
        visit = await site.visit(request, USAGE)
        viewer, query = visit.viewer, request.query_params
        chosen = period(query.get("period", "7d"))
        asked = filter_of(query.multi_items())
        tenant = viewer.narrowed(asked.tenant)
        since_ms, _ = chosen.span(now_ms())
        wanted = _since(asked, tenant, since_ms)
        found = await site.console.ledger(partial(read, wanted=wanted, cursor=query.get("cursor")))
        keys = await site.console.api_keys.list()
        key_names = {key.id: key.name for key in keys if viewer.tenant in (None, key.tenant)}
        kept = [(name, value) for name, value in query.multi_items() if name != "cursor" and value]
        return site.page(
            "usage.html",
            visit,
            period=chosen,
            periods=PERIODS,
            asked=asked,
            tenants=await site.tenants(viewer),
            labels=CHOICES,
            choices=found.choices,
            rows=[(row, call_view(row)) for row in found.page.rows],
            older=f"?{urlencode([*kept, ('cursor', found.page.cursor)])}" if found.page.cursor else "",
            newest=f"?{urlencode(kept)}" if query.get("cursor") else "",
            shown={"key_id": key_names, "cache_reason": {code: reason(code) for code in REASONS}},
            is_filtered=any(name in _NAMES for name, _ in kept),
            ingress=ingress_url(site, request),
        )


def filter_of(query: Sequence[tuple[str, str]]) -> UsageFilter:
    """The filters among a form's fields; those left empty are none.  Raises ``InvalidRequest``."""
    given: dict[str, Any] = {}
    for name, value in query:
        if value and name in MANY:
            given.setdefault(name, []).append(value)
        elif value and name in _NAMES:
            given[name] = value
    try:
        return UsageFilter.model_validate(given)
    except ValidationError as error:
        raise refusal(list(error.errors(include_url=False))) from error


def _since(asked: UsageFilter, tenant: str | None, since_ms: int) -> Filter:
    wanted = asked.wanted(tenant)
    # The calls of one job are wanted however old they are.
    return Filter(
        tenant=wanted.tenant,
        since_ms=None if wanted.job else since_ms,
        any_of=wanted.any_of,
        job=wanted.job,
        user=wanted.user,
    )


def read(connection: Connection, wanted: Filter, cursor: str | None) -> Found:
    of_period = Filter(tenant=wanted.tenant, since_ms=wanted.since_ms)
    groups = summary(connection, of_period, list(CHOICES))
    chosen = {name: wanted.any_of.get(name, ()) for name in CHOICES}
    choices = {name: _choices(groups, name, chosen[name]) for name in CHOICES}
    return Found(rows(connection, wanted, cursor or None, ROWS), choices)


def _choices(groups: Sequence[Mapping[str, Any]], name: str, chosen: Sequence[str]) -> list[str]:
    """What there is to choose from, the dearest first come; and what is chosen already, even if there is none of it."""
    found = list(dict.fromkeys(str(group[name]) for group in groups if group[name]))[:MOST_CHOICES]
    return sorted({*found, *chosen})
