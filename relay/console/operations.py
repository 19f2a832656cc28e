"""What operators and their machines ask: is it alive, can it serve, and how far is the ledger behind.

A ledger that is behind makes no console unready: what it shows is true, of a while ago, and ``/readyz`` says of when.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from relay.console.answers import problems
from relay.console.wiring import Console
from relay.core.errors import Unavailable
from relay.ledger.reading import answers

# A probe that waits longer is as good as failed.
PROBE_S = 2.0


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class LedgerLag(BaseModel):
    records_behind: int = Field(description="Usage records that are not stored yet.")
    seconds_behind: float = Field(description="Age of the oldest of them.")


class Readiness(BaseModel):
    status: Literal["ready"] = "ready"
    ledger: LedgerLag


class Operations:
    """``/healthz`` and ``/readyz``; neither needs a key or tells a secret."""

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
