"""How a batch moves on: items become jobs, and jobs that ended become lines of its results.

The ingress' ``BatchRunner`` calls it. Every move is one script that compares how far the batch was before, so that two
processes at the same batch do its work once, and one that dies in the middle leaves nothing half done.

An item is submitted (``fed``), ends as a job, and gets its line (``collected``). Items that are no jobs yet wait here
and not in the queue, of which a batch takes a part only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import orjson

from relay.broker import scripts
from relay.broker.asking import Asking
from relay.broker.batch import Batch
from relay.broker.connections import Link
from relay.broker.keys import Keys
from relay.broker.rq_records import RqNames
from relay.core.batch.items import Item
from relay.core.batch.lines import KINDS, Line

# The largest piece of results: it is written anew for each line that still fits.
RESULT_PIECE_BYTES = 64 << 10

# Commands that leave in one write: names that are asked for, and jobs with some five commands each.
NAMES_AT_ONCE, LET_GO_AT_ONCE = 50, 20


class StepLimits(Protocol):
    """The settings steps go by."""

    @property
    def queue(self) -> str: ...
    @property
    def log_ttl_s(self) -> float: ...
    @property
    def queue_limit(self) -> int: ...
    @property
    def tenant_queue_limit(self) -> int: ...
    @property
    def batch_ttl_s(self) -> float: ...
    @property
    def lease_s(self) -> float: ...


class Move(NamedTuple):
    """A step of a batch: ``fed`` items that are jobs or have a line now, ``taken`` off those that ended.

    ``numbers`` are the items whose lines are here without their having been jobs.
    """

    lines: Sequence[Line] = ()
    fed: int = 0
    taken: int = 0
    numbers: Iterable[int] = ()


class BatchSteps:
    """The batches of one partition, as they move.  Raises ``Unavailable`` when Redis cannot be asked."""

    def __init__(self, link: Link, keys: Keys, limits: StepLimits) -> None:
        self._ask = Asking(link)
        self._keys = keys
        self._limits = limits
        self._rq = RqNames(limits.queue)
        self._ended_ttl_ms = int(limits.batch_ttl_s * 1000)

    async def due(self, most: int) -> list[str]:
        """Batches to look at now; they are due again when the lease is over, unless ``look_again`` says otherwise."""
        args = [most, int(self._limits.lease_s * 1000)]
        ids = await self._ask.run(scripts.DUE_RESULTS, [self._keys.due_batches], args)
        return [item.decode() for item in ids]

    async def look_again(self, batch_id: str, in_s: float | None) -> None:
        """In how long to look at it next; None: never."""
        due = self._keys.due_batches
        if in_s is None:
            await self._ask.execute("ZREM", due, batch_id)
            return
        seconds, micros = await self._ask.execute("TIME")  # Redis' own clock decides what is due
        await self._ask.execute("ZADD", due, "XX", int((int(seconds) + in_s) * 1000) + int(micros) // 1000, batch_id)

    async def checked(self, batch_id: str, total: int, errors: Sequence[dict[str, Any]] = ()) -> None:
        """Its input is checked: it may go on, or it has failed."""
        told = orjson.dumps(list(errors)).decode() if errors else ""
        await self._ask.run(scripts.BATCH_CHECKED, [self._keys.batch(batch_id)], [total, told, self._ended_ttl_ms])

    async def room(self, tenant: str) -> int:
        """How many more jobs of batches may wait: half of what may wait at all is left to others."""
        everybody, own = await self._ask.execute("HMGET", self._keys.waiting, "", tenant)
        limits = self._limits
        return min(limits.queue_limit // 2 - int(everybody or 0), limits.tenant_queue_limit // 2 - int(own or 0))

    async def stored(self, batch_id: str) -> int:
        """How many items of its input are kept already."""
        return int(await self._ask.execute("LLEN", self._keys.batch_names(batch_id)))

    async def running(self, batch: Batch) -> int:
        """How many of its items are jobs that have not ended."""
        return batch.fed - batch.collected - int(await self._ask.execute("LLEN", self._keys.batch_ended(batch.id)))

    async def waiting(self, batch: Batch, most: int) -> list[Item]:
        """The next items that are no jobs yet."""
        keys = self._keys
        requests = await self._ask.execute("LRANGE", keys.batch_items(batch.id), 0, most - 1)
        names = await self.names(batch, range(batch.fed, batch.fed + len(requests)))
        items: list[Item] = []
        for number, (name, request) in enumerate(zip(names, requests, strict=True), batch.fed):
            if request.isdigit():  # so many pieces, kept apart
                request = await self._ask.load(keys.batch_item(batch.id, number), int(request))
            items.append(Item(name, request))
        return items

    async def names(self, batch: Batch, numbers: Sequence[int]) -> list[str]:
        """What its client calls these items, in the order of the numbers."""
        key, found = self._keys.batch_names(batch.id), list[bytes]()
        if isinstance(numbers, range):
            if numbers:
                found = await self._ask.execute("LRANGE", key, numbers[0], numbers[-1])
        else:
            for at in range(0, len(numbers), NAMES_AT_ONCE):
                group = numbers[at : at + NAMES_AT_ONCE]
                found += await asyncio.gather(*[self._ask.execute("LINDEX", key, number) for number in group])
        return [item.decode() for item in found]

    async def known_jobs(self, job_ids: Sequence[str]) -> set[str]:
        """Which of these are jobs."""
        found = await asyncio.gather(*[self._ask.execute("EXISTS", self._keys.job(job_id)) for job_id in job_ids])
        return {job_id for job_id, exists in zip(job_ids, found, strict=True) if exists}

    async def ended(self, batch: Batch, most: int) -> list[int]:
        """Items whose jobs have ended and that have no line yet."""
        return [int(item) for item in await self._ask.execute("LRANGE", self._keys.batch_ended(batch.id), 0, most - 1)]

    async def not_ended(self, batch: Batch) -> list[int]:
        """Items that are jobs and have not ended."""
        bits = await self._ask.execute("GET", self._keys.batch_bits(batch.id)) or b""
        bits = bits.ljust(batch.fed // 8 + 1, b"\0")
        return [number for number in range(batch.fed) if not bits[number >> 3] & (128 >> (number & 7))]

    async def move(self, batch: Batch, move: Move) -> bool:
        """Take this step; False when another process was there before."""
        keys, lines = self._keys, move.lines
        names = [
            keys.batch(batch.id),
            keys.batch_items(batch.id),
            keys.batch_ended(batch.id),
            keys.batch_bits(batch.id),
        ]
        names += [keys.batch_names(batch.id), keys.file_data(batch.output_file), keys.file_data(batch.error_file)]
        names += [keys.files(batch.tenant)] if batch.surface == "openai" else []
        output = b"".join(line.data for line in lines if not line.for_errors)
        errors = b"".join(line.data for line in lines if line.for_errors)
        counts = [sum(line.kind == kind for line in lines) for kind in KINDS]
        args = [batch.fed, batch.collected, move.fed, move.taken, *counts, output, errors]
        args += [self._ended_ttl_ms, RESULT_PIECE_BYTES, *move.numbers]
        return bool(await self._ask.run(scripts.BATCH_MOVE, names, args) > 0)

    async def let_go(self, job_ids: Sequence[str], *, keep_answers: bool = False) -> None:
        """These jobs have their lines: their answers go, and what is known of them stays as long as events do.

        ``keep_answers``: they stay as long, for the ledger.

        A job's log and RQ's result are streams, of which Redis gives each 4 KiB at least: ten times what is in them.
        """
        keys, rq, ttl_ms = self._keys, self._rq, int(self._limits.log_ttl_s * 1000)
        for at in range(0, len(job_ids), LET_GO_AT_ONCE):
            group = job_ids[at : at + LET_GO_AT_ONCE]
            answers = [name for each in group for name in (keys.log(each), keys.result(each), rq.results(each))]
            facts = [name for each in group for name in (keys.job(each), rq.job(each))]
            if keep_answers:
                facts, answers = [*facts, *answers], []
            shortened = [self._ask.execute("PEXPIRE", name, ttl_ms, "LT") for name in facts]
            removed = [self._ask.execute("UNLINK", *answers)] if answers else []
            await asyncio.gather(*removed, *shortened)

    async def drop_items(self, batch: Batch, numbers: Iterable[int]) -> None:
        """Forget the big requests among these, which are jobs now."""
        await self._ask.execute("UNLINK", *[self._keys.batch_item(batch.id, number) for number in numbers])
