"""Posts a webhook, and goes nowhere it must not: the one place that connects to where a client says.

A name is resolved once, by the very connection that is then made to one of its addresses, and every address is looked
at, so that a name which leads elsewhere the next time (DNS rebinding) gains nothing. No redirect is followed, no proxy
or cookie is used, no connection is kept, and nothing of an answer but its status is looked at, or told to anybody.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from relay.core.webhook import Reply
from relay.core.webhook_target import check, is_public

# The addresses of a host.
Lookup = Callable[[str, int], Awaitable[list[str]]]

# Of an answer, so much is taken before the connection is cut, that receivers need not see it break.
READ_BYTES, READ_S = 16 << 10, 1.0
# Names are the clients' to choose, and a slow one keeps a thread: not one of those that look up providers.
THREADS = 4

_REFUSED = Reply(None, "Webhooks may not go to this target.", is_final=True)


class Refused(Exception):
    """Webhooks must not go there."""


class Post:
    """The client.  ``lookup`` asks the system's resolver unless told otherwise."""

    def __init__(self, timeout_s: float, *, allow_private: bool, lookup: Lookup | None = None) -> None:
        self._timeout_s = timeout_s
        self._allow_private = allow_private
        self._guard = Guard(allow_private, lookup)
        self._client: aiohttp.ClientSession | None = None

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Never fails: what went wrong is in the reply."""
        try:
            check(url, allow_private=self._allow_private)
        except ValueError:
            return _REFUSED
        target = URL(url, encoded=True)  # as it is: a secret in its path may not survive being written in another way
        try:
            async with self._session().post(target, data=body, headers=headers, allow_redirects=False) as answer:
                await _drain(answer)
                return Reply.of(answer.status, answer.headers.get("retry-after"))
        except Refused:
            return _REFUSED
        except (aiohttp.ClientError, OSError) as error:
            return Reply(None, self._said(error))

    async def close(self) -> None:
        if self._client:
            await self._client.close()
        self._guard.threads.shutdown(wait=False, cancel_futures=True)

    def _session(self) -> aiohttp.ClientSession:
        """Made when first needed, inside the loop: most workers of most relays never need one."""
        if self._client is None:
            guard = self._guard
            self._client = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0, force_close=True, use_dns_cache=False, resolver=guard, socket_factory=guard.socket
                ),
                timeout=aiohttp.ClientTimeout(total=self._timeout_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                skip_auto_headers=("accept-encoding",),
            )
        return self._client

    def _said(self, error: Exception) -> str:
        """In our words: a library's may quote the URL."""
        if isinstance(error, TimeoutError):
            return f"The receiver did not answer within {self._timeout_s:g} s."
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return "The receiver's name cannot be resolved."
        if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
            return "The receiver's certificate is not valid for its name."
        if isinstance(error, aiohttp.ClientConnectorError):
            return "The receiver cannot be connected to."
        return "The connection to the receiver broke before it answered."


class Guard(AbstractResolver):
    """Stands where aiohttp resolves names and where it makes sockets, which is for addresses in a URL, too."""

    def __init__(self, allow_private: bool, lookup: Lookup | None) -> None:
        self._allow_private = allow_private
        self._lookup = lookup or self._ask_system
        self.threads = ThreadPoolExecutor(THREADS, "webhook-names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = await self._lookup(host, port)
        for address in addresses:
            self._check(address)
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(hostname=host, host=address, port=port, family=_family(address), proto=0, flags=flags)
            for address in addresses
        ]

    def socket(self, info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = info
        self._check(address[0])
        return socket.socket(family, kind, protocol)

    async def close(self) -> None:
        """Part of aiohttp's interface."""

    def _check(self, address: str) -> None:
        if not (self._allow_private or is_public(address)):
            raise Refused(address)

    async def _ask_system(self, host: str, port: int) -> list[str]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self.threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return [str(info[4][0]) for info in found]


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


async def _drain(answer: aiohttp.ClientResponse) -> None:
    """Read what is left, within bounds; that it came is all we want to know."""
    left = READ_BYTES
    try:
        async with asyncio.timeout(READ_S):
            while left > 0 and (chunk := await answer.content.read(left)):
                left -= len(chunk)
    except (aiohttp.ClientError, OSError):
        pass  # the status stands
