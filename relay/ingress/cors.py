"""CORS: which web pages may use the relay from a browser, on every surface alike.

``main`` puts it before the application where ``RELAY_CORS_ORIGINS`` names some; without them it costs nothing, and
browsers keep our answers from pages of other origins. It allows no cookies: what counts here are keys and tokens, which
a page must have to send. Answers that are refused below HTTP (a head too large) are not for pages to read.

Different from Starlette's middleware on purpose: that one looks at the request's headers again when the answer begins,
and an open stream has let go of them by then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from relay.ingress.exchange import Message, Receive, Scope, Send
from relay.ingress.headers import HeaderList

# What browsers hide from a page unless told otherwise: the job, the ids to complain with, and when to come back.
EXPOSED = (
    *("x-relay-job-id", "request-id", "x-request-id", "retry-after", "retry-after-ms", "x-should-retry"),
    *("x-relay-budget", "x-relay-cache-control", "x-relay-prompt-sha256-received", "x-relay-prompt-sha256-sent"),
    *("location", "preference-applied"),
)
METHODS = ("GET", "POST", "DELETE")
# Chromium forgets after two hours whatever it is told.
MAX_AGE_S = 7200


class Cors:
    """An ASGI application that lets pages of these origins talk to another one."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], origins: Iterable[str]) -> None:
        self._app = app
        self._answers: dict[bytes, HeaderList] = {origin.encode(): _answer_headers(origin) for origin in origins}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        headers = dict(scope["headers"])
        allowed = self._answers.get(headers.get(b"origin", b""))
        if allowed is None:
            # Nobody's page, or one that nobody named. Caches must not give this answer to the others.
            return self._app(scope, receive, _with_headers(send, _VARY))
        if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
            return _preflight(send, allowed, headers.get(b"access-control-request-headers", b""))
        return self._app(scope, receive, _with_headers(send, allowed))


_VARY: HeaderList = [(b"vary", b"Origin")]


def _answer_headers(origin: str) -> HeaderList:
    return [
        *_VARY,
        (b"access-control-allow-origin", origin.encode()),
        (b"access-control-expose-headers", ", ".join(EXPOSED).encode()),
    ]


def _with_headers(send: Send, more: HeaderList) -> Send:
    async def send_with(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *more]
        await send(message)

    return send_with


async def _preflight(send: Send, allowed: HeaderList, wanted: bytes) -> None:
    """Every header a page asks for is allowed: SDKs send a dozen of their own, and none has a meaning it should not."""
    headers = [
        *allowed,
        (b"access-control-allow-methods", ", ".join(METHODS).encode()),
        (b"access-control-max-age", b"%d" % MAX_AGE_S),
        *([(b"access-control-allow-headers", wanted)] if wanted else []),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
