"""Errors as RFC 9457 has them, in the OpenAPI documents of our HTTP processes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
from pydantic import BaseModel, Field

from relay.core.errors import RelayError, body_of


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str = Field(examples=["urn:relay:error:not_found"])
    title: str
    status: int
    detail: str
    code: str
    param: str | None = None
    request_id: str | None = None


class Problems:
    """The errors of one document, each by an example."""

    def __init__(self, examples: Iterable[RelayError]) -> None:
        self._examples = {error.status: error for error in examples}

    def __call__(self, *statuses: int) -> dict[int | str, dict[str, Any]]:
        """The ``responses`` of an endpoint that can fail in these ways."""
        return {status: _response(self._examples[status]) for status in statuses}


def _response(error: RelayError) -> dict[str, Any]:
    example = orjson.loads(body_of(error, "relay"))
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        "description": example["title"],
        "content": {"application/problem+json": {"schema": schema, "example": example}},
    }
