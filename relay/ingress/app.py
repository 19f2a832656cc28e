"""The ingress as one ASGI application.

The native surfaces are looked up by method and path and called at once. Everything else is FastAPI's, with the relay's
errors. Whatever goes wrong is answered in the shape of the surface that the path belongs to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from importlib import metadata
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from relay.core.errors import InvalidRequest, MethodNotAllowed, NotFound, RelayError, Surface, body_of
from relay.http_metrics import Timed
from relay.ingress.batches.anthropic import AnthropicBatches
from relay.ingress.batches.openai import OpenAIBatches
from relay.ingress.batches.openai_files import OpenAIFiles
from relay.ingress.documentation import DESCRIPTION, openapi
from relay.ingress.exchange import Receive, Scope, Send, error_headers, new_request_id, unforeseen
from relay.ingress.jobs.events import JobStreams
from relay.ingress.jobs.result import JobResults
from relay.ingress.jobs.routes import Jobs
from relay.ingress.jobs.stream_tokens import StreamTokens
from relay.ingress.jobs.submit import JobSubmission
from relay.ingress.jobs.webhooks import JobWebhooks
from relay.ingress.models import Models
from relay.ingress.native import Native
from relay.ingress.operations import Operations
from relay.ingress.paths import PATHS
from relay.ingress.wiring import Ingress

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]

# The first step of a path, behind the version, to the API it belongs to, whether or not we serve it.
_SURFACES: dict[str, Surface] = {
    "messages": "anthropic",
    "complete": "anthropic",
    **dict.fromkeys(("chat", "completions", "responses", "embeddings", "images", "audio"), "openai"),
    **dict.fromkeys(("files", "batches"), "openai"),
}


class App:
    """What uvicorn calls."""

    def __init__(self, ingress: Ingress) -> None:
        self._native: dict[tuple[str, str], Handler] = {
            ("POST", path): Native(ingress, surface, endpoint) for path, (surface, endpoint) in PATHS.items()
        }
        self._rest = Timed(_api(ingress), ingress.metrics.durations)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        handler = self._native.get((scope["method"], scope["path"]), self._others)
        return handler(scope, receive, send)

    async def _others(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in PATHS:
            await _not_allowed(Request(scope), "POST")(scope, receive, send)
            return
        if scope["method"] == "HEAD" and not scope["path"].endswith("/stream"):
            # Answered as GET; uvicorn still has the scope as it came, and leaves the body out. A stream has no end.
            scope = {**scope, "method": "GET"}
        # Starlette raises again what its handlers have answered and we have logged.
        with contextlib.suppress(Exception):
            await self._rest(scope, receive, send)


def surface_of(path: str, headers: Mapping[str, str]) -> Surface:
    """Whose clients expect something at this path."""
    step = path.removeprefix("/v1").lstrip("/").partition("/")[0]
    if step == "models":
        return "anthropic" if "anthropic-version" in headers else "openai"
    return _SURFACES.get(step, "relay")


def _api(ingress: Ingress) -> FastAPI:
    version = metadata.version("llm-relay")
    api = _Documented(title="relay", description=DESCRIPTION, version=version, redoc_url=None, redirect_slashes=False)
    jobs = (JobSubmission, Jobs, JobStreams, StreamTokens, JobResults, JobWebhooks)
    for part in (*jobs, AnthropicBatches, OpenAIBatches, OpenAIFiles, Models, Operations):
        api.include_router(part(ingress).router())
    api.add_exception_handler(RelayError, _on_relay_error)
    api.add_exception_handler(RequestValidationError, _on_invalid)
    api.add_exception_handler(HTTPException, _on_http)
    api.add_exception_handler(Exception, _on_unforeseen)
    return api


class _Documented(FastAPI):
    def openapi(self) -> dict[str, Any]:
        self.openapi_schema = self.openapi_schema or openapi(self)
        return self.openapi_schema


# Starlette's type for handlers knows no subclass of Exception; each is registered for the class it asserts.


async def _on_relay_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RelayError)
    return _answer(request, error)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = str(first["loc"][-1])
    return _answer(request, InvalidRequest(f"{where}: {first['msg']}", param=where))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == MethodNotAllowed.status:
        return _not_allowed(request, (error.headers or {}).get("Allow", "GET"))
    if error.status_code == NotFound.status:
        return _answer(request, NotFound(f"There is nothing at {request.url.path[:200]!r}."))
    return _answer(request, InvalidRequest("This request cannot be understood."))


async def _on_unforeseen(request: Request, error: Exception) -> Response:
    return _answer(request, unforeseen(error))


def _not_allowed(request: Request, method: str) -> Response:
    """What OPTIONS asks for, and what any other wrong method is told."""
    allow = {"allow": f"{method}, {'HEAD, ' if method == 'GET' else ''}OPTIONS"}
    if request.method == "OPTIONS":
        return Response(status_code=204, headers=allow)
    error = MethodNotAllowed(f"{request.method} is not allowed here; {method} is.")
    response = _answer(request, error)
    response.headers.update(allow)
    return response


def _answer(request: Request, error: RelayError) -> Response:
    surface = surface_of(request.url.path, request.headers)
    request_id = new_request_id()
    response = Response(body_of(error, surface, request_id), error.status)
    response.raw_headers += error_headers(error, surface, request_id)
    return response
