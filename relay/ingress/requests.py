"""Reading a request: who sends it, what kind it says it is, and its body, within bounds.

Everything a request can be refused for without understanding it is refused here, before more of it is read than needed.
"""

from __future__ import annotations

from collections.abc import Mapping

from relay.broker.api_keys import ApiKey, ApiKeys
from relay.core.errors import Forbidden, TooLarge, Unavailable, UnsupportedMediaType
from relay.ingress.exchange import ClientGone, Exchange

# How many bodies of the largest size may be in hand at once, from their first byte until Redis has them. 16 of 32 MiB
# are memory an ingress has; what comes beyond is told to come back a second later.
BODIES_IN_HAND = 16


async def authenticate(headers: Mapping[bytes, bytes], keys: ApiKeys) -> ApiKey:
    """Whose request this is.  Raises ``Unauthenticated`` or ``Unavailable``."""
    return await keys.authenticate(presented(headers))


def check_scope(key: ApiKey, scope: str) -> None:
    """Raises ``Forbidden`` unless the key may do this."""
    if scope not in key.scopes:
        raise Forbidden(f"This API key may not do this: it lacks the scope {scope}.")


def presented(headers: Mapping[bytes, bytes]) -> str | None:
    """The API key in a request: ``x-api-key``, which counts when both are there, or a bearer token."""
    if key := headers.get(b"x-api-key"):
        return key.decode("latin-1")
    kind, _, token = headers.get(b"authorization", b"").partition(b" ")
    return token.strip().decode("latin-1") if kind.lower() == b"bearer" else None


def check_content_type(headers: Mapping[bytes, bytes]) -> None:
    """Raises ``UnsupportedMediaType`` unless the body says it is plain JSON."""
    came = headers.get(b"content-type", b"")
    if came.partition(b";")[0].strip().lower() != b"application/json":
        what = repr(came.decode("latin-1")[:80]) if came else "none"
        raise UnsupportedMediaType(f"Content-Type must be application/json; here it is {what}.", param="content-type")
    encoding = headers.get(b"content-encoding", b"identity")
    if encoding.lower() != b"identity":
        what = repr(encoding.decode("latin-1")[:80])
        raise UnsupportedMediaType(f"The body must not be encoded; here it is {what}.", param="content-encoding")


class Bodies:
    """Reads the bodies of requests, within what one of them and all together may hold in memory."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0

    async def read(self, exchange: Exchange) -> bytes:
        """The whole body; ``drop`` it when done with it.  How long it may take is the connection's business.

        Raises ``TooLarge`` before it reads more than it must, ``Unavailable`` and ``ClientGone``.
        """
        announced = exchange.headers.get(b"content-length")
        if announced is not None and int(announced) > self._limit_bytes:
            raise self._too_large(f"{int(announced)} bytes")
        pieces: list[bytes] = []
        size = 0
        try:
            while exchange.unread:
                message = await exchange.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                pieces.append(message["body"])
                size += len(pieces[-1])
                exchange.unread = message["more_body"]
                self._take(len(pieces[-1]), size)
        except BaseException:
            self._held_bytes -= size
            raise
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def drop(self, body: bytes) -> None:
        self._held_bytes -= len(body)

    def _take(self, more_bytes: int, size: int) -> None:
        self._held_bytes += more_bytes
        if size > self._limit_bytes:
            raise self._too_large("longer")
        if self._held_bytes > BODIES_IN_HAND * self._limit_bytes:
            raise Unavailable("The relay has too many large requests in hand.", retry_after_s=1)

    def _too_large(self, what: str) -> TooLarge:
        return TooLarge(f"The request body is {what}; the limit is {self._limit_bytes} bytes.")
