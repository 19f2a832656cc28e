"""What every answer of the console has in common: headers that protect whoever reads it, and the form of an error."""

from __future__ import annotations

import logging
import traceback
from collections.abc import MutableMapping
from typing import Any, Final

from fastapi import Request
from fastapi.responses import Response
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils import uuid7

from relay.console.pages import STATIC
from relay.core import errors
from relay.core.errors import Internal, RelayError, TooManyRequests, Unavailable, body_of
from relay.problems import Problems

log = logging.getLogger("relay.console")

# Scripts, styles and pictures are files of ours; nothing inline, nothing from elsewhere, nobody may frame us.
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    # Not no-referrer: a form would then be sent with the origin "null", which we refuse.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class Protected:
    """Adds these headers to every answer; HEAD is answered as GET, uvicorn leaves the body out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add(message, "no-cache" if scope["path"].startswith(STATIC) else "no-store")
            await send(message)

        if scope["type"] == "http" and scope["method"] == "HEAD" and not scope["path"].endswith("/live"):
            scope = {**scope, "method": "GET"}
        try:
            await self._app(scope, receive, protected)
        except Exception:  # answered and logged by its handler, or the answer had begun and is cut off by uvicorn
            if scope["type"] != "http":
                raise


def _add(message: MutableMapping[str, Any], caching: str) -> None:
    headers = MutableHeaders(raw=message.setdefault("headers", []))
    for name, value in _HEADERS.items():
        headers[name] = value
    headers.setdefault("cache-control", caching)


def problem(error: RelayError) -> Response:
    """An error as RFC 9457 has it."""
    request_id = f"req_{uuid7().hex}"
    headers = {"x-request-id": request_id, **retry_headers(error)}
    return Response(body_of(error, "relay", request_id), error.status, headers, "application/problem+json")


def retry_headers(error: RelayError) -> dict[str, str]:
    after_s = error.retry_after_s or (1 if isinstance(error, Unavailable | TooManyRequests) else None)
    return {} if after_s is None else {"retry-after": str(after_s)}


def unforeseen(request: Request, error: Exception) -> Internal:
    """Log what nobody thought of: where, and not the words, which may quote a client."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{where.filename}:{where.lineno}"
    log.error("%s %s: %s at %s", request.method, request.url.path, type(error).__name__, place)
    return Internal("Something went wrong in the console; its log says where.")


# -- for the documentation -----------------------------------------------------------------------------------------


problems = Problems(
    (
        errors.InvalidRequest("limit: Input should be less than or equal to 1000, not '5000'.", param="limit"),
        errors.Unauthenticated("no API key; send it as x-api-key or as Authorization: Bearer"),
        errors.Forbidden("This API key may not do this: it lacks the scope usage:read."),
        errors.NotFound("No content is kept of a job with the id '0-0199a1b2c3d47e5f8a9b0c1d2e3f4a5b'."),
        errors.Unavailable("The ledger's database cannot be reached.", retry_after_s=2),
    )
)
