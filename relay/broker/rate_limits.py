"""Limits of tenants and providers: how many calls at a time, how many a minute, how many tokens a minute.

They pace the queue (``lanes.lua``): what is over a limit waits its turn, and nothing is refused for it. They live in
Redis, so all processes agree at once. ``relay limits`` sets those of tenants; workers put in those of their providers,
which are in relay.toml.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from relay.broker.connections import Link
from relay.broker.keys import Keys


class RateLimit(NamedTuple):
    """None: no such limit."""

    calls: int | None = None  # at a time
    requests: int | None = None  # per minute
    tokens: int | None = None  # per minute, those read from the cache left out, as providers count

    def encode(self) -> str:
        return " ".join(str(value or 0) for value in self)

    @classmethod
    def decode(cls, stored: str) -> RateLimit:
        return cls(*[int(value) or None for value in stored.split(" ")])


class RateLimits:
    """Of one partition."""

    def __init__(self, link: Link, keys: Keys) -> None:
        self._link = link
        self._name = keys.limits

    async def set(self, who: str, limit: RateLimit) -> None:
        """``who``: ``tenant:<name>`` or ``provider:<name>``. A limit without any part is none."""
        if any(limit):
            await self._link.execute("HSET", self._name, who, limit.encode())
        else:
            await self.remove(who)

    async def remove(self, who: str) -> bool:
        """Whether there was one."""
        return bool(await self._link.execute("HDEL", self._name, who))

    async def all(self) -> Mapping[str, RateLimit]:
        flat = [item.decode() for item in await self._link.execute("HGETALL", self._name)]
        stored = dict(zip(flat[::2], flat[1::2], strict=True))
        return {who: RateLimit.decode(stored[who]) for who in sorted(stored)}
