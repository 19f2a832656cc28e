"""Idempotency keys: a client's word for a request, so that it may send it again and cause nothing twice.

The ingress makes a ``Once`` of the header and the request; ``submit.lua`` decides about it.  Neither the client's word
nor the request is kept, only digests of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from relay.core.errors import InvalidRequest

HEADER = "Idempotency-Key"
TTL_S = 86_400
KEY_CHARS_MAX = 255  # as Stripe has it


class Once(NamedTuple):
    """A request that is to be run once: ``name`` is its key, of one tenant; ``fingerprint`` tells another request."""

    name: str
    fingerprint: str


def checked(key: str) -> str:
    """The header's value.  Raises ``InvalidRequest``."""
    if not (0 < len(key) <= KEY_CHARS_MAX and key.isascii() and key.isprintable()):
        shown = key if len(key) <= 40 else key[:37] + "..."
        raise InvalidRequest(
            f"{HEADER}: {shown!r} is not a text of 1 to {KEY_CHARS_MAX} printable ASCII characters.", param=HEADER
        )
    return key


def once(tenant: str, key: str, request: Iterable[bytes]) -> Once:
    """``request``: everything that makes it what it is.  A MiB of it takes about a millisecond."""
    return Once(_digest((tenant.encode(), key.encode())), _digest(request))


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"%d:" % len(part))  # so that no part can pass for two
        digest.update(part)
    return digest.hexdigest()
