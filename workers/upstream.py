"""Calls to providers: the one place that speaks HTTP to them.

httpx's transport interface on aiohttp, without httpx's client around it: redirects, cookies, proxies from the
environment, authentication flows and retries are things a relay must not do by itself.

It maps every failure to an ``UpstreamError``, in words of our own: HTTP libraries quote illegal headers in full, which
is how keys get into logs.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from relay.broker.usage_stream import Call
from relay.core.errors import (
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamTruncated,
    UpstreamUnreachable,
)
from relay.core.job import Dialect
from relay.provider import Provider

# Where each endpoint lives below a provider's base URL, which ends with its version.
PATHS = {"messages": "messages", "count_tokens": "messages/count_tokens", "chat_completions": "chat/completions"}

# Where a request of the other dialect goes.
ANSWERS: dict[Dialect, str] = {"anthropic": "messages", "openai": "chat_completions"}

# Headers of an answer that end here: those of the connection (RFC 9110, 7.6.1), those that speak of bytes we may have
# decoded, those of the provider's own edge, and cookies. Everything else travels back: request ids, rate limits,
# retry-after, and what providers will think of next.
NOT_PASSED_BACK = frozenset(
    {
        *(
            "connection",
            "keep-alive",
            "proxy-authenticate",
            "proxy-authorization",
            "te",
            "trailer",
            "transfer-encoding",
        ),
        *("upgrade", "content-length", "content-encoding", "date", "server", "via", "set-cookie", "set-cookie2"),
        *("alt-svc", "strict-transport-security", "content-security-policy", "access-control-allow-origin"),
        *("access-control-expose-headers", "access-control-allow-credentials", "vary", "nel", "report-to"),
    }
)

# A body we decode (a provider that compresses although asked not to) may grow to so much, against zip bombs.
DECODED_BYTES = 64 << 20

# The largest read; a stream's events come in reads of some hundred bytes.
READ_BYTES = 64 << 10


# What may come out of the libraries while a call is under way.
_FAILURES = (httpx.HTTPError, aiohttp.ClientError, OSError, zlib.error)


@contextmanager
def reading() -> Iterator[None]:
    """Around the reading of an answer's body: what breaks there becomes an ``UpstreamError``."""
    try:
        yield
    except _FAILURES as error:
        raise _mapped(error, "in the middle of its answer", UpstreamTruncated) from error


@dataclass(slots=True)
class Answer:
    """A provider's answer: its status, the headers that travel back, and its body, to be read within ``reading``."""

    status: int
    headers: list[tuple[str, str]]
    content_type: str
    body: AsyncIterator[bytes]
    _response: httpx.Response

    @property
    def is_stream(self) -> bool:
        return self.content_type.partition(";")[0].strip().lower() == "text/event-stream"

    async def close(self, linger_s: float = 0) -> None:
        """Give the connection back, or cut it where the body was not read to its end.

        ``linger_s``: how long to read on for that end, when what matters of the body has come.
        """
        try:
            if linger_s:
                async with asyncio.timeout(linger_s):
                    async for _ in self.body:
                        pass
        except (UpstreamError, *_FAILURES, TimeoutError):
            pass  # the connection is lost for the next call, nothing else
        finally:
            await self._response.aclose()


class Upstream:
    """The providers of this process, ready to be called."""

    def __init__(self, providers: Mapping[str, Provider]) -> None:
        self._lines = {name: _Line(provider) for name, provider in providers.items()}

    async def open(self, call: Call, pieces: list[bytes], trace: Mapping[str, str]) -> Answer:
        """Make this call, with the body in ``pieces`` and the headers of its trace.  Raises ``UpstreamError``."""
        return await self._lines[call.target.provider].open(call, pieces, trace)

    def provider(self, name: str) -> Provider | None:
        line = self._lines.get(name)
        return line.provider if line else None

    def scrub(self, name: str, text: bytes) -> bytes:
        """A text of this provider's without its key."""
        return self._lines[name].scrub(text)

    async def close(self) -> None:
        for line in self._lines.values():
            await line.transport.aclose()


class _Line:
    """One provider: its connections, its addresses, its headers."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.transport = AiohttpTransport(client=self._session, trust_env=False)
        self._urls = {endpoint: httpx.URL(provider.url(path)) for endpoint, path in PATHS.items()}
        secret = provider.secret()
        self._secret = secret.get_secret_value().encode() if secret else b""
        self._headers = {
            **provider.static_headers(),
            "content-type": "application/json",
            "accept-encoding": "identity",
            "user-agent": "llm-relay",
        }
        if secret and provider.dialect == "anthropic":
            self._headers["x-api-key"] = secret.get_secret_value()
        elif secret:
            self._headers["authorization"] = f"Bearer {secret.get_secret_value()}"

    def _session(self) -> aiohttp.ClientSession:
        context = self.transport.ssl_context
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30, ssl=context),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("accept", "accept-encoding", "user-agent"),
            read_bufsize=READ_BYTES,
            max_line_size=16 << 10,
            max_field_size=16 << 10,
        )

    async def open(self, call: Call, pieces: list[bytes], trace: Mapping[str, str]) -> Answer:
        job, dialect = call.job, self.provider.dialect
        headers = {**self._headers, "x-relay-call-id": call.id}
        if job.surface == dialect:
            headers |= job.headers
            url = self._urls[job.endpoint]
            if job.query:
                url = url.copy_with(query=job.query.encode())
        else:
            url = self._urls[ANSWERS[dialect]]  # a client of the other dialect has nothing to say here
        headers |= trace
        if dialect == "anthropic":
            headers.setdefault("anthropic-version", self.provider.anthropic_version)
        if len(pieces) > 1:
            headers["content-length"] = str(sum(map(len, pieces)))
        content = pieces[0] if len(pieces) == 1 else _one_by_one(pieces)
        timeout = {"connect": self.provider.connect_s, "read": None, "write": None, "pool": None}
        request = httpx.Request("POST", url, headers=headers, content=content, extensions={"timeout": timeout})
        try:
            response = await self.transport.handle_async_request(request)
        except (*_FAILURES, ValueError) as error:
            raise _mapped(error, "before it answered", UpstreamUnreachable) from error
        if 300 <= response.status_code < 400:
            await response.aclose()
            raise UpstreamProtocolError(
                f"the provider answered with a redirect ({response.status_code}), which the relay never follows"
            )
        return Answer(
            response.status_code,
            [(name, value) for name, value in response.headers.items() if name not in NOT_PASSED_BACK],
            response.headers.get("content-type", ""),
            aiter(_body(response)),
            response,
        )

    def scrub(self, text: bytes) -> bytes:
        return text.replace(self._secret, b"[redacted]") if self._secret else text


async def _one_by_one(pieces: list[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def _body(response: httpx.Response) -> AsyncIterable[bytes]:
    """As it comes: a layer of our own around it would be paid for with every event."""
    if response.headers.get("content-encoding", "identity") != "identity":
        return _decoded(response)
    assert isinstance(response.stream, httpx.AsyncByteStream)
    return response.stream


async def _decoded(response: httpx.Response) -> AsyncIterator[bytes]:
    """A body whose provider compressed it although asked not to."""
    size = 0
    async for chunk in response.aiter_bytes():
        size += len(chunk)
        if size > DECODED_BYTES:
            raise UpstreamProtocolError(f"the provider's answer decodes to more than {DECODED_BYTES} bytes")
        yield chunk


def _mapped(error: Exception, when: str, broken: type[UpstreamError]) -> UpstreamError:
    """A library's failure in our words; its own text may quote a header, and so a key."""
    if isinstance(error, httpx.DecodingError | zlib.error):
        return UpstreamProtocolError("the provider's answer does not decode as its content-encoding says")
    if isinstance(error, aiohttp.ClientResponseError | ValueError) and not isinstance(error, OSError):
        return UpstreamProtocolError("the provider did not answer in HTTP")
    cause = error.__cause__ or error
    if isinstance(cause, aiohttp.ConnectionTimeoutError):
        return UpstreamTimeout("the provider could not be connected to in time")
    if isinstance(cause, aiohttp.ClientConnectorError):
        return UpstreamUnreachable(f"the provider cannot be reached ({type(cause).__name__})")
    return broken(f"the connection to the provider broke {when}")
