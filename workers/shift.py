"""One run of a worker, from its first job to its last: taking jobs, and stopping so that each has an explicit end."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from relay import process, telemetry
from relay.broker.commands import Commands
from relay.broker.connections import Link, RedisError, address
from relay.broker.keys import Keys
from relay.broker.leases import Leases
from relay.broker.publisher import Publisher
from relay.broker.queue import CANCELLED_MESSAGE
from relay.broker.timers import Timers
from relay.core.errors import Cancelled
from relay.core.retry import Failover
from relay.prices import own_prices
from workers.duties import Duties
from workers.metrics import Metrics, expose
from workers.outgoing import Rewriter
from workers.pricing import Pricing
from workers.tasks import Parts, Task
from workers.upstream import Upstream
from workers.webhooks import Webhooks

if TYPE_CHECKING:
    from workers.tracing import Tracing
    from workers.worker import RelayWorker

log = logging.getLogger("relay.worker")

# A pop that finds nothing comes back after so long, for no reason but to notice a connection that died silently.
POP_S = 5.0
# Jobs taken along with a popped one, when more wait than there are idle workers.
TAKE_ALONG = 15
# Two signals within this time are one request to stop: Ctrl-C reaches a whole process group, supervisors add their own.
SAME_SIGNAL_S = 0.2
UNBLOCK_S = 0.1


class Shift:
    """One run of a worker, from its first job to its last."""

    def __init__(self, worker: RelayWorker, burst: bool, max_jobs: int | None) -> None:
        self._worker = worker
        self._settings = settings = worker.settings
        self._burst = burst
        self._left = max_jobs
        self._tasks: dict[asyncio.Task[None], Task] = {}
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._changed = asyncio.Event()  # room, or a reason to look again
        self._stopped_at = 0.0
        where, name, keys = address(worker.connection), worker.name, Keys(settings.partition)
        self._link = Link(where, name)
        self._popper = Link(where, f"{name}-pop")
        self._commands = Commands(where, name, self._obey)
        self._leases = Leases(self._link, self._popper, keys, settings, name)
        self._timers = Timers(self._link, keys, settings)
        self._webhooks = Webhooks(self._link, keys, settings)
        self._traces = telemetry.start("worker")
        self._failover = Failover(settings.retries, settings.retry_s, random.random)
        self._parts = Parts(
            leases=self._leases,
            publisher=Publisher(self._link, keys, settings, name, settings.flush_ms / 1000),
            upstream=Upstream(settings.providers),
            rewriter=Rewriter(),
            failover=self._failover,
            pricing=Pricing(own_prices(settings.prices)),
            metrics=Metrics(self._stats, lambda: self._failover.out(time.monotonic())),
            tracing=_tracing(self._traces, settings.queue),
        )
        self._duties = Duties(worker, self._link, self._leases, self._tasks, self._stats, self._changed)
        self._done = 0

    async def run(self) -> int:
        """Work until stopped, then drain; the number of jobs done."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop)
        await self._link.connect()
        metrics, port = self._parts.metrics, self._settings.metrics_port
        hide = expose(metrics, self._settings.host, port) if port else None
        beside = (self._commands.listen(), self._timers.run(), self._webhooks.run(), self._duties.run())
        background = [asyncio.create_task(coroutine) for coroutine in beside]
        process.settle()
        taking = asyncio.create_task(self._take())
        print(f"ready worker {self._worker.name}", flush=True)  # noqa: T201 - the supervisor's contract
        try:
            await self._until_stopped(taking)
            await self._drain()
        finally:
            for task in (taking, *background):
                task.cancel()
            await asyncio.gather(taking, *background, return_exceptions=True)
            await self._webhooks.close()
            await self._parts.upstream.close()
            self._parts.rewriter.close()
            for link in (self._link, self._popper, self._commands):
                link.close()
            if hide:
                await asyncio.to_thread(hide)
            if self._traces:
                await asyncio.to_thread(self._traces.close)
        return self._done

    # -- taking work ---------------------------------------------------------------------------------------------

    async def _take(self) -> None:
        while not self._stop.is_set():
            self._changed.clear()
            room = self._settings.concurrency - len(self._tasks)
            if self._duties.suspended or room <= 0 or self._left == 0:
                await self._changed.wait()
                continue
            try:
                popped = await self._pop()
            except RedisError as error:
                log.warning("cannot take jobs: %s", error)
                await asyncio.sleep(0.5)
                continue
            if popped and (self._stop.is_set() or self._duties.suspended):
                await self._leases.put_back(popped)
                continue
            taken = [popped] if popped else []
            await self._claim(taken, min(room - len(taken), TAKE_ALONG))

    async def _pop(self) -> str | None:
        return None if self._burst else await self._leases.pop(POP_S)

    async def _claim(self, popped: list[str], more: int) -> None:
        if self._left is not None:
            more = min(more, self._left - len(popped))
        leases = await self._leases.claim(popped, more)
        for lease in leases:
            task = Task(lease, self._parts)
            running = task.start()
            self._tasks[running] = task
            running.add_done_callback(self._ended)
        if self._left is not None:
            self._left -= len(leases)
        if self._burst and not leases and not self._tasks:
            self._stop.set()
        elif self._burst and not leases:
            await self._changed.wait()

    def _ended(self, running: asyncio.Task[None]) -> None:
        del self._tasks[running]
        self._done += 1
        self._changed.set()
        if not running.cancelled() and (error := running.exception()):
            log.error("a job ended in an error of ours", exc_info=error)
        if self._left == 0 and not self._tasks:
            self._stop.set()

    # -- stopping ------------------------------------------------------------------------------------------------

    def _asked_to_stop(self) -> None:
        now = asyncio.get_running_loop().time()
        if not self._stop.is_set():
            self._stopped_at = now
            self._stop.set()
            self._changed.set()
        elif now - self._stopped_at > SAME_SIGNAL_S:
            self._hurry.set()

    async def _until_stopped(self, taking: asyncio.Task[None]) -> None:
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait((stopped, taking), return_when=asyncio.FIRST_COMPLETED)
        if taking.done() and not self._stop.is_set():
            taking.result()  # it never ends by itself: this raises what it died of
        try:
            async with asyncio.timeout(2 * POP_S):
                while not taking.done():  # a pop may be on its way to Redis while we call it back
                    await self._leases.stop_popping()
                    await asyncio.wait((taking,), timeout=UNBLOCK_S)
        except (RedisError, TimeoutError):
            pass  # Redis is gone; a job popped in this moment is put back by another worker

    async def _drain(self) -> None:
        """Let running jobs end, for as long as allowed; settle the rest, so that each has an explicit end."""
        hurry = asyncio.create_task(self._hurry.wait())
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.drain_s
        while self._tasks and not self._hurry.is_set() and (left := until - loop.time()) > 0:
            await asyncio.wait((*self._tasks, hurry), timeout=left, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        abandoned = dict(self._tasks)
        for task in abandoned.values():
            task.stop(None)
        if abandoned:
            await asyncio.wait(abandoned, timeout=2)
            try:
                await self._leases.release([task.lease for task in abandoned.values()])
            except RedisError as error:
                log.warning("%d jobs are left to another worker: %s", len(abandoned), error)

    # -- what it is told, and tells --------------------------------------------------------------------------------

    def _obey(self, command: dict[str, Any]) -> None:
        match command.get("command"):
            case "shutdown":
                self._asked_to_stop()
            case "stop-job":
                self._cancel(lambda task: task.lease.job.id == command.get("job_id"))
            case "stop-execution":
                # Jobs that were claimed in one call may have leases of one name.
                wanted = (command.get("job_id"), command.get("execution_id"))
                self._cancel(lambda task: (task.lease.job.id, task.lease.id) == wanted)

    def _cancel(self, wanted: Callable[[Task], bool]) -> None:
        for task in filter(wanted, list(self._tasks.values())):
            task.stop(Cancelled(CANCELLED_MESSAGE))

    def _stats(self) -> dict[str, float]:
        publisher = self._parts.publisher
        return {
            "open_streams": len(self._tasks),
            "jobs": self._done,
            "flushes": publisher.flushes,
            "frames": publisher.frames,
            "fenced": publisher.fenced,
            "requeued": self._duties.settled["queued"],
            "interrupted": self._duties.settled["interrupted"],
            "worker_lost": self._duties.settled["worker_lost"],
            "targets_out": len(self._failover.out(time.monotonic())),
            "webhooks_delivered": self._webhooks.delivered,
            "webhooks_failed": self._webhooks.failed,
            "loop_lag_ms": round(self._duties.lag_s * 1000, 3),
        }


def _tracing(traces: telemetry.Traces | None, queue: str) -> Tracing | None:
    """Imported only where traces are wanted: it takes long."""
    if traces is None:
        return None
    from workers.tracing import Tracing

    return Tracing(traces, queue)
