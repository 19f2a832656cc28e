"""Where jobs wait for their turn, for whoever looks at the queue as a whole: the console.

``lanes.lua`` has the rules by which the lanes take turns, and writes what is read here.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from relay.broker.asking import Asking
from relay.broker.connections import Link
from relay.broker.keys import Keys
from relay.broker.rq_records import RqNames

# A lane for each priority, provider and tenant that has jobs: as many as a person looks at.
MOST_LANES = 50
# Jobs that are called up and not taken yet: 64 in the lanes' window, and more only after workers died.
MOST_CALLED_UP = 1000


class Lane(NamedTuple):
    priority: str
    provider: str
    tenant: str
    jobs: int


class Tally(NamedTuple):
    waiting: int
    running: int
    dead: int


class Lanes:
    """The lanes of one partition.  Raises ``Unavailable`` when Redis cannot be asked."""

    def __init__(self, link: Link, keys: Keys, queue: str) -> None:
        self._ask = Asking(link)
        self._keys = keys
        self._rq = RqNames(queue)

    async def all(self) -> list[Lane]:
        """Those with jobs in them, the next to have its turn first."""
        names = [name.decode() for name in await self._ask.execute("ZRANGE", self._keys.lanes, 0, MOST_LANES - 1)]
        lengths = await asyncio.gather(*[self._ask.execute("LLEN", self._keys.lane(name)) for name in names])
        found = []
        for name, jobs in zip(names, lengths, strict=True):
            priority, provider, tenant = name.split(":", 2)  # a provider's name has no colon, a tenant's may
            found.append(Lane(priority, provider, tenant, jobs))
        return [lane for lane in found if lane.jobs]

    async def dead_letters(self) -> int:
        """How many jobs failed for good and are kept for replay."""
        return int(await self._ask.execute("ZCARD", self._rq.failed))

    async def of_tenant(self, tenant: str) -> Tally:
        """How many jobs of one tenant wait, run, and are kept for replay."""
        index = self._keys.jobs(tenant)
        in_lanes, called_up, running, dead = await asyncio.gather(
            self._ask.execute("HGET", self._keys.waiting, tenant),
            self._ask.execute("LRANGE", self._rq.queue, 0, MOST_CALLED_UP - 1),
            self._ask.execute("ZINTERCARD", 2, self._keys.leases, index),
            self._ask.execute("ZINTERCARD", 2, self._rq.failed, index),
        )
        own = await self._ask.execute("ZMSCORE", index, *called_up) if called_up else []
        return Tally(int(in_lanes or 0) + sum(each is not None for each in own), running, dead)
