"""What the documentation says of our endpoints that have a provider's shape: their errors are that provider's too."""

from __future__ import annotations

from typing import Any

import orjson

from relay.core.errors import (
    Conflict,
    Forbidden,
    Gone,
    InvalidRequest,
    NotFound,
    RelayError,
    RequestTimeout,
    Surface,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
    body_of,
)

Responses = dict[int | str, dict[str, Any]]

_EXAMPLES: dict[int, RelayError] = {
    error.status: error
    for error in (
        InvalidRequest("requests.3.custom_id: Field required.", param="requests.3.custom_id"),
        Unauthenticated("no API key; send it as x-api-key or as Authorization: Bearer"),
        Forbidden("This API key may not do this: it lacks the scope jobs:write."),
        NotFound("No batch with the id 'batch_0_0199a1b2c3d47e5f8a9b0c1d2e3f4a5b'.", param="id"),
        RequestTimeout("The request came too slowly."),
        Conflict("msgbatch_0_0199a1b2c3d47e5f8a9b0c1d2e3f4a5b is still being processed; cancel it first."),
        Gone("The results are not kept any more."),
        TooLarge("The request body is 200000000 bytes; the limit is 104857600 bytes."),
        UnsupportedMediaType("Content-Type must be application/json; here it is none.", param="content-type"),
        Unavailable("Redis cannot be reached.", retry_after_s=2),
    )
}


def errors(surface: Surface, *statuses: int) -> Responses:
    """The ``responses`` of an endpoint that can fail in these ways."""
    return {status: _response(surface, _EXAMPLES[status]) for status in statuses}


def _response(surface: Surface, error: RelayError) -> dict[str, Any]:
    example = orjson.loads(body_of(error, surface, "req_0199a1b2c3d47e5f8a9b0c1d2e3f4a5b"))
    content = {"application/json": {"schema": {"type": "object", "required": ["error"]}, "example": example}}
    return {"description": error.code.replace("_", " ").capitalize(), "content": content}
