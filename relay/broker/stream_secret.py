"""The secret that signs stream tokens and the console's sessions: made when it is first needed, one for a partition.

It lives in Redis beside the jobs it gives access to, and as long as any token it has signed; after that a new one is
made. Whoever deletes it calls all tokens back. ``relay.ingress.jobs.stream_tokens`` and ``relay.console.session`` sign
with it, each for an audience of its own.
"""

from __future__ import annotations

import asyncio
import secrets

from relay.broker.asking import Asking
from relay.broker.connections import Link
from relay.broker.keys import Keys

# As long as what HMAC-SHA256 makes of it (RFC 7518, 3.2).
SECRET_BYTES = 32


class StreamSecret:
    """Asked of Redis every time, one command among the five that open a stream: a copy would outlive its deletion.

    Raises ``Unavailable`` when Redis cannot be asked.
    """

    def __init__(self, link: Link, keys: Keys) -> None:
        self._ask = Asking(link)
        self._key = keys.stream_secret

    async def to_sign(self, ttl_s: int) -> bytes:
        """The secret, and it will be there for so long."""
        mine = secrets.token_hex(SECRET_BYTES).encode()
        known, _ = await asyncio.gather(
            self._ask.execute("SET", self._key, mine, "NX", "GET", "EX", ttl_s),
            self._ask.execute("EXPIRE", self._key, ttl_s, "GT"),
        )
        return known or mine

    async def to_check(self) -> bytes | None:
        """The secret; None when nothing that it has signed can be valid any more."""
        found: bytes | None = await self._ask.execute("GET", self._key)
        return found
