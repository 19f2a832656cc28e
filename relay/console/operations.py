"""What operators and their machines ask: is it alive, can it serve, how is it doing, how far is the ledger behind.

A ledger that is behind makes no console unready: what it shows is true, of a while ago, and ``/readyz`` says of when.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from functools import partial
from typing import Any, Literal, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field

from relay.console import metrics
from relay.console.answers import problems
from relay.console.usage_api import presented
from relay.console.viewer import USAGE, Viewer
from relay.console.wiring import Console
from relay.core.errors import Unavailable
from relay.ledger.reading import answers
from relay.ledger.totals import rejected_records, totals

# A probe that waits longer is as good as failed.
PROBE_S = 2.0
# Prometheus waits 10 s unless told otherwise.
SCRAPE_S = 8.0

T = TypeVar("T")


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class LedgerLag(BaseModel):
    records_behind: int = Field(description="Usage records that are not stored yet.")
    seconds_behind: float = Field(description="Age of the oldest of them.")


class Readiness(BaseModel):
    status: Literal["ready"] = "ready"
    ledger: LedgerLag


class Operations:
    """``/healthz``, ``/readyz`` and ``/metrics``; none of them needs a key, or tells without one what is a tenant's."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def router(self) -> APIRouter:
        router = APIRouter(tags=["operations"])
        router.add_api_route("/healthz", self.health, methods=["GET"], summary="Is this process alive?")
        router.add_api_route(
            "/readyz",
            self.readiness,
            methods=["GET"],
            summary="Can it serve, and how far is the ledger behind?",
            description="Not while it is asked to stop, nor without Redis or the ledger's database.",
            responses=problems(503),
        )
        router.add_api_route(
            "/metrics",
            self.metrics,
            methods=["GET"],
            summary="Figures for Prometheus",
            description="Those of this console, and how far the ledger is behind. To a key with the scope "
            "`usage:read`, sent as a bearer token, also the calls and the money of its tenant, with `admin` of all.",
            response_class=PlainTextResponse,
        )
        return router

    async def health(self) -> Health:
        return Health()

    async def readiness(self) -> Readiness:
        if self._console.stopping.is_set():
            raise Unavailable("This console is shutting down.", retry_after_s=1)
        try:
            async with asyncio.timeout(PROBE_S):
                lag = await self._console.ledger_lag()
                await self._console.ledger(answers)
        except TimeoutError:
            raise Unavailable("Redis or the ledger's database does not answer.", retry_after_s=1) from None
        return Readiness(ledger=LedgerLag(records_behind=lag.records, seconds_behind=lag.oldest_s))

    async def metrics(self, request: Request) -> PlainTextResponse:
        """What cannot be asked now is left out; whose key it is must be."""
        console = self._console
        viewer: Viewer | None = None
        if credentials := presented(request):
            viewer = Viewer(await console.api_keys.authenticate(credentials))
            viewer.require(USAGE)
        questions: list[Awaitable[Any]] = [_soon(console.ledger_lag()), _soon(console.ledger(rejected_records))]
        if viewer:
            questions.append(_soon(console.ledger(partial(totals, tenant=viewer.tenant))))
        text = metrics.text(console.durations, *await asyncio.gather(*questions))
        return PlainTextResponse(text, media_type=CONTENT_TYPE_LATEST)


async def _soon(question: Awaitable[T]) -> T | None:
    with contextlib.suppress(Unavailable, TimeoutError):
        async with asyncio.timeout(SCRAPE_S):
            return await question
    return None
