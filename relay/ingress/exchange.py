"""One HTTP exchange: a request, and how far its answer has got.

What was sent already decides the form an error can take: a whole answer before the first byte, one last event once a
stream has begun. It knows nothing of jobs; the handlers of this package drive it.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol, Self

from uuid_utils import uuid7

from relay.core.errors import (
    BudgetExceeded,
    Internal,
    RelayError,
    Surface,
    TooManyRequests,
    Unavailable,
    body_of,
    event_of,
)
from relay.ingress.headers import HeaderList, by_name

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

log = logging.getLogger("relay.ingress")


class Connection(Protocol):
    """What an exchange sees of the connection it takes place on."""

    is_lost: bool
    on_lost: Callable[[], None] | None


# A client that is still sending when it is refused must get the chance to stop and read why; closing at once would
# reset the connection and take the answer with it. nginx lingers in the same way, for 5 s without data, 30 s in all.
LINGER_S = 5.0

_CONTENT_TYPE: dict[Surface, bytes] = {
    "anthropic": b"application/json",
    "openai": b"application/json",
    "relay": b"application/problem+json",
}
_REQUEST_ID: dict[Surface, bytes] = {"anthropic": b"request-id", "openai": b"x-request-id", "relay": b"x-request-id"}


class ClientGone(Exception):
    """The client has left; there is nobody to answer."""


class Exchange:
    """A request and its answer."""

    __slots__ = ("_send", "began_s", "first_s", "headers", "job_id", "receive", "scope", "status", "surface", "unread")

    def __init__(self, scope: Scope, receive: Receive, send: Send, surface: Surface) -> None:
        self.scope = scope
        self.receive = receive
        self._send = send
        self.surface = surface
        self.headers: dict[bytes, bytes] = by_name(scope["headers"])
        self.job_id = ""
        self.status = 0  # of the answer, once it has begun
        self.unread = True  # the request's body, or a part of it
        self.began_s = time.perf_counter()
        self.first_s = 0.0  # when the first event went out

    async def __aenter__(self) -> Self:
        """Whatever goes wrong inside, the client is told in the form that is still possible."""
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, RelayError):
            await self.fail(error)
        elif isinstance(error, Exception) and not isinstance(error, ClientGone):
            await self.fail(unforeseen(error, self.job_id))
        return isinstance(error, Exception)

    @property
    def connection(self) -> Connection:
        found: Connection = self.scope["state"]["connection"]
        return found

    @property
    def begun(self) -> bool:
        return self.status != 0

    def forget_request(self) -> None:
        """Let go of the request's headers, 1 to 3 KB that an open stream does not need."""
        self.headers = {}
        self.scope["headers"].clear()

    async def begin(self, status: int, headers: HeaderList) -> None:
        self.status = status
        if self.job_id:
            headers.append((b"x-relay-job-id", self.job_id.encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def answer(self, status: int, headers: HeaderList, body: bytes) -> None:
        """A whole answer at once."""
        headers.append((b"content-length", b"%d" % len(body)))
        await self.begin(status, headers)
        await self.end(body)

    async def fail(self, error: RelayError) -> None:
        """Tell the client about ``error`` in the form that is still possible."""
        request_id = self.job_id or new_request_id()
        if self.begun:
            await self.end(event_of(error, self.surface, request_id))
            return
        headers = error_headers(error, self.surface, request_id)
        body = body_of(error, self.surface, request_id)
        if self.unread:
            await self._refuse(error.status, headers, body)
        else:
            await self.answer(error.status, headers, body)

    async def _refuse(self, status: int, headers: HeaderList, body: bytes) -> None:
        """Answer a request without reading it, then see the client off."""
        headers += [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        await self.begin(status, headers)
        await self.write(body)
        try:
            async with asyncio.timeout(LINGER_S):
                while (await self.receive()).get("more_body"):
                    pass
        except TimeoutError:
            pass
        await self.end()


def error_headers(error: RelayError, surface: Surface, request_id: str) -> HeaderList:
    """The headers of an error of ours, named as each surface's SDK looks for them."""
    headers = [(b"content-type", _CONTENT_TYPE[surface]), (_REQUEST_ID[surface], request_id.encode())]
    retry_after_s = error.retry_after_s
    if retry_after_s is None and isinstance(error, Unavailable | TooManyRequests):
        retry_after_s = 1
    if retry_after_s is not None:
        can_help = b"false" if isinstance(error, BudgetExceeded) else b"true"  # nobody waits until tomorrow
        headers += [(b"retry-after", b"%d" % retry_after_s), (b"x-should-retry", can_help)]
    elif error.was_retried:
        headers.append((b"x-should-retry", b"false"))
    return headers


def unforeseen(error: Exception, job_id: str = "") -> Internal:
    """Log what nobody thought of, and what to say about it.

    The log gets the place and not the words: those of a foreign exception may quote the prompt.
    """
    place = "".join(traceback.format_tb(error.__traceback__))
    log.error("unforeseen %s, job %s\n%s", type(error).__name__, job_id or "none", place)
    return Internal("The relay failed on this request; its log says where.")


def new_request_id() -> str:
    """For an answer of ours that has no job."""
    return f"req_{uuid7().hex}"
