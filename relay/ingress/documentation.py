"""What ``/docs`` and ``/openapi.json`` say beyond the endpoints' own words: errors, keys, and the native surfaces."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.security import APIKeyHeader, APIKeyQuery, HTTPBearer

from relay.core import errors
from relay.problems import Problem, Problems

DESCRIPTION = """
The native surfaces are the providers' own APIs, for unmodified SDKs with only the base URL changed:

| | |
| --- | --- |
| `POST /v1/messages`, `POST /v1/messages/count_tokens` | Anthropic's Messages API, streaming or not |
| `POST /v1/chat/completions` | OpenAI's Chat Completions API, streaming or not |
| `/v1/messages/batches`, `/v1/files` and `/v1/batches` | both providers' batches, each request a job of low priority |
| `GET /v1/models`, `GET /v1/models/{model}` | in the shape of either |

They answer without `/v1` as well. Bodies, answers and errors are those of the provider's documentation; bytes pass
untouched. Every answer that has a job names it in `x-relay-job-id`, which is what the endpoints below take.
With `x-relay-prompt-digests: 1` the answer carries the SHA-256 of the prompt up to each breakpoint, as received and as
sent, in `x-relay-prompt-sha256-received` and `-sent`.

With `Prefer: respond-async` a call is answered at once with 202 and a job, to be fetched by the endpoints below. With
an `Idempotency-Key` it may be sent again within 24 h and is answered by the same job; one that streams is read from
its start. `x-relay-on-disconnect: finish` finishes a call whose client has left, `cancel` cancels it after 10 s.

Usage is recorded of every call, content never, unless `x-relay-log: content` asks for it: the console then has what was
asked and answered for 30 days, or with `content; ttl=3600` for so many seconds.

Where a budget of the key or its tenant is used up, calls get a 429 until the day or the month (UTC) is over; past a
soft bound they go on, and answers say so in `x-relay-budget`.

A job's `webhook` is told of its end as Standard Webhooks has it: a POST of the type `job.completed`, `job.failed` or
`job.cancelled` that says which job it is, signed with the tenant's secret, and tried again for a day.

Keys go into `x-api-key` or `Authorization: Bearer`. A web page that watches a job gets a stream token instead, which
goes into the query; `RELAY_CORS_ORIGINS` says whose pages may.
"""

# Only for the documentation: ``relay.ingress.requests`` reads the key, in one way for all endpoints.
KEY = [
    Depends(APIKeyHeader(name="x-api-key", auto_error=False)),
    Depends(HTTPBearer(auto_error=False, scheme_name="Bearer")),
]
# Beside a key, where a page may look by itself.
TOKEN = [Depends(APIKeyQuery(name="token", auto_error=False, scheme_name="StreamToken"))]


problems = Problems(
    (
        errors.InvalidRequest("Last-Event-ID 'x' is not an event id of this relay.", param="Last-Event-ID"),
        errors.Unauthenticated("no API key; send it as x-api-key or as Authorization: Bearer"),
        errors.Forbidden("This API key may not do this: it lacks the scope jobs:read."),
        errors.NotFound("No job with the id '0-0199a1b2c3d47e5f8a9b0c1d2e3f4a5b'."),
        errors.RequestTimeout("The request came too slowly."),
        errors.Conflict("Only a failed job can be replayed; 0-0199a1b2c3d47e5f8a9b0c1d2e3f4a5b is completed."),
        errors.Gone("The events of this job have expired."),
        errors.TooLarge("The request body is 40000000 bytes; the limit is 33554432 bytes."),
        errors.UnsupportedMediaType("Content-Type must be application/json; here it is none.", param="content-type"),
        errors.UnprocessableEntity("This Idempotency-Key belongs to another request.", param="Idempotency-Key"),
        errors.TooManyRequests("The queue is full: 10000 jobs wait, the limit is 10000.", retry_after_s=5),
        errors.Unavailable("Redis cannot be reached.", retry_after_s=2),
    )
)


def openapi(api: FastAPI) -> dict[str, Any]:
    """The schema, with our form of errors instead of FastAPI's: what does not validate is a 400 here."""
    schema = get_openapi(title=api.title, version=api.version, description=api.description, routes=api.routes)
    for methods in schema["paths"].values():
        for operation in methods.values():
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
    schemas = schema["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = Problem.model_json_schema()
    return schema
