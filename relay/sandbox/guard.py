"""Keeps the sandbox to this machine: where it may listen, whom it answers, and that callers show a key.

It hands out faults and memory to whoever asks, so being reachable from outside would be an open door.  It therefore
binds to loopback only, and checks the ``Host`` header against loopback names: a web page can point a name of its own at
127.0.0.1 and have the browser do the calling (DNS rebinding), but it cannot choose that header.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from relay.sandbox.refusal import Refusal

_BACKLOG: Final = 2048  # uvicorn's own; a load test opens thousands of connections at once


def listen(host: str, port: int, *, allow_remote: bool = False) -> socket.socket:
    """A listening socket; port 0 is any free one.  ``ValueError`` for an address others could reach."""
    address = "127.0.0.1" if host == "localhost" else host
    if not allow_remote and not is_loopback(address):
        raise ValueError(
            f"the sandbox is for this machine only and does not listen on {host!r}; use 127.0.0.1 or ::1, "
            "or allow remote callers explicitly"
        )
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family, backlog=_BACKLOG)


def url_of(address: tuple[Any, ...]) -> str:
    """The base URL of a socket's address, ``(host, port, …)``."""
    host, port = address[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


class LoopbackNames:
    """ASGI middleware: 421 for a ``Host`` that is no name of this machine."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if all(_is_local_name(host) for host in hosts):
            await self._app(scope, receive, send)
        else:
            await PlainTextResponse("The sandbox answers to loopback names only.\n", 421)(scope, receive, send)


def _is_local_name(host: str) -> bool:
    name = host[1 : host.find("]")] if host.startswith("[") else host.partition(":")[0]
    return name.lower() == "localhost" or is_loopback(name)


def credential_of(headers: Mapping[str, str], wanted: str | None) -> bytes:
    """A digest of the caller's key: caches are kept apart by it.  With both headers ``x-api-key`` counts."""
    key = headers.get("x-api-key")
    if not key:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        key = token.strip() if scheme.lower() == "bearer" else ""
    if not key:
        raise Refusal(401, "no API key: send x-api-key or Authorization: Bearer")
    digest = hashlib.sha256(key.encode()).digest()
    if wanted is not None and not hmac.compare_digest(digest, hashlib.sha256(wanted.encode()).digest()):
        raise Refusal(401, "invalid API key")
    return digest
