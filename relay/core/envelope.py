"""The envelope of a job: a request's bytes, and what the client wants of the relay with them.

The ingress calls ``unwrap``, in the process where bodies are looked at.  The request inside is found, never rebuilt:
its bytes are those between its braces, as they stood.  What the members mean is checked where they are used.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from relay.core import document
from relay.core.cache_control import shown
from relay.core.document import Outline, Span
from relay.core.errors import InvalidRequest

MEMBERS = (
    *("endpoint", "body", "metadata", "priority", "run_at", "expires_in", "on_disconnect", "webhook", "cache", "log"),
)

# Of everything but the body: 16 pairs of metadata and a URL of 2,048 characters, every character escaped.
OPTIONS_BYTES_MAX = 128 << 10


class Envelope(NamedTuple):
    """``options`` are all members but the body, whose bytes stand at ``body``."""

    options: dict[str, Any]
    body: Span


def unwrap(raw: bytes) -> Envelope:
    """Open an envelope.  Raises ``InvalidRequest`` naming the member that is wrong."""
    members = document.parse(raw)
    if not isinstance(members, dict):
        raise InvalidRequest("The request body must be a JSON object with `endpoint` and `body`.")
    if unknown := [name for name in members if name not in MEMBERS]:
        raise _refusal(f"{shown(unknown[0])}: There is no such member; there are {', '.join(MEMBERS)}.", unknown[0])
    if not isinstance(members.get("body"), dict):
        raise _refusal("body: Input should be a JSON object, the request itself.", "body")
    spans: dict[str, Span] = {}
    for name, span in Outline(raw).members():
        if name in spans:
            raise _refusal(f"{name}: The member may not be repeated.", name)
        spans[name] = span
    start, end = spans["body"]
    if len(raw) - (end - start) > OPTIONS_BYTES_MAX:
        raise InvalidRequest(f"The members beside `body` may take {OPTIONS_BYTES_MAX} bytes.")
    del members["body"]
    try:
        orjson.dumps(members)
    except TypeError as error:  # a lone surrogate is legal JSON, and no text
        raise InvalidRequest("The members beside `body` may hold Unicode text only.") from error
    return Envelope(members, (start, end))


def _refusal(message: str, member: str) -> InvalidRequest:
    return InvalidRequest(message, param=member[:80])
