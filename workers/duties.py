"""What a worker does beside its jobs: gives signs of life, settles what dead workers left, keeps results, watches.

A ``Shift`` runs the duties from its first job to its last. Each goes on when Redis is away, as soon as it is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from relay.broker.connections import Link, RedisError
from relay.broker.keys import Keys
from relay.broker.leases import Leases
from relay.broker.rate_limits import RateLimit, RateLimits
from relay.broker.results import DUE_AT_ONCE, Keeper
from relay.core.errors import Cancelled, Unavailable
from workers.tasks import Task

if TYPE_CHECKING:
    from workers.worker import RelayWorker

log = logging.getLogger("relay.worker")

REAP_S = 1.0
WATCH_S = 0.25
HOUSEKEEPING_S = 60.0
STATS_TTL_S = 60


class Duties:
    """``suspended``: an operator ran ``rq suspend``. ``settled``: jobs of dead workers, by what became of them.

    ``tasks`` are the shift's; ``stats`` is what it tells of itself; ``changed`` is set when ``suspended`` changes.
    """

    def __init__(
        self,
        worker: RelayWorker,
        link: Link,
        leases: Leases,
        tasks: Mapping[asyncio.Task[None], Task],
        stats: Callable[[], Mapping[str, float]],
        changed: asyncio.Event,
    ) -> None:
        self.suspended = False
        self.settled = dict.fromkeys(("queued", "interrupted", "worker_lost", "cancelled", "unsettled"), 0)
        self.lag_s = 0.0  # how late the loop was lately
        keys = Keys(worker.settings.partition)
        self._worker = worker
        self._settings = worker.settings
        self._link = link
        self._leases = leases
        self._keeper = Keeper(link, keys, worker.settings)
        self._limits = RateLimits(link, keys)
        self._own_hash = keys.worker(worker.name)
        self._tasks = tasks
        self._stats = stats
        self._changed = changed

    async def run(self) -> None:
        """For ever."""
        settings = self._settings
        await asyncio.gather(
            self._every(settings.lease_s / 3, self._heartbeat),
            self._every(REAP_S, self._reap),
            self._every(REAP_S, self._keep_results),
            self._every(HOUSEKEEPING_S, self._housekeep),
            self._every(max(0.25, settings.abandon_grace_s / 4), self._look_for_readers),
            self._watch(),
        )

    async def _every(self, seconds: float, act: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await act()
            except RedisError as error:
                log.warning("%s: %s", act.__name__.strip("_"), error)
            except Exception:  # the others must go on, and this one the next time
                log.exception("unforeseen failure of %s", act.__name__.strip("_"))
            await asyncio.sleep(seconds)

    async def _heartbeat(self) -> None:
        tasks = list(self._tasks.values())
        for task, code in zip(tasks, await self._leases.heartbeat([task.lease for task in tasks]), strict=True):
            if code:
                task.refused(code)
        if not self._worker.signed_on:
            await asyncio.to_thread(self._worker.sign_on)
        counters = [item for pair in self._stats().items() for item in pair]
        commands = self._worker.signs_of_life(busy=bool(tasks), suspended=self.suspended)
        commands += [("HSET", self._own_hash, *counters), ("EXPIRE", self._own_hash, STATS_TTL_S)]
        await asyncio.gather(*[self._link.execute(*command) for command in commands])

    async def _reap(self) -> None:
        settled, back, suspended, _ = await asyncio.gather(
            self._leases.expire(), self._leases.unstick(), self._leases.suspended(), self._leases.call_up()
        )
        for job_id, outcome, state in settled:
            self.settled[outcome] += 1
            log.warning("job %s lost its worker while %s: %s", job_id, state, outcome)
        for job_id in back:
            log.warning("job %s was popped and never claimed: queued again", job_id)
        if suspended != self.suspended:
            self.suspended = suspended
            log.info("suspended" if suspended else "resumed")
            self._changed.set()
            if suspended:
                await self._leases.stop_popping()

    async def _keep_results(self) -> None:
        """Put together answers that streamed, while their logs still live."""
        try:
            while await self._keeper.keep() == DUE_AT_ONCE:
                pass
        except Unavailable as error:
            log.warning("keep results: %s", error)

    async def _housekeep(self) -> None:
        for name, provider in self._settings.providers.items():
            limit = RateLimit(provider.concurrency, provider.requests_per_minute, provider.tokens_per_minute)
            await self._limits.set(f"provider:{name}", limit)
        await asyncio.to_thread(self._worker.housekeep)

    async def _look_for_readers(self) -> None:
        """Stop what nobody reads any more, where the client's policy says so."""
        watched = [task for task in self._tasks.values() if task.lease.job.on_disconnect == "cancel"]
        if not watched:
            return
        now = asyncio.get_running_loop().time()
        for task, readers in zip(watched, await self._leases.readers([t.lease for t in watched]), strict=True):
            if readers:
                task.unread_since = None
            elif task.unread_since is None:
                task.unread_since = now
            elif now - task.unread_since >= self._settings.abandon_grace_s:
                task.stop(Cancelled("Every reader of this job has left."))

    async def _watch(self) -> None:
        """Time out what waits too long, and measure how late the loop is: a late loop loses leases."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + WATCH_S
            await asyncio.sleep(WATCH_S)
            now = loop.time()
            self.lag_s = max(now - due, self.lag_s * 0.9)
            for task in list(self._tasks.values()):
                task.watch(now)
