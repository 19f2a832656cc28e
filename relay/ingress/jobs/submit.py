"""How a job comes in to be answered later: ``POST /v1/jobs``, and again by ``POST /v1/jobs/{id}/replay``.

The body goes past FastAPI, which would parse it: an envelope may have 32 MiB, and the request in it is kept as it is.
``accepted`` is the answer to whoever asked for one later, on a native surface too.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated, Any, cast

from fastapi import APIRouter, Header, Request
from fastapi.responses import Response

from relay.broker.api_keys import ApiKey
from relay.broker.queue import Accepted, JobStatus
from relay.core import content
from relay.core.body import Endpoint
from relay.core.errors import Conflict
from relay.core.job import FAILED, Job
from relay.ingress.documentation import KEY, problems
from relay.ingress.exchange import Exchange, Receive, Scope, Send
from relay.ingress.headers import HeaderList, budget_headers, by_name, trace_of
from relay.ingress.jobs.access import JobId, checked, key_of
from relay.ingress.jobs.new_job import NewJob
from relay.ingress.jobs.views import JobView
from relay.ingress.paths import PATHS
from relay.ingress.requests import authenticate, check_content_type, check_scope
from relay.ingress.submission import CACHE_HEADER, IDEMPOTENCY_HEADER, LOG_HEADER, Asked, Terms, once, plan
from relay.ingress.wiring import Ingress

REPLAYED = (b"idempotent-replayed", b"true")  # as Stripe names it

IdempotencyKey = Annotated[
    str | None,
    Header(description="Your own name for this request: sent again within 24 h, it is answered with the same job."),
]

_ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {"model": JobView, "headers": {"location": {"schema": {"type": "string"}, "description": "Of the job."}}}
}


class JobSubmission:
    """Jobs are accepted here."""

    def __init__(self, ingress: Ingress) -> None:
        self._ingress = ingress

    def router(self) -> APIRouter:
        router = APIRouter(tags=["jobs"], dependencies=KEY)
        router.add_api_route(
            "/v1/jobs",
            self.submit,
            methods=["POST"],
            status_code=202,
            summary="Submit a job",
            description="The request in `body` is sent to the provider byte for byte as it stands here, with the "
            "headers that a call of the endpoint itself would have. It is finished whether or not anybody reads it.",
            response_class=Response,
            responses=_ACCEPTED | problems(400, 401, 403, 404, 408, 413, 415, 422, 429, 503),
            openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": _schema()}}}},
        )
        router.add_api_route(
            "/v1/jobs/{job_id}/replay",
            self.replay,
            methods=["POST"],
            status_code=202,
            summary="Run a failed job again",
            description="As a new job with the same request, routed as things are now.",
            response_class=Response,
            responses=_ACCEPTED | problems(400, 401, 403, 404, 409, 410, 422, 429, 503),
        )
        return router

    async def submit(self, idempotency_key: IdempotencyKey = None) -> Response:
        return _Submission(self._ingress)

    async def replay(self, request: Request, job_id: JobId, idempotency_key: IdempotencyKey = None) -> Response:
        ingress = self._ingress
        key = await key_of(ingress, request, "jobs:write")
        status = await ingress.queue.status(checked(ingress, job_id), key.tenant)
        if status.state != FAILED:
            raise Conflict(f"Only a failed job can be replayed; {job_id} is {status.status}.")
        old = status.job
        body = await ingress.queue.body(old)
        said = by_name(request.headers.raw)
        headers = {name.encode(): value.encode() for name, value in (old.headers | trace_of(said)).items()}
        headers[CACHE_HEADER] = b"auto" if old.auto_cache else b"off"
        terms = Terms("finish", old.metadata, old.priority, webhook=old.webhook)
        asked = Asked(old.surface, cast(Endpoint, old.endpoint), old.query, headers, body)
        job, _ = await plan(ingress, key, asked, terms)
        job = replace(job, replay_of=old.id, log=old.log)
        given = said.get(IDEMPOTENCY_HEADER)
        repeated = asked._replace(headers={IDEMPOTENCY_HEADER: given} if given is not None else {}, query=old.id)
        accepted_as = await ingress.queue.submit(job, body, await once(key, repeated, terms))
        raw, answer = await accepted(ingress, job, accepted_as)
        response = Response(answer, 202)
        response.raw_headers += raw
        return response


class _Submission(Response):
    """Reads its request by itself."""

    def __init__(self, ingress: Ingress) -> None:
        super().__init__()
        self._ingress = ingress

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with Exchange(scope, receive, send, "relay") as exchange:
            headers, answer = await self._submit(exchange)
            await exchange.answer(202, headers, answer)

    async def _submit(self, exchange: Exchange) -> tuple[HeaderList, bytes]:
        ingress, headers = self._ingress, exchange.headers
        key = await authenticate(headers, ingress.api_keys)
        check_scope(key, "jobs:write")
        check_content_type(headers)
        raw = await ingress.bodies.read(exchange)
        try:
            job, accepted_as = await self._accept(key, headers, raw)
        finally:
            ingress.bodies.drop(raw)
        exchange.job_id = accepted_as.job_id
        return await accepted(ingress, job, accepted_as)

    async def _accept(self, key: ApiKey, headers: dict[bytes, bytes], raw: bytes) -> tuple[Job, Accepted]:
        ingress = self._ingress
        envelope = await ingress.inspector.unwrap(raw)
        new = NewJob.of(envelope.options)
        settings, now_ms = ingress.settings, time.time_ns() // 1_000_000
        terms = new.terms(now_ms, settings.pending_ttl_s, allow_private=settings.webhook_allow_private)
        if new.cache:
            headers = headers | {CACHE_HEADER: new.cache.encode()}
        if new.log is not None:
            log = content.asked(new.log, settings.content_ttl_s, "log")
            headers = headers | {LOG_HEADER: (log or content.USAGE).encode()}
        start, end = envelope.body
        body = raw[start:end]
        asked = Asked(*PATHS[new.endpoint], "", headers, body)
        job, _ = await plan(ingress, key, asked, terms)
        return job, await ingress.queue.submit(job, body, await once(key, asked, terms))


async def accepted(ingress: Ingress, job: Job, what: Accepted) -> tuple[HeaderList, bytes]:
    """The headers and the body of a 202.  A job that was there before is shown as it stands by now."""
    status = JobStatus.of_new(job) if what.is_new else await ingress.queue.status(what.job_id, job.tenant)
    location = f"/v1/jobs/{what.job_id}".encode()
    headers = [(b"content-type", b"application/json"), (b"location", location)]
    headers += budget_headers(what.past)
    return [*headers, *([] if what.is_new else [REPLAYED])], JobView.of(status).model_dump_json().encode()


def _schema() -> dict[str, Any]:
    """Of the envelope: the model of everything but the request, and the request."""
    schema = NewJob.model_json_schema()
    request = {
        "type": "object",
        "description": "The request itself, as the endpoint takes it.",
        "properties": {"model": {"type": "string", "minLength": 1}, "messages": {"type": "array"}},
        "required": ["model", "messages"],
    }
    return schema | {"properties": schema["properties"] | {"body": request}, "required": ["endpoint", "body"]}
