"""The worker: one process, one event loop, as many jobs as it has room for.

To RQ it is a worker like any other: registered, with a heartbeat, listed by ``rq info``, obeying ``rq suspend``, the
stop-job and shutdown commands and the signals. Inside it is an RQ ``BaseWorker`` that never forks and never blocks: an
LLM stream is waiting, not work. It runs one task and resolves no function by name, so a job hash cannot make it run
anything else.

Of RQ's methods it calls ``register_birth``, ``register_death``, ``set_state`` and ``heartbeat``, none of them private.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import redis
import uvloop
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry
from rq.worker import BaseWorker, WorkerStatus
from rq.worker_registration import clean_worker_registry

from relay import process
from relay.broker.commands import Commands
from relay.broker.connections import Link, RedisError, address, blocking_client
from relay.broker.keys import Keys
from relay.broker.leases import Leases
from relay.broker.publisher import Publisher
from relay.broker.queue import CANCELLED_MESSAGE
from relay.broker.rate_limits import RateLimit, RateLimits
from relay.broker.results import DUE_AT_ONCE, Keeper
from relay.broker.rq_records import Recorder
from relay.broker.timers import Timers
from relay.core.errors import Cancelled, Unavailable
from relay.core.retry import Failover
from relay.settings import Settings, load
from workers.outgoing import Rewriter
from workers.tasks import Task
from workers.upstream import Upstream
from workers.webhooks import Webhooks

log = logging.getLogger("relay.worker")

# A pop that finds nothing comes back after so long, for no reason but to notice a connection that died silently.
POP_S = 5.0
# Jobs taken along with a popped one, when more wait than there are idle workers.
TAKE_ALONG = 15
REAP_S = 1.0
WATCH_S = 0.25
HOUSEKEEPING_S = 60.0
# Two signals within this time are one request to stop: Ctrl-C reaches a whole process group, supervisors add their own.
SAME_SIGNAL_S = 0.2
STATS_TTL_S = 60
UNBLOCK_S = 0.1


class RelayWorker(BaseWorker):
    """``rq worker --worker-class workers.worker.RelayWorker relay`` starts one, and so does ``relay work``.

    Its settings come from the environment, as everywhere; its Redis and its queue are those RQ was given.
    """

    def __init__(
        self, queues: Any, name: str | None = None, *, settings: Settings | None = None, **options: Any
    ) -> None:
        super().__init__(queues, name=name or _name(), **options)
        if len(self.queues) != 1:
            raise ValueError("a relay worker serves exactly one queue")
        self.settings = settings or load({"queue": self.queues[0].name})
        self.log_job_description = False
        self.signed_on = False

    def work(self, burst: bool = False, *_: Any, max_jobs: int | None = None, **__: Any) -> bool:
        """Take jobs until told to stop; ``burst``: until the queue is empty, ``max_jobs``: until so many are done.

        RQ's other options are about things we have no use for: a scheduler process, logging, several queues.
        """
        self.sign_on()
        try:
            return uvloop.run(Shift(self, burst, max_jobs).run()) > 0
        finally:
            try:
                self.register_death()  # type: ignore[no-untyped-call]
            except redis.RedisError as error:
                log.warning("could not sign off from Redis: %s", type(error).__name__)

    def sign_on(self) -> None:
        """Register with RQ. A full Redis refuses, and must be worked empty all the same: the heartbeat tries again."""
        try:
            self.register_birth()  # type: ignore[no-untyped-call]
            self.signed_on = True
        except redis.OutOfMemoryError:
            log.warning("Redis is full: this worker is not registered with RQ yet")

    def housekeep(self) -> None:
        """Remove what has expired from RQ's registries and from its set of workers. Blocks: run it in a thread.

        Not its registry of started jobs: cleaning that one fails jobs, and ours are settled by ``expire.lua`` alone.
        """
        queue = self.queues[0]
        for registry in (FinishedJobRegistry, FailedJobRegistry, CanceledJobRegistry):
            registry(queue=queue).cleanup()
        clean_worker_registry(queue)


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
        self._suspended = False
        self._stopped_at = 0.0
        where, name, keys = address(worker.connection), worker.name, Keys(settings.partition)
        self._link = Link(where, name)
        self._popper = Link(where, f"{name}-pop")
        self._commands = Commands(where, name, self._obey)
        self._keys = keys
        self._leases = Leases(self._link, self._popper, keys, settings, name)
        self._timers = Timers(self._link, keys, settings)
        self._keeper = Keeper(self._link, keys, settings)
        self._publisher = Publisher(self._link, keys, settings, name, settings.flush_ms / 1000)
        self._upstream = Upstream(settings.providers)
        self._rewriter = Rewriter()
        self._webhooks = Webhooks(self._link, keys, settings)
        self._failover = Failover(settings.retries, settings.retry_s, random.random)
        self._done = 0
        self._settled = dict.fromkeys(("queued", "interrupted", "worker_lost", "cancelled", "unsettled"), 0)
        self._lag_s = 0.0

    async def run(self) -> int:
        """Work until stopped, then drain; the number of jobs done."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop)
        await self._link.connect()
        background = [
            asyncio.create_task(coroutine)
            for coroutine in (
                self._commands.listen(),
                self._every(self._settings.lease_s / 3, self._heartbeat),
                self._every(REAP_S, self._reap),
                self._every(REAP_S, self._keep_results),
                self._timers.run(),
                self._webhooks.run(),
                self._every(HOUSEKEEPING_S, self._housekeep),
                self._every(max(0.25, self._settings.abandon_grace_s / 4), self._look_for_readers),
                self._watch(),
            )
        ]
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
            await self._upstream.close()
            self._rewriter.close()
            for link in (self._link, self._popper, self._commands):
                link.close()
        return self._done

    # -- taking work ---------------------------------------------------------------------------------------------

    async def _take(self) -> None:
        while not self._stop.is_set():
            self._changed.clear()
            room = self._settings.concurrency - len(self._tasks)
            if self._suspended or room <= 0 or self._left == 0:
                await self._changed.wait()
                continue
            try:
                popped = await self._pop()
            except RedisError as error:
                log.warning("cannot take jobs: %s", error)
                await asyncio.sleep(0.5)
                continue
            if popped and (self._stop.is_set() or self._suspended):
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
            parts = (self._leases, self._publisher, self._upstream, self._rewriter, self._failover)
            task = Task(lease, *parts)
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

    # -- while working -------------------------------------------------------------------------------------------

    async def _every(self, seconds: float, act: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await act()
            except (RedisError, redis.RedisError) as error:
                log.warning("%s: %s", act.__name__.strip("_"), error)
            await asyncio.sleep(seconds)

    async def _heartbeat(self) -> None:
        tasks = list(self._tasks.values())
        for task, code in zip(tasks, await self._leases.heartbeat([task.lease for task in tasks]), strict=True):
            if code:
                task.refused(code)
        if not self._worker.signed_on:
            await asyncio.to_thread(self._worker.sign_on)
        record: Any = Recorder()  # where RQ expects a pipeline
        state = WorkerStatus.SUSPENDED if self._suspended else WorkerStatus.BUSY if tasks else WorkerStatus.IDLE
        self._worker.set_state(state.value, pipeline=record)
        self._worker.heartbeat(pipeline=record)
        stats = self._keys.worker(self._worker.name)
        counters = [item for pair in self._stats().items() for item in pair]
        record.commands += [("HSET", stats, *counters), ("EXPIRE", stats, STATS_TTL_S)]
        await asyncio.gather(*[self._link.execute(*command) for command in record.commands])

    async def _reap(self) -> None:
        settled, back, suspended, _ = await asyncio.gather(
            self._leases.expire(), self._leases.unstick(), self._leases.suspended(), self._leases.call_up()
        )
        for job_id, outcome, state in settled:
            self._settled[outcome] += 1
            log.warning("job %s lost its worker while %s: %s", job_id, state, outcome)
        for job_id in back:
            log.warning("job %s was popped and never claimed: queued again", job_id)
        if suspended != self._suspended:
            self._suspended = suspended
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
        limits = RateLimits(self._link, self._keys)
        for name, provider in self._settings.providers.items():
            limit = RateLimit(provider.concurrency, provider.requests_per_minute, provider.tokens_per_minute)
            await limits.set(f"provider:{name}", limit)
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
            self._lag_s = max(now - due, self._lag_s * 0.9)
            for task in list(self._tasks.values()):
                task.watch(now)

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
        publisher = self._publisher
        return {
            "open_streams": len(self._tasks),
            "jobs": self._done,
            "flushes": publisher.flushes,
            "frames": publisher.frames,
            "fenced": publisher.fenced,
            "requeued": self._settled["queued"],
            "interrupted": self._settled["interrupted"],
            "worker_lost": self._settled["worker_lost"],
            "targets_out": self._failover.open_targets(asyncio.get_running_loop().time()),
            "webhooks_delivered": self._webhooks.delivered,
            "webhooks_failed": self._webhooks.failed,
            "loop_lag_ms": round(self._lag_s * 1000, 3),
        }


def _name() -> str:
    """Tells an operator, and a job's status, where the worker runs: ``<host>-<pid>-<random>``."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


def start(settings: Settings) -> None:
    """Run one worker with these settings until it is told to stop."""
    RelayWorker([settings.queue], connection=blocking_client(settings.redis_url), settings=settings).work()
