"""The first page: requests, tokens and money against the period before, what caching saved, and who spent it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from relay.console.pages import DASHBOARD, words
from relay.console.pages.period import PERIODS, Period, now_ms, period
from relay.console.pages.site import Site
from relay.console.viewer import USAGE
from relay.ledger.latency import Latency, latency
from relay.ledger.queries import SUMS, Filter, Sums, summary, timeline
from relay.ledger.reading import Connection

# Rows of a table; what is beyond is found on the usage page.
TOP: Final = 8
TABLES: Final = {"model": "Models", "app": "Applications", "key_id": "Keys"}
_WRITES: Final = ("cache_write_5m_tokens", "cache_write_1h_tokens")


@dataclass(frozen=True, slots=True)
class Figures:
    """What the page shows, of one moment."""

    now: Sums
    before: Sums
    points: list[Sums]
    tables: dict[str, list[Sums]]
    latency: Latency
    waste: int
    reasons: list[Sums]


class OverviewPage:
    def __init__(self, site: Site) -> None:
        self._site = site

    def router(self) -> APIRouter:
        router = APIRouter()
        router.add_api_route(DASHBOARD, self.show, methods=["GET"])
        return router

    async def show(self, request: Request) -> Response:
        site = self._site
        visit = await site.visit(request, USAGE)
        viewer, query = visit.viewer, request.query_params
        chosen = period(query.get("period", ""))
        tenant = viewer.narrowed(query.get("tenant"))
        figures = await site.console.ledger(partial(read, tenant=tenant, chosen=chosen, now=now_ms()))
        keys = await site.console.api_keys.list()
        return site.page(
            "overview.html",
            visit,
            period=chosen,
            periods=PERIODS,
            tenant=tenant if viewer.is_admin else None,
            tenants=await site.tenants(viewer),
            figures=figures,
            prompt_tokens=prompt_tokens,
            written=written,
            chart=chart(figures.points),
            tables=TABLES,
            top=TOP,
            key_names={key.id: key.name for key in keys if viewer.tenant in (None, key.tenant)},
            ingress=ingress_url(site, request),
        )


def read(connection: Connection, tenant: str | None, chosen: Period, now: int) -> Figures:
    since, until = chosen.span(now)
    wanted = Filter(tenant=tenant, since_ms=since, until_ms=until)
    since, until = chosen.span_before(now)
    before = Filter(tenant=tenant, since_ms=since, until_ms=until)
    return Figures(
        now=_total(connection, wanted),
        before=_total(connection, before),
        points=timeline(connection, wanted, chosen.step),
        tables={name: summary(connection, wanted, [name]) for name in TABLES},
        latency=latency(connection, wanted),
        reasons=[each for each in summary(connection, wanted, ["cache_reason"]) if each["cache_reason"]],
        waste=waste(summary(connection, wanted, ["tenant", "key_id", "app", "model"])),
    )


def _total(connection: Connection, wanted: Filter) -> Sums:
    found = summary(connection, wanted, [])
    return found[0] if found else dict.fromkeys(SUMS, 0)


def prompt_tokens(sums: Sums) -> int:
    """All input, cached or not."""
    return int(sums["input_tokens"] + sums["cache_read_tokens"] + written(sums))


def written(sums: Sums) -> int:
    return sum(int(sums[name]) for name in _WRITES)


def waste(groups: Sequence[Sums]) -> int:
    """What was paid on top for writes of those (a key's application with a model) who read nothing in the period."""
    return sum(int(each["write_premium"]) for each in groups if written(each) and not each["cache_read_tokens"])


def chart(points: Sequence[Sums]) -> dict[str, Any] | None:
    """The timeline's columns, as the script draws them; None without cache activity."""
    if not any(each["cache_read_tokens"] or written(each) for each in points):
        return None
    step = "hour" if "hour" in points[0] else "day"
    return {
        "step": step,
        "at": [each[step] // 1000 for each in points],
        "uncached": [each["input_tokens"] for each in points],
        "read": [each["cache_read_tokens"] for each in points],
        "written": [written(each) for each in points],
        "saved": [each["net_saved"] / words.NANO for each in points],
    }


def ingress_url(site: Site, request: Request) -> str:
    """Where this relay's calls go, as far as the console can know: its own host, the ingress' port."""
    host = (request.url.hostname or "127.0.0.1").replace('"', "")
    return f"http://{f'[{host}]' if ':' in host else host}:{site.console.settings.port}"
