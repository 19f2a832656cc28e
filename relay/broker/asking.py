"""Questions to Redis from the door: a request rides out a blink of Redis, and gets its 503 when that takes longer.

``queue``, ``listing`` and ``results`` ask through it. Workers never do: they insist.
"""

from __future__ import annotations

import asyncio
from typing import Any

from relay.broker.connections import ConnectionError, Link, OutOfMemoryError
from relay.broker.scripts import Script
from relay.core.errors import Unavailable

PATIENCE_S = 1.0

# A command of a MiB keeps a shared connection and Redis busy for about a millisecond; a 30 MB request sent as one would
# stall every stream for 40.
PIECE_BYTES = 1 << 20


class Asking:
    """A link whose troubles are ``Unavailable``."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def run(self, script: Script, keys: list[str], args: list[Any]) -> Any:
        """Run an idempotent script, again while Redis blinks."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + PATIENCE_S
        while True:
            try:
                return await self._link.run(script, keys, args)
            except ConnectionError as error:
                if loop.time() >= give_up:
                    raise _unavailable() from error
                await asyncio.sleep(0.05)
            except OutOfMemoryError as error:
                raise _full() from error

    async def execute(self, *command: Any) -> Any:
        try:
            return await self._link.execute(*command)
        except ConnectionError as error:
            raise _unavailable() from error
        except OutOfMemoryError as error:
            raise _full() from error

    async def store(self, key: str, data: bytes, ttl_s: int) -> None:
        """Put bytes of any size into a hash, piece by piece, others' commands in between."""
        for number, at in enumerate(range(0, len(data), PIECE_BYTES)):
            # Both in one write, so that no piece is left without an end to its life.
            piece = self.execute("HSET", key, number, data[at : at + PIECE_BYTES])
            await asyncio.gather(piece, self.execute("EXPIRE", key, ttl_s))

    async def load(self, key: str, pieces: int) -> bytes:
        """What was stored there; less of it where pieces are missing."""
        return b"".join([await self.execute("HGET", key, number) or b"" for number in range(pieces)])


def _unavailable() -> Unavailable:
    return Unavailable("Redis cannot be reached.", retry_after_s=2)


def _full() -> Unavailable:
    return Unavailable("Redis is out of memory and takes no new jobs.", retry_after_s=5)
