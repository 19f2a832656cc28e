"""``GET /v1/models``, in the shape of whichever SDK asks.

Both shapes live at one path. Anthropic's SDKs always send ``anthropic-version``; whoever does not gets OpenAI's shape.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from relay.core.errors import NotFound
from relay.core.routing import Listed
from relay.ingress.documentation import KEY
from relay.ingress.headers import by_name
from relay.ingress.requests import authenticate
from relay.ingress.surface_docs import errors
from relay.ingress.wiring import Ingress

Limit = Annotated[int, Query(ge=1, le=1000, description="Anthropic's shape only, as the ids.")]

# We do not know when a model came out; Anthropic's documentation gives the epoch for that.
_UNKNOWN_DATE = "1970-01-01T00:00:00Z"


class Models:
    """The list of what routes, and its entries."""

    def __init__(self, ingress: Ingress) -> None:
        self._ingress = ingress

    def router(self) -> APIRouter:
        router = APIRouter(tags=["models"], dependencies=KEY)
        for path in ("/v1/models", "/models"):
            in_docs = path.startswith("/v1")
            router.add_api_route(
                path,
                self.all,
                methods=["GET"],
                summary="Models",
                responses=errors("openai", 400, 401, 503),
                include_in_schema=in_docs,
            )
            router.add_api_route(
                f"{path}/{{model:path}}",
                self.one,
                methods=["GET"],
                summary="A model",
                description="Any name that routes: an alias, `provider/model`, or a bare name.",
                responses=errors("openai", 401, 404, 503),
                include_in_schema=in_docs,
            )
        return router

    async def all(
        self, request: Request, limit: Limit = 20, after_id: str | None = None, before_id: str | None = None
    ) -> JSONResponse:
        await self._authenticate(request)
        listed = self._ingress.router.models()
        if is_anthropic(request):
            return JSONResponse(anthropic_page(listed, limit, after_id, before_id))
        return JSONResponse({"object": "list", "data": [_openai(entry) for entry in listed]})

    async def one(self, request: Request, model: str) -> JSONResponse:
        await self._authenticate(request)
        target = self._ingress.router.resolve(model)[0]
        entry = Listed(model, target.provider, target.dialect)
        return JSONResponse(_anthropic(entry) if is_anthropic(request) else _openai(entry))

    async def _authenticate(self, request: Request) -> None:
        await authenticate(by_name(request.headers.raw), self._ingress.api_keys)


def is_anthropic(request: Request) -> bool:
    return "anthropic-version" in request.headers


def anthropic_page(
    listed: tuple[Listed, ...], limit: int, after_id: str | None, before_id: str | None
) -> dict[str, Any]:
    """One page: the first ``limit`` entries behind ``after_id``, or the last ones before ``before_id``."""
    ids = [entry.id for entry in listed]
    for cursor in (after_id, before_id):
        if cursor is not None and cursor not in ids:
            raise NotFound(f"There is no model {cursor[:100]!r} in the list.")
    start = ids.index(after_id) + 1 if after_id is not None else 0
    end = ids.index(before_id) if before_id is not None else len(ids)
    found = listed[start:end]
    backwards = before_id is not None and after_id is None
    page = found[-limit:] if backwards else found[:limit]
    return {
        "data": [_anthropic(entry) for entry in page],
        "has_more": len(page) < len(found),
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
    }


def _anthropic(entry: Listed) -> dict[str, Any]:
    return {
        "type": "model",
        "id": entry.id,
        "display_name": entry.id,
        "created_at": _UNKNOWN_DATE,
        "lifecycle": "active",
        "deprecated_at": None,
        "retires_at": None,
        "line": None,
        "max_input_tokens": None,
        "max_tokens": None,
        "capabilities": None,
    }


def _openai(entry: Listed) -> dict[str, Any]:
    return {"id": entry.id, "object": "model", "created": 0, "owned_by": entry.provider}
