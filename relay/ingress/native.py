"""The native surfaces: a provider's API, answered through the queue.

Raw ASGI, because this is the hot path: FastAPI alone would cost as much as everything done here. The order of the steps
is part of their meaning: subscribe, wait for the acknowledgement, enqueue, and only then answer.
"""

from __future__ import annotations

from relay.broker.subscriber import Reader
from relay.core.body import Endpoint
from relay.core.errors import RelayError
from relay.core.job import Dialect
from relay.ingress.exchange import ClientGone, Exchange, Receive, Scope, Send
from relay.ingress.headers import HeaderList
from relay.ingress.requests import authenticate, check_content_type, check_scope
from relay.ingress.stream import NativeAnswer
from relay.ingress.submission import Asked, plan
from relay.ingress.watch import Watch
from relay.ingress.wiring import Ingress

# Where each endpoint answers, also without the version, which some clients have in their base URL.
PATHS: dict[str, tuple[Dialect, Endpoint]] = {
    "/v1/messages": ("anthropic", "messages"),
    "/v1/messages/count_tokens": ("anthropic", "count_tokens"),
    "/v1/chat/completions": ("openai", "chat_completions"),
}
PATHS |= {path.removeprefix("/v1"): served for path, served in PATHS.items()}


class Native:
    """One endpoint of one surface."""

    def __init__(self, ingress: Ingress, surface: Dialect, endpoint: Endpoint) -> None:
        self._ingress = ingress
        self._surface = surface
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, self._surface)
        try:
            await self._serve(exchange)
        except RelayError as error:
            await exchange.fail(error)
        except ClientGone:
            pass
        except Exception as error:
            await exchange.fail_unforeseen(error)
        finally:
            self._ingress.metrics.count(exchange)

    async def _serve(self, exchange: Exchange) -> None:
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
        ingress, headers = self._ingress, exchange.headers
        key = await authenticate(headers, ingress.api_keys)
        check_scope(key, "jobs:write")
        check_content_type(headers)
        body = await ingress.bodies.read(exchange)
        try:
            query = exchange.scope["query_string"].decode("latin-1")
            asked = Asked(self._surface, self._endpoint, query, headers, body)
            job, digests = await plan(ingress, key, asked)
            reader = await ingress.subscriber.open(job.id, fresh=True)
            try:
                await ingress.queue.submit(job, body)
            except BaseException:
                reader.close()
                raise
        finally:
            ingress.bodies.drop(body)
        exchange.job_id = job.id
        return job.stream, reader, [(b"x-relay-prompt-sha256-received", digests.encode())] if digests else []
