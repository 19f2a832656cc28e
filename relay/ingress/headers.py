"""The headers that cross the ingress in either direction.

Two lists decide: what a client may say to the provider, and what of the provider's answer stays here. Values are
checked at this border once, so that neither a provider nor a client can make an HTTP library refuse to go on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlsplit

from relay.core import budget, trace_context
from relay.core.errors import InvalidRequest

HeaderList = list[tuple[bytes, bytes]]

# The client's key, its cookies and everything unknown stay here. So does ``anthropic-workspace-id``: beside the
# operator's credential it would let a client choose in whose workspace, and in whose cache, it works.
_TO_PROVIDER = {name.encode(): name for name in ("anthropic-version", "anthropic-beta", "anthropic-user-profile-id")}

# Said by our own HTTP server, or true of one hop only (RFC 9110, 7.6.1), or ours alone. Which pages may read an answer
# is ours to say (``cors``), and browsers refuse one that says it twice.
_NOT_FROM_PROVIDER = frozenset(
    {
        *("connection", "content-length", "content-encoding", "date", "keep-alive", "proxy-authenticate", "server"),
        *("set-cookie", "te", "trailer", "transfer-encoding", "upgrade", "x-relay-job-id", budget.HEADER),
        *("access-control-allow-origin", "access-control-allow-credentials", "access-control-expose-headers"),
    }
)

# One place between the provider and the reader that buffers or compresses turns a stream into a long wait.
UNBUFFERED: HeaderList = [(b"cache-control", b"no-cache, no-transform"), (b"x-accel-buffering", b"no")]
EVENT_STREAM: HeaderList = [(b"content-type", b"text/event-stream; charset=utf-8"), *UNBUFFERED]
_NOT_FOR_A_STREAM = _NOT_FROM_PROVIDER | {name.decode() for name, _ in UNBUFFERED}

# It is in every usage record, and in the dashboard's lists.
APP_CHARS_MAX = 64

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)


def by_name(headers: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """A request's headers; one that came several times is joined, as RFC 9110, 5.3 allows."""
    found = dict(headers)
    if len(found) < len(headers):
        found = {}
        for name, value in headers:
            found[name] = found[name] + b", " + value if name in found else value
    return found


def to_provider(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """What goes upstream with the request.  Raises ``InvalidRequest`` for a value that no HTTP client would send on."""
    return {text: _printable(text, headers[name]) for name, text in _TO_PROVIDER.items() if name in headers}


def trace_of(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """The trace that a request is part of, as the headers by which it goes on; empty where it names none."""
    parent = headers.get(trace_context.PARENT.encode())
    if parent is None:
        return {}
    state = headers.get(trace_context.STATE.encode(), b"")
    return trace_context.headers(parent.decode("latin-1"), state.decode("latin-1"))


def budget_headers(past: Sequence[budget.Standing]) -> HeaderList:
    """What a client is told whose call was let in beyond a soft bound."""
    return [(budget.HEADER.encode(), budget.header(past).encode())] if past else []


def from_provider(pairs: Iterable[tuple[str, str]], *, stream: bool) -> HeaderList:
    """The provider's headers for our answer.  One that HTTP does not allow is left out: the answer matters more."""
    ours = _NOT_FOR_A_STREAM if stream else _NOT_FROM_PROVIDER
    return [
        (name.encode(), value.encode())
        for name, value in pairs
        if name not in ours and value.isascii() and value.isprintable() and _TOKEN.fullmatch(name)
    ]


def app_of(headers: Mapping[bytes, bytes]) -> str:
    """The application that asks, as it is told to gateways: by ``X-Title``, else by the host of its ``Referer``."""
    title = headers.get(b"x-title", b"").decode("utf-8", "replace").strip()
    if not title:
        referer = (headers.get(b"http-referer") or headers.get(b"referer") or b"").decode("latin-1")
        try:
            title = urlsplit(referer).hostname or ""
        except ValueError:
            title = ""
    return "".join(filter(str.isprintable, title))[:APP_CHARS_MAX]


def _printable(name: str, value: bytes) -> str:
    text = value.decode("latin-1")
    if not (text.isascii() and text.isprintable()):
        raise InvalidRequest(f"The header {name} may hold printable ASCII only.", param=name)
    return text
