"""What ``/docs`` and ``/openapi.json`` say beyond the endpoints' own words: errors, keys, and the native surfaces."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import BaseModel, Field

from relay.core import errors
from relay.core.errors import RelayError, body_of

DESCRIPTION = """
The native surfaces are the providers' own APIs, for unmodified SDKs with only the base URL changed:

| | |
| --- | --- |
| `POST /v1/messages`, `POST /v1/messages/count_tokens` | Anthropic's Messages API, streaming or not |
| `POST /v1/chat/completions` | OpenAI's Chat Completions API, streaming or not |
| `GET /v1/models`, `GET /v1/models/{model}` | in the shape of either |

They answer without `/v1` as well. Bodies, answers and errors are those of the provider's documentation; bytes pass
untouched. Every answer that has a job names it in `x-relay-job-id`, which is what the endpoints below take.
With `x-relay-prompt-digests: 1` the answer carries the SHA-256 of the prompt up to each breakpoint, as received and as
sent, in `x-relay-prompt-sha256-received` and `-sent`.

Keys go into `x-api-key` or `Authorization: Bearer`.
"""

# Only for the documentation: ``relay.ingress.requests`` reads the key, in one way for all endpoints.
KEY = [
    Depends(APIKeyHeader(name="x-api-key", auto_error=False)),
    Depends(HTTPBearer(auto_error=False, scheme_name="Bearer")),
]


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str = Field(examples=["urn:relay:error:not_found"])
    title: str
    status: int
    detail: str
    code: str
    param: str | None = None
    request_id: str | None = None


_EXAMPLES: dict[int, RelayError] = {
    error.status: error
    for error in (
        errors.InvalidRequest("Last-Event-ID 'x' is not an event id of this relay.", param="Last-Event-ID"),
        errors.Unauthenticated("no API key; send it as x-api-key or as Authorization: Bearer"),
        errors.Forbidden("This API key may not do this: it lacks the scope jobs:read."),
        errors.NotFound("No job with the id '0-0199a1b2c3d47e5f8a9b0c1d2e3f4a5b'."),
        errors.Gone("The events of this job have expired."),
        errors.Unavailable("Redis cannot be reached.", retry_after_s=2),
    )
}


_PROBLEM = {"$ref": "#/components/schemas/Problem"}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of an endpoint that can fail in these ways."""
    return {status: _response(_EXAMPLES[status]) for status in statuses}


def _response(error: RelayError) -> dict[str, Any]:
    example = orjson.loads(body_of(error, "relay"))
    content = {"application/problem+json": {"schema": _PROBLEM, "example": example}}
    return {"description": example["title"], "content": content}


def openapi(api: FastAPI) -> dict[str, Any]:
    """The schema, with our form of errors instead of FastAPI's: what does not validate is a 400 here."""
    schema = get_openapi(title=api.title, version=api.version, description=api.description, routes=api.routes)
    for methods in schema["paths"].values():
        for operation in methods.values():
            operation["responses"].pop("422", None)
    schemas = schema["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = Problem.model_json_schema()
    return schema
