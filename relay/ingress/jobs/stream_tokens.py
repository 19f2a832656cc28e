"""Stream tokens: a web page's right to watch one job for a while, and to do nothing else.

EventSource cannot send headers, and an API key has no business in a page. So the page's backend, which has a key, asks
for a token; it goes into the query, which nothing of ours writes to a log. A token is a JWT (HS256) and names the job,
its tenant and its own end. One alone cannot be called back, which is why they are short-lived.
"""

from __future__ import annotations

import time

import jwt
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect

from relay.core.errors import InvalidRequest, TooLarge, Unauthenticated
from relay.ingress.documentation import KEY, problems
from relay.ingress.jobs.access import JobId, checked, key_of
from relay.ingress.wiring import Ingress

# An answer, a reload, a lunch break; after that the page asks its backend again.
TTL_S, TTL_S_MAX = 3600, 86_400

# The clocks of two ingresses may differ by so much.
LEEWAY_S = 30

# Tokens have some 250 bytes, requests for one some 20. What is much longer is neither.
TOKEN_CHARS_MAX, BODY_BYTES_MAX = 1024, 4096

_ALGORITHM, _AUDIENCE = "HS256", "relay/job-stream"
_CLAIMS = ["aud", "exp", "iat", "sub", "tenant"]


class NewStreamToken(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    ttl_s: int = Field(TTL_S, strict=True, ge=1, le=TTL_S_MAX, description="How long it is good for.")


class StreamToken(BaseModel):
    """What a page needs to watch a job: the ``url`` is for EventSource as it stands."""

    token: str
    expires_at: int = Field(description="Unix time in seconds.")
    url: str = Field(examples=["/v1/jobs/0-0199a1b2c3d47e5f8a9b0c1d2e3f4a5b/stream?token=eyJ…"])


class StreamTokens:
    """Tokens are made here, and looked at wherever a page may come by itself (``reader_of``)."""

    def __init__(self, ingress: Ingress) -> None:
        self._ingress = ingress

    def router(self) -> APIRouter:
        router = APIRouter(tags=["jobs"], dependencies=KEY)
        body = {"required": False, "content": {"application/json": {"schema": NewStreamToken.model_json_schema()}}}
        router.add_api_route(
            "/v1/jobs/{job_id}/stream_tokens",
            self.make,
            methods=["POST"],
            summary="Make a token for a job's stream",
            description="For a web page, in place of a key: `?token=…` shows this job and its stream and nothing else. "
            "It cannot be called back, but ends by itself.",
            responses=problems(400, 401, 403, 404, 413, 503),
            openapi_extra={"requestBody": body},
        )
        return router

    async def make(self, request: Request, response: Response, job_id: JobId) -> StreamToken:
        ingress = self._ingress
        key = await key_of(ingress, request, "jobs:read")
        wanted = await _wanted(request)
        status = await ingress.queue.status(checked(ingress, job_id), key.tenant)
        # As many clocks as there are ingresses: the secret must outlive what the slowest of them still takes.
        secret = await ingress.stream_secret.to_sign(TTL_S_MAX + 2 * LEEWAY_S)
        now = int(time.time())
        expires_at = now + wanted.ttl_s
        claims = {"aud": _AUDIENCE, "sub": status.job.id, "tenant": key.tenant, "iat": now, "exp": expires_at}
        token = jwt.encode(claims, secret, _ALGORITHM)
        response.headers["cache-control"] = "no-store"
        return StreamToken(token=token, expires_at=expires_at, url=f"/v1/jobs/{job_id}/stream?token={token}")


async def reader_of(ingress: Ingress, request: Request, job_id: str) -> str:
    """The tenant of whoever may see this job: by the token in the query or, where there is none, by a key.

    Raises ``Unauthenticated``, ``Forbidden`` and ``Unavailable``.
    """
    token = request.query_params.get("token")
    if token is None:
        return (await key_of(ingress, request, "jobs:read")).tenant
    secret = await ingress.stream_secret.to_check()
    if secret is None or len(token) > TOKEN_CHARS_MAX:
        raise _refusal("is none of this relay")
    return _tenant_in(token, secret, job_id)


def _tenant_in(token: str, secret: bytes, job_id: str) -> str:
    try:
        claims = jwt.decode(
            token, secret, [_ALGORITHM], audience=_AUDIENCE, leeway=LEEWAY_S, options={"require": _CLAIMS}
        )
    except jwt.ExpiredSignatureError as error:
        raise _refusal("has expired; ask for another one") from error
    except jwt.InvalidTokenError as error:
        raise _refusal("is none of this relay") from error
    if claims["sub"] != job_id:
        raise _refusal(f"is not for the job {job_id!r}")
    tenant: str = claims["tenant"]
    return tenant


def _refusal(why: str) -> Unauthenticated:
    return Unauthenticated(f"this stream token {why}", param="token")


async def _wanted(request: Request) -> NewStreamToken:
    """What the body asks for; it may be left out.  Raises ``InvalidRequest`` and ``TooLarge``."""
    raw = bytearray()
    try:
        async for piece in request.stream():
            raw += piece
            if len(raw) > BODY_BYTES_MAX:
                raise TooLarge(f"The request body is longer than {BODY_BYTES_MAX} bytes.")
        return NewStreamToken.model_validate_json(raw or b"{}")
    except ClientDisconnect as error:
        raise InvalidRequest("The request was cut off.") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))[:80] or "body"
        raise InvalidRequest(f"{where}: {first['msg']}.", param=where) from error
