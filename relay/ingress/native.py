"""The native surfaces: a provider's API, answered through the queue.

Raw ASGI, because this is the hot path: FastAPI alone would cost as much as everything done here. The order of the steps
is part of their meaning: subscribe, wait for the acknowledgement, enqueue, and only then answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from relay.broker.api_keys import ApiKey
from relay.broker.subscriber import Reader
from relay.core.body import Endpoint
from relay.core.cache_control import refusal
from relay.core.job import Dialect
from relay.ingress.exchange import Exchange, Receive, Scope, Send
from relay.ingress.headers import HeaderList, budget_headers
from relay.ingress.jobs.submit import REPLAYED, accepted
from relay.ingress.prefer import APPLIED, prefer
from relay.ingress.prefer import HEADER as PREFER
from relay.ingress.requests import authenticate, check_content_type, check_scope
from relay.ingress.stream import NativeAnswer
from relay.ingress.submission import IDEMPOTENCY_HEADER, Asked, Terms, once, plan
from relay.ingress.watch import Watch
from relay.ingress.wiring import Ingress

ON_DISCONNECT_HEADER = b"x-relay-on-disconnect"


class Native:
    """One endpoint of one surface."""

    def __init__(self, ingress: Ingress, surface: Dialect, endpoint: Endpoint) -> None:
        self._ingress = ingress
        self._surface = surface
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, self._surface)
        try:
            async with exchange:
                await self._serve(exchange)
        finally:
            self._ingress.metrics.count(exchange)

    async def _serve(self, exchange: Exchange) -> None:
        if prefer(exchange.headers.get(PREFER, b"")).respond_async:
            headers, answer = await self._submit_for_later(exchange)
            await exchange.answer(202, [*headers, (APPLIED, b"respond-async")], answer)
            return
        ingress, settings = self._ingress, self._ingress.settings
        is_stream, reader, extra = await self._submit(exchange)
        exchange.forget_request()
        watch = Watch(reader, exchange, ingress.watches, settings.open_wait_s if is_stream else None)
        try:
            await NativeAnswer(exchange, watch, settings.heartbeat_s, extra).send()
        finally:
            watch.close()

    async def _submit(self, exchange: Exchange) -> tuple[bool, Reader, HeaderList]:
        """From the request to its place in the queue.  In a frame of its own, which lets go of the body."""
        ingress = self._ingress
        async with self._asked(exchange) as (key, asked):
            # Who names a request means to come back for it.
            terms = _terms(
                asked.headers, "finish" if IDEMPOTENCY_HEADER in asked.headers else key.on_disconnect or "cancel"
            )
            named = await once(key, asked, terms)
            job, digests = await plan(ingress, key, asked, terms)
            reader = await ingress.subscriber.open(job.id, fresh=True)
            try:
                accepted_as = await ingress.queue.submit(job, asked.body, named)
            except BaseException:
                reader.close()
                raise
        extra = budget_headers(accepted_as.past)
        if digests:
            extra.append((b"x-relay-prompt-sha256-received", digests.encode()))
        if not accepted_as.is_new:
            reader.close()
            reader = await ingress.subscriber.open(accepted_as.job_id)
            extra.append(REPLAYED)
        exchange.job_id = accepted_as.job_id
        return job.stream, reader, extra

    async def _submit_for_later(self, exchange: Exchange) -> tuple[HeaderList, bytes]:
        """The answer to a request whose own answer is to be fetched."""
        ingress = self._ingress
        async with self._asked(exchange) as (key, asked):
            terms = _terms(asked.headers, "finish")
            job, _ = await plan(ingress, key, asked, terms)
            accepted_as = await ingress.queue.submit(job, asked.body, await once(key, asked, terms))
        exchange.job_id = accepted_as.job_id
        return await accepted(ingress, job, accepted_as)

    @asynccontextmanager
    async def _asked(self, exchange: Exchange) -> AsyncIterator[tuple[ApiKey, Asked]]:
        """The request, read and held within bounds, and whose it is."""
        ingress, headers = self._ingress, exchange.headers
        key = await authenticate(headers, ingress.api_keys)
        check_scope(key, "jobs:write")
        check_content_type(headers)
        body = await ingress.bodies.read(exchange)
        try:
            query = exchange.scope["query_string"].decode("latin-1")
            yield key, Asked(self._surface, self._endpoint, query, headers, body)
        finally:
            ingress.bodies.drop(body)


def _terms(headers: Mapping[bytes, bytes], on_disconnect: str) -> Terms:
    """``on_disconnect``: where the header does not say.  Raises ``InvalidRequest``."""
    match headers.get(ON_DISCONNECT_HEADER, on_disconnect.encode()).strip().lower():
        case b"finish":
            return Terms("finish")
        case b"cancel":
            return Terms("cancel")
        case wish:
            raise refusal("x-relay-on-disconnect", "Input should be 'finish' or 'cancel'", wish.decode("latin-1"))
