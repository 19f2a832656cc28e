"""The console as one ASGI application: operations, the usage API, the dashboard and its files.

Errors below ``/dashboard`` are pages, everywhere else problem documents.
"""

from __future__ import annotations

from importlib import metadata, resources
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from relay.console.answers import Protected, problem, unforeseen
from relay.console.content_api import ContentApi
from relay.console.filters import refusal
from relay.console.operations import Operations
from relay.console.pages import DASHBOARD, STATIC
from relay.console.pages.budgets import BudgetsPage
from relay.console.pages.content import ContentPage
from relay.console.pages.errors import error_page
from relay.console.pages.job import JobPage
from relay.console.pages.jobs import JobsPage
from relay.console.pages.keys import KeysPage
from relay.console.pages.login import LoginPage
from relay.console.pages.overview import OverviewPage
from relay.console.pages.site import LoginNeeded, Site
from relay.console.pages.usage import UsagePage
from relay.console.usage_api import UsageApi
from relay.console.wiring import Console
from relay.core.errors import InvalidRequest, MethodNotAllowed, NotFound, RelayError
from relay.http_metrics import Timed
from relay.problems import Problem

DESCRIPTION = """
What provider calls cost, and what caching saved. Keys go into `x-api-key` or `Authorization: Bearer`; a key needs the
scope `usage:read` and sees its own tenant, one with the scope `admin` sees all of them.

Tokens are in disjoint buckets: uncached input, cache reads, cache writes for 5 minutes and for an hour, output. Money
is in nano-dollars, integers: `baseline` is what the input had cost without a cache, `read_savings` minus
`write_premium` is `net_saved`. Unknown is null, and counted: `unreported` calls came without token counts, `unpriced`
ones have no price.
"""


def application(console: Console) -> ASGIApp:
    """What uvicorn calls."""
    version = metadata.version("llm-relay")
    api = _Documented(
        title="relay console",
        description=DESCRIPTION,
        version=version,
        docs_url=None,  # FastAPI's page loads its scripts from elsewhere, which our policy forbids
        redoc_url=None,
        redirect_slashes=False,
    )
    for part in (Operations, UsageApi, ContentApi):
        api.include_router(part(console).router())
    site = Site(console)
    for page in (LoginPage, OverviewPage, UsagePage, JobsPage, JobPage, ContentPage, KeysPage, BudgetsPage):
        api.include_router(page(site).router(), include_in_schema=False)
    api.mount(STATIC, StaticFiles(directory=str(resources.files("relay.console") / "static")))
    for path in ("/", f"{DASHBOARD}/"):
        api.add_api_route(path, _to_dashboard, methods=["GET"], include_in_schema=False)
    _answer_errors(api, site)
    return Protected(Timed(api, console.durations))


async def _to_dashboard() -> Response:
    return RedirectResponse(DASHBOARD, 303)


class _Documented(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """With our form of errors instead of FastAPI's: what does not validate is a 400 here."""
        if not self.openapi_schema:
            schema = get_openapi(
                title=self.title, version=self.version, description=self.description, routes=self.routes
            )
            for methods in schema["paths"].values():
                for operation in methods.values():
                    operation["responses"].pop("422", None)
            schemas = schema["components"]["schemas"]
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            schemas["Problem"] = Problem.model_json_schema()
            self.openapi_schema = schema
        return self.openapi_schema


def _answer_errors(api: FastAPI, site: Site) -> None:
    """Whatever goes wrong is a ``RelayError`` in the end."""

    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, LoginNeeded):
            return error.redirect()
        found = _relay_error(request, error)
        if request.url.path.startswith(DASHBOARD):
            return await error_page(site, request, found)
        response = problem(found)
        if isinstance(error, HTTPException) and error.headers:
            response.headers.update(error.headers)
        return response

    for kind in (RelayError, LoginNeeded, RequestValidationError, HTTPException, Exception):
        api.add_exception_handler(kind, answer)


def _relay_error(request: Request, error: Exception) -> RelayError:
    if isinstance(error, RelayError):
        return error
    if isinstance(error, RequestValidationError):
        return refusal(list(error.errors()))
    if isinstance(error, HTTPException):
        if error.status_code == MethodNotAllowed.status:
            return MethodNotAllowed(f"{request.method} is not allowed here.")
        if error.status_code == NotFound.status:
            return NotFound(f"There is nothing at {request.url.path[:200]!r}.")
        return InvalidRequest("This request cannot be understood.")
    return unforeseen(request, error)
