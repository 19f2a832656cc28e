"""What happens to a job because its time has come: it goes to the queue, or it is given up.

Every worker and every ingress runs one: jobs expire most of all when there is no worker to take them. Redis' clock
decides, and a job is settled once however many look.
"""

from __future__ import annotations

import asyncio
import logging

from relay.broker import rq_records, scripts
from relay.broker.connections import Link, RedisError
from relay.broker.keys import Keys
from relay.broker.queue import Limits
from relay.broker.rq_records import RqNames

log = logging.getLogger("relay.timers")

EXPIRED_MESSAGE = "No worker took this job before it expired."

# A job may be given a time sooner than the next one we know of, by another process. So we look once a second at least,
# and in between when we know that something is due.
LOOK_S = 1.0
# Jobs settled in one call.
AT_ONCE = 200


class Timers:
    """``run`` it for as long as the process lives."""

    def __init__(self, link: Link, keys: Keys, limits: Limits) -> None:
        rq = RqNames(limits.queue)
        self._link = link
        self._limits = limits
        self._names = [keys.timers, rq.queue, rq.queues, rq.failed]
        self._prefixes = (keys.job(""), rq.job_prefix)

    async def run(self) -> None:
        while True:
            try:
                wait_s = await self.settle()
            except RedisError as error:
                log.debug("timers: %s", error)
                wait_s = LOOK_S
            await asyncio.sleep(min(wait_s, LOOK_S))

    async def settle(self) -> float:
        """Do what is due; in how many seconds more is."""
        limits = self._limits
        now, now_s = rq_records.timestamps()
        ttls = (int(limits.log_ttl_s * 1000), int(limits.dead_ttl_s))
        args = [*self._prefixes, AT_ONCE, *ttls, now, now_s, EXPIRED_MESSAGE]
        _, ended, next_ms = await self._link.run(scripts.TIMERS, self._names, args)
        if ended:
            log.warning("%d jobs expired before a worker took them", ended)
        return LOOK_S if next_ms < 0 else next_ms / 1000
