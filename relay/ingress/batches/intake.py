"""Items of one batch on their way into Redis: each name once, so many of them, some at a time.

An upload puts them in as they come; so does whoever checks an input file, and goes on there when another process
stopped in the middle.
"""

from __future__ import annotations

from relay.broker.batches import Batches, is_big
from relay.core.batch.items import Item
from relay.core.errors import Conflict

# One call of a script, which must not hold up Redis for more than a fraction of a millisecond.
ITEMS_AT_ONCE, BYTES_AT_ONCE = 100, 256 << 10


class Intake:
    """``count`` items have been seen, ``known`` of which are stored."""

    def __init__(self, batches: Batches, batch_id: str, known: int = 0, *, orphan: bool) -> None:
        self._batches = batches
        self._batch_id = batch_id
        self._orphan = orphan
        self._known = known
        self._ready: list[Item] = []
        self._size = 0
        self._names: set[str] = set()
        self.big: list[int] = []  # items that are kept apart

    @property
    def count(self) -> int:
        return len(self._names)

    def has(self, name: str) -> bool:
        return name in self._names

    async def add(self, item: Item) -> None:
        """Raises ``Conflict`` when another process is at this batch, ``Unavailable``."""
        if is_big(item):
            self.big.append(self.count)
        self._names.add(item.custom_id)
        if self.count <= self._known:
            return  # stored by whoever was at it before
        self._ready.append(item)
        self._size += len(item.body)
        if len(self._ready) >= ITEMS_AT_ONCE or self._size >= BYTES_AT_ONCE:
            await self.flush()

    async def flush(self) -> None:
        if not self._ready:
            return
        stored = await self._batches.store(self._batch_id, self._known, self._ready, orphan=self._orphan)
        self._known += len(self._ready)
        self._ready, self._size = [], 0
        if stored != self._known:
            raise Conflict("Another process is at this batch.")

    async def forget(self) -> None:
        """Nothing of it is needed."""
        await self._batches.forget_input(self._batch_id, self.big)
