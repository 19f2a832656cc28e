"""A provider that tells a story word by word, and only as far as the test lets it."""

from __future__ import annotations

import asyncio

from tests.support.dialects import of_path, words
from tests.support.upstream import Call

WORDS = 60


class Story:
    """The script of an upstream; every word names the provider call that said it."""

    def __init__(self) -> None:
        self.call: Call | None = None
        self._may = 0
        self._more = asyncio.Event()

    def tell(self, count: int = WORDS) -> str:
        """Let it go on to this word; the story up to there."""
        self._may = count
        self._more.set()
        return self.so_far(count)

    def so_far(self, count: int) -> str:
        assert self.call, "nobody has asked for the story"
        return words(self.call.id, count)

    async def __call__(self, call: Call) -> None:
        assert self.call is None, "the story was asked for twice"
        self.call, say = call, of_path(call.path)
        await call.head()
        for event in say.opening(call.id):
            await call.chunk(event)
        for number in range(1, WORDS + 1):
            while number > self._may:
                self._more.clear()
                await self._more.wait()
            await call.chunk(say.text(call.id, number))
        for event in (*say.closing(), say.usage(call.id, say.counts(WORDS)), say.stop()):
            await call.chunk(event)
        await call.finish()
