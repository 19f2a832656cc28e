"""Moves batches on, beside an ingress' requests: input is checked, items become jobs, results become lines.

Every ingress runs one. A batch that is due is taken by one of them for the time of a lease and one bounded step, so
many batches share the processes there are, and what one leaves undone another one does. Each step may be repeated:
the job of an item always has the same id, and ``BatchSteps.move`` takes a step once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import traceback

from relay.broker.batch import VALIDATING, Batch
from relay.broker.batch_steps import Move
from relay.core.batch.lines import CANCELED, EXPIRED, Line, line_of
from relay.core.errors import NotFound, RelayError, TooManyRequests, Unavailable
from relay.core.job import QUEUED
from relay.ingress.batches.check import BatchCheck
from relay.ingress.batches.items import BatchItems
from relay.ingress.wiring import Ingress

log = logging.getLogger("relay.batches")

# Batches one ingress looks at side by side, and how often it asks which are due.
AT_ONCE, LOOK_S = 4, 0.2
# When nothing could be done, because its jobs run or the queue is full; and when it failed in a way nobody thought of.
IDLE_S, TROUBLE_S = 0.25, 5.0

# Jobs of one batch that wait or run: a second's work for a few workers, and a bound to what a cancel has to go through.
WINDOW = 2000
# One step; and what is done of it without a pause, about 2 ms.
ITEMS_AT_ONCE, TOGETHER = 400, 8
LINES_BYTES = 1 << 20

# How often to look for jobs that have vanished without an end (Redis lost them), or must be cancelled.
SWEEP_S = 10.0


class BatchRunner:
    """``run`` it for as long as the process takes requests."""

    def __init__(self, ingress: Ingress) -> None:
        self._ingress = ingress
        self._batches = ingress.batches
        self._steps = ingress.batch_steps
        self._items = BatchItems(ingress)
        self._check = BatchCheck(ingress)
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._swept: dict[str, float] = {}  # the batches seen here, and when

    async def run(self) -> None:
        """No step begins once the ingress is asked to stop; cancelled, it leaves to others what is not done."""
        try:
            while not self._ingress.draining:
                for batch_id in await self._due():
                    self._busy[batch_id] = asyncio.create_task(self._look(batch_id))
                if self._busy:
                    await asyncio.wait(self._busy.values(), timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                else:
                    await asyncio.sleep(LOOK_S)
            if self._busy:
                await asyncio.wait(self._busy.values())
        finally:
            for task in self._busy.values():
                task.cancel()

    async def _due(self) -> list[str]:
        room = AT_ONCE - len(self._busy)
        try:
            found = await self._steps.due(room) if room else []
        except Unavailable as error:
            log.debug("batches: %s", error.message)
            return []
        return [batch_id for batch_id in found if batch_id not in self._busy]

    async def _look(self, batch_id: str) -> None:
        again_s: float | None = TROUBLE_S
        try:
            again_s = await self._step(batch_id)
        except RelayError as error:
            log.debug("batch %s: %s", batch_id, error.message)
            again_s = LOOK_S
        except Exception as error:
            place = "".join(traceback.format_tb(error.__traceback__))
            log.error("unforeseen %s, batch %s\n%s", type(error).__name__, batch_id, place)
        if again_s is None:
            self._swept.pop(batch_id, None)
        with contextlib.suppress(Unavailable):  # it is due again when the lease is over
            await self._steps.look_again(batch_id, again_s)
        del self._busy[batch_id]

    async def _step(self, batch_id: str) -> float | None:
        """Move it on as far as one step goes; in how many seconds to go on, None when it has ended."""
        batch = await self._batches.find(batch_id)
        if batch is None or batch.has_ended:
            return None
        if batch.state == VALIDATING:
            await self._check.run(batch)
            return 0
        moved = await self._collect(batch)
        if moved:
            batch = await self._batches.find(batch_id)
            if batch is None or batch.has_ended:
                return None
        is_over = bool(batch.cancel_ms) or time.time() * 1000 >= batch.expires_ms
        moved |= await (self._give_up(batch) if is_over else self._feed(batch))
        if not moved:
            await self._sweep(batch)
        return 0 if moved else IDLE_S

    async def _feed(self, batch: Batch) -> bool:
        """Make jobs of the next items, as many as there is room for."""
        if batch.fed == batch.total:
            return False
        running, room = await asyncio.gather(self._steps.running(batch), self._steps.room(batch.tenant))
        most = min(ITEMS_AT_ONCE, WINDOW - running, room)
        waiting = await self._steps.waiting(batch, most) if most > 0 else []
        told: list[Line | None] = []
        for at in range(0, len(waiting), TOGETHER):
            numbered = enumerate(waiting[at : at + TOGETHER], batch.fed + at)
            submitting = [self._items.submit(batch, number, item) for number, item in numbered]
            done = await asyncio.gather(*submitting, return_exceptions=True)
            refused = next((place for place, one in enumerate(done) if isinstance(one, BaseException)), len(done))
            told += [one for one in done[:refused] if not isinstance(one, BaseException)]
            if refused < len(done):
                error = done[refused]
                assert isinstance(error, BaseException)
                if not isinstance(error, TooManyRequests | Unavailable):
                    raise error
                break  # those behind it, should they be jobs already, will be the same jobs
        if not told:
            return False
        lines = {number: line for number, line in enumerate(told, batch.fed) if line}
        await self._steps.move(batch, Move([*lines.values()], fed=len(told), numbers=lines))
        await self._items.forget_big(batch, waiting[: len(told)])
        return True

    async def _collect(self, batch: Batch) -> bool:
        """Write the lines of the items that have ended."""
        numbers = await self._steps.ended(batch, ITEMS_AT_ONCE)
        names = await self._steps.names(batch, numbers)
        lines: list[Line] = []
        size = 0
        for at in range(0, len(numbers), TOGETHER):
            pairs = zip(numbers[at : at + TOGETHER], names[at : at + TOGETHER], strict=True)
            written = await asyncio.gather(*[self._items.line(batch, number, name) for number, name in pairs])
            lines += written
            size += sum(len(line.data) for line in written)
            if size >= LINES_BYTES:
                break
        if not lines:
            return False
        if await self._steps.move(batch, Move(lines, taken=len(lines))):
            await self._items.let_go(batch, numbers[: len(lines)], lines)
        return True

    async def _give_up(self, batch: Batch) -> bool:
        """What has not become a job will not.  What has, of a step that another process did not finish, stays one."""
        numbers = range(batch.fed, min(batch.total, batch.fed + ITEMS_AT_ONCE))
        if not numbers:
            return False
        outcome = CANCELED if batch.cancel_ms else EXPIRED
        job_ids = [self._items.job_id(batch, number) for number in numbers]
        told = zip(numbers, job_ids, await self._steps.names(batch, numbers), strict=True)
        jobs = await self._steps.known_jobs(job_ids)
        lines = {n: line_of(batch.surface, name, job_id, outcome) for n, job_id, name in told if job_id not in jobs}
        await self._steps.move(batch, Move([*lines.values()], fed=len(numbers), numbers=lines))
        await self._steps.drop_items(batch, numbers)
        return True

    async def _sweep(self, batch: Batch) -> None:
        """Cancel what waits, of a batch that is cancelled; and write a line for jobs that are gone without an end."""
        now, since = time.time(), self._swept.setdefault(batch.id, time.time())
        if now - since < SWEEP_S and not since * 1000 < batch.cancel_ms:
            return
        self._swept[batch.id] = now
        lost: dict[int, Line] = {}
        for number in await self._steps.not_ended(batch):
            job_id = self._items.job_id(batch, number)
            try:
                status = await self._ingress.queue.status(job_id, batch.tenant)
                if batch.cancel_ms and status.state == QUEUED:
                    await self._ingress.queue.cancel(job_id, batch.tenant)
            except NotFound:
                [name] = await self._steps.names(batch, [number])
                lost[number] = await self._items.line(batch, number, name)
        if lost:
            log.warning("batch %s: %d jobs were lost", batch.id, len(lost))
            await self._steps.move(batch, Move([*lost.values()], numbers=lost))
