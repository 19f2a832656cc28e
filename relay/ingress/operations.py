"""What operators and their machines ask: is it alive, may it have traffic, how is it doing.

``/healthz`` is about this process alone: a Redis that is away must not get every ingress restarted. ``/readyz`` is
about whether a request would be served.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from relay.broker.api_keys import ADMIN
from relay.core.errors import Unavailable
from relay.ingress.documentation import problems
from relay.ingress.headers import by_name
from relay.ingress.metrics import Seen
from relay.ingress.requests import presented
from relay.ingress.wiring import Ingress

# A probe that waits longer is as good as failed; the broker's own patience with Redis is longer.
PROBE_S = 1.0


class Health(BaseModel):
    status: Literal["ok", "ready"]


class Operations:
    """``/healthz``, ``/readyz`` and ``/metrics``; none of them needs a key, or tells without one what is a tenant's."""

    def __init__(self, ingress: Ingress) -> None:
        self._ingress = ingress

    def router(self) -> APIRouter:
        router = APIRouter(tags=["operations"])
        router.add_api_route("/healthz", self.health, methods=["GET"], summary="Is this process alive?")
        router.add_api_route(
            "/readyz",
            self.readiness,
            methods=["GET"],
            summary="Would it serve a request?",
            description="Not while it is asked to stop, nor while Redis cannot be reached.",
            responses=problems(503),
        )
        router.add_api_route(
            "/metrics",
            self.metrics,
            methods=["GET"],
            summary="Figures for Prometheus",
            description="Those of this ingress, and what the queue and the workers keep in Redis. To a key with the "
            "scope `admin`, sent as a bearer token, also how much of each budget is spent.",
            response_class=PlainTextResponse,
        )
        return router

    async def health(self) -> Health:
        return Health(status="ok")

    async def readiness(self) -> Health:
        if self._ingress.draining:
            raise Unavailable("This ingress is shutting down.", retry_after_s=1)
        try:
            async with asyncio.timeout(PROBE_S):
                await self._ingress.queue.ping()
        except TimeoutError:
            raise Unavailable("Redis does not answer.", retry_after_s=1) from None
        return Health(status="ready")

    async def metrics(self, request: Request) -> PlainTextResponse:
        """Without Redis, our own figures alone."""
        queue, seen = self._ingress.queue, Seen()
        with contextlib.suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(PROBE_S):
                seen.queue = await queue.counts()
                seen.workers = await queue.worker_stats()
                if await self._is_admin(request):
                    seen.accounts = await self._ingress.budgets.accounts()
        return PlainTextResponse(self._ingress.metrics.text(seen), media_type=CONTENT_TYPE_LATEST)

    async def _is_admin(self, request: Request) -> bool:
        """Raises ``Unauthenticated`` for a key that is none."""
        credentials = presented(by_name(request.headers.raw))
        return credentials is not None and ADMIN in (await self._ingress.api_keys.authenticate(credentials)).scopes
