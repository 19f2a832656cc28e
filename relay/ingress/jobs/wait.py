"""An answer that waits for a job to end, for as long as the client wishes and no longer.

Redis is not asked meanwhile: the wait ends with the job's last frame, when the client leaves, and when this process
must go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Annotated

from fastapi import Header
from fastapi.responses import Response

from relay.broker.queue import JobStatus
from relay.core.errors import Gone, Interrupted, JobLost
from relay.core.frame import END, Cursor
from relay.ingress.exchange import Exchange, Receive, Scope, Send
from relay.ingress.prefer import APPLIED
from relay.ingress.watch import Watch
from relay.ingress.wiring import Ingress

Wish = Annotated[
    str, Header(alias="prefer", description="`wait=n`: answer when the job ends, or after n seconds; 60 at most.")
]
Answer = Callable[[JobStatus], Awaitable[Response]]


class Waiting(Response):
    """Waits up to ``wait_s`` for the job to end, then gives the ``answer`` that fits where it stands by then."""

    def __init__(self, ingress: Ingress, status: JobStatus, wait_s: int, answer: Answer) -> None:
        super().__init__()
        self._ingress = ingress
        self._status = status
        self._wait_s = wait_s
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, "relay")
        exchange.job_id, exchange.unread = self._status.job.id, False
        response: Response | None = None
        async with exchange:
            await self._ended(exchange)
            job = self._status.job
            response = await self._answer(await self._ingress.queue.status(job.id, job.tenant))
            response.headers[APPLIED.decode()] = f"wait={self._wait_s}"
        if response:  # else the exchange has answered
            await response(scope, receive, send)

    async def _ended(self, exchange: Exchange) -> None:
        status = self._status
        reader = await self._ingress.subscriber.open(status.job.id, Cursor(status.generation, status.sequence))
        watch = Watch(reader, exchange, self._ingress.watches)
        try:
            # Lost, expired or interrupted: where the job stands is said all the same.
            with suppress(TimeoutError, Interrupted, JobLost, Gone):
                async with asyncio.timeout(self._wait_s):
                    while (await watch.read())[-1].kind != END:
                        pass
        finally:
            watch.close()
