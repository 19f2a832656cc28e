"""Batches: their input, how far they are, and what becomes of them when they have ended.

The ingress' endpoints call it; what happens in between is ``batch_steps``. A batch that is to be made has its input
stored first, piece by piece; from ``create`` on it goes its way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from relay.broker import scripts
from relay.broker.asking import PIECE_BYTES, Asking
from relay.broker.batch import Batch
from relay.broker.connections import Link
from relay.broker.files import ORPHAN_TTL_S
from relay.broker.keys import Keys
from relay.broker.queue import INLINE_BYTES, fields
from relay.core.batch.items import Item
from relay.core.errors import Conflict, NotFound
from relay.core.job import Dialect

# A batch that nobody moves on any more, after its window, is still kept so long before it is forgotten.
SETTLED_WITHIN_S = 86_400


class BatchLimits(Protocol):
    """The settings batches go by."""

    @property
    def batch_window_s(self) -> float: ...
    @property
    def batch_ttl_s(self) -> float: ...


class Page(NamedTuple):
    batches: list[Batch]
    more: bool


class Batches:
    """The batches of one partition.  Raises ``Unavailable`` when Redis cannot be asked."""

    def __init__(self, link: Link, keys: Keys, limits: BatchLimits) -> None:
        self._ask = Asking(link)
        self._keys = keys
        self._lives_ms = int((limits.batch_window_s + SETTLED_WITHIN_S + limits.batch_ttl_s) * 1000)

    async def store(self, batch_id: str, known: int, items: Sequence[Item], *, orphan: bool) -> int:
        """Keep the next items of a batch's input, and how many there are now.  ``orphan``: the batch is to be made."""
        keys, ttl_s = self._keys, ORPHAN_TTL_S if orphan else self._lives_ms // 1000
        flat: list[Any] = []
        for number, item in enumerate(items, known):
            pieces = b""
            if is_big(item):
                await self._ask.store(keys.batch_item(batch_id, number), item.body, ttl_s)
                pieces = b"%d" % -(-len(item.body) // PIECE_BYTES)
            flat += (item.custom_id, pieces or item.body)
        names = [keys.batch_items(batch_id), keys.batch_names(batch_id)]
        return int(await self._ask.run(scripts.BATCH_STORE, names, [known, ttl_s * 1000, *flat]))

    async def forget_input(self, batch_id: str, big: Sequence[int]) -> None:
        """Of a batch that is not made after all, or has failed."""
        keys = self._keys
        apart = [keys.batch_item(batch_id, number) for number in big]
        await self._ask.execute("UNLINK", keys.batch_items(batch_id), keys.batch_names(batch_id), *apart)

    async def create(self, batch: Batch, big: Sequence[int] = ()) -> None:
        """From here on it goes its way, whatever becomes of who asked for it.  ``big``: the items kept apart."""
        keys = self._keys
        for number in big:
            await self._ask.execute("PEXPIRE", keys.batch_item(batch.id, number), self._lives_ms)
        names = [keys.batch(batch.id), keys.batch_items(batch.id), keys.batch_names(batch.id)]
        names += [keys.batches(batch.surface, batch.tenant), keys.due_batches]
        facts = [item for pair in batch.encode().items() for item in pair]
        await self._ask.run(scripts.BATCH_CREATE, names, [batch.id, self._lives_ms, *facts])

    async def get(self, batch_id: str, surface: Dialect, tenant: str) -> Batch:
        """Raises ``NotFound``, for another tenant's batch as for none."""
        batch = await self.find(batch_id)
        if batch is None or (batch.surface, batch.tenant) != (surface, tenant):
            raise _not_found(batch_id)
        return batch

    async def find(self, batch_id: str) -> Batch | None:
        stored = fields(await self._ask.execute("HGETALL", self._keys.batch(batch_id)))
        return Batch.decode(stored) if "state" in stored else None

    async def page(self, surface: Dialect, tenant: str, *, after: str = "", before: str = "", limit: int) -> Page:
        """At most ``limit`` batches, newest first: those behind ``after``, or the last ones before ``before``."""
        index = self._keys.batches(surface, tenant)
        backwards = bool(before and not after)
        order = ("BYLEX",) if backwards else ("BYLEX", "REV")
        begin, end = (
            (f"({before}", "+") if backwards else (f"({after}" if after else "+", f"({before}" if before else "-")
        )
        found: list[Batch] = []
        while len(found) <= limit:
            ids = await self._ask.execute("ZRANGE", index, begin, end, *order, "LIMIT", 0, limit + 1)
            for raw in ids:
                if batch := await self.find(raw.decode()):
                    found.append(batch)
                else:
                    await self._ask.execute("ZREM", index, raw)
            if len(ids) <= limit:
                break
            begin = f"({ids[-1].decode()}"
        page = found[:limit]
        return Page(page[::-1] if backwards else page, len(found) > limit)

    async def cancel(self, batch_id: str, surface: Dialect, tenant: str) -> Batch:
        """Let no more of its items begin.  Asking again changes nothing.  Raises ``NotFound``."""
        if not await self._ask.run(scripts.BATCH_CANCEL, [self._keys.batch(batch_id)], [tenant, surface]):
            raise _not_found(batch_id)
        return await self.get(batch_id, surface, tenant)

    async def delete(self, batch_id: str, surface: Dialect, tenant: str) -> None:
        """Forget a batch that has ended, and its results.  Raises ``NotFound``, ``Conflict``."""
        batch = await self.get(batch_id, surface, tenant)
        if not batch.has_ended:
            raise Conflict(f"{batch_id} is still being processed; cancel it first.")
        keys = self._keys
        await self._ask.execute("ZREM", keys.batches(surface, tenant), batch_id)
        await self._ask.execute("UNLINK", keys.batch(batch_id), keys.file_data(batch.output_file))


def is_big(item: Item) -> bool:
    """Whether its request is kept apart: a script would copy it several times."""
    return len(item.body) > INLINE_BYTES


def _not_found(batch_id: str) -> NotFound:
    return NotFound(f"No batch with the id {batch_id[:80]!r}.", param="id")
