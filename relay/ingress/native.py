"""The native surfaces: a provider's API, answered through the queue.

Raw ASGI, because this is the hot path: FastAPI alone would cost as much as everything done here. The order of the steps
is part of their meaning: subscribe, wait for the acknowledgement, enqueue, and only then answer.
"""

from __future__ import annotations

import time

from relay.broker.queue import pieces_of
from relay.broker.subscriber import Reader
from relay.core.body import MODEL_SPANS_MAX, Endpoint, model_spans
from relay.core.document import Span
from relay.core.errors import InvalidRequest, RelayError
from relay.core.job import Dialect, Job, new_id
from relay.core.routing import Target
from relay.ingress.exchange import ClientGone, Exchange, Receive, Scope, Send
from relay.ingress.headers import HeaderList, to_provider
from relay.ingress.inspection import Facts
from relay.ingress.requests import authenticate, check_content_type, check_scope
from relay.ingress.stream import NativeAnswer
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
            asked = headers.get(b"x-relay-prompt-digests") == b"1"
            facts = await ingress.inspector.inspect(body, self._surface, self._endpoint, asked)
            target = self._target(facts.model)
            job = Job(
                id=new_id(ingress.settings.partition),
                tenant=key.tenant,
                key_id=key.id,
                surface=self._surface,
                endpoint=self._endpoint,
                query=_query(exchange.scope),
                headers=to_provider(headers),
                model=facts.model,
                stream=facts.stream,
                created_ms=time.time_ns() // 1_000_000,
                body_bytes=len(body),
                body_pieces=pieces_of(len(body)),
                marker_ttls=facts.marker_ttls,
                provider=target.provider,
                target=target.model,
                model_spans=_renamed(body, facts, target),
                prefixes=facts.prefixes,
            )
            reader = await ingress.subscriber.open(job.id, fresh=True)
            try:
                await ingress.queue.submit(job, body)
            except BaseException:
                reader.close()
                raise
        finally:
            ingress.bodies.drop(body)
        exchange.job_id = job.id
        return job.stream, reader, _digests(facts)

    def _target(self, model: str) -> Target:
        """Where the request goes.  Raises ``NotFound``, and ``InvalidRequest`` where only a translation would do."""
        targets = self._ingress.router.resolve(model)
        for target in targets:
            if target.dialect == self._surface:
                return target
        first = targets[0]
        raise InvalidRequest(
            f"The model {model!r} is served by provider {first.provider!r}, which speaks the {first.dialect} dialect; "
            f"the relay does not translate to it from the {self._surface} dialect yet.",
            param="model",
        )


def _query(scope: Scope) -> str:
    query: str = scope["query_string"].decode("latin-1")
    if not (query.isascii() and query.isprintable()):
        raise InvalidRequest("The query string may hold printable ASCII only.")
    return query


def _renamed(body: bytes, facts: Facts, target: Target) -> tuple[Span, ...]:
    """Where the worker has to write the target's name for the model.  Raises ``InvalidRequest``."""
    if target.model == facts.model:
        return ()
    spans = facts.model_spans or model_spans(body)  # a small body is looked through here, and only if need be
    if len(spans) > MODEL_SPANS_MAX:
        raise InvalidRequest(f"model: The member may not be repeated more than {MODEL_SPANS_MAX} times.", param="model")
    return spans


def _digests(facts: Facts) -> HeaderList:
    return [(b"x-relay-prompt-sha256-received", facts.digests.encode())] if facts.digests else []
