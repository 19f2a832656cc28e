"""The parts of one console process, made once from its settings and handed to the pages and the API."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from relay.broker.api_keys import ApiKeys
from relay.broker.budgets import Budgets
from relay.broker.connections import Link, RedisError, address, client
from relay.broker.keys import Keys
from relay.broker.lanes import Lanes
from relay.broker.listing import Listing
from relay.broker.queue import Queue
from relay.broker.stream_secret import StreamSecret
from relay.broker.subscriber import Subscriber
from relay.broker.usage_reader import Behind, behind
from relay.console.session import Sessions
from relay.core.errors import Unavailable
from relay.http_metrics import Durations
from relay.ledger.reading import Engine, Question, Reading
from relay.settings import Settings

T = TypeVar("T")


class Console:
    """Made outside the event loop, started inside it.  ``stopping`` is set when the process is asked to stop;
    ``live_pages`` counts answers that go on until their reader leaves.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stopping = asyncio.Event()
        self.live_pages = 0
        self.durations = Durations()
        where, self.keys = address(settings.redis_url), Keys(settings.partition)
        self._link = Link(where, "relay-console")
        self._client = client(settings.redis_url)
        self._reading = Reading(settings)
        self.api_keys = ApiKeys(self._client)
        self.sessions = Sessions(StreamSecret(self._link, self.keys), self.api_keys)
        self.queue = Queue(self._link, self.keys, settings)
        self.budgets = Budgets(self._link, self.keys)
        self.lanes = Lanes(self._link, self.keys, settings.queue)
        self.listing = Listing(self._link, self.keys)
        self.subscriber = Subscriber(where, self._link, self.keys, "relay-console-subscriber")

    async def start(self) -> None:
        """Get going, with or without Redis and the database."""
        await self.subscriber.start()

    async def close(self) -> None:
        self.subscriber.close()
        self._link.close()
        self._reading.close()
        await self._client.aclose()

    async def ledger(self, question: Question[T]) -> T:
        """The ledger's answer.  Raises ``Unavailable``."""
        ask: Callable[[Question[T]], T] = self._reading.ask
        return await asyncio.to_thread(ask, question)

    async def change(self, step: Callable[[Engine], T]) -> T:
        """Change the ledger.  Raises ``Unavailable``."""
        return await asyncio.to_thread(self._reading.change, step)

    async def ledger_lag(self) -> Behind:
        """How far the ledger is behind.  Raises ``Unavailable``."""
        try:
            return await behind(self._link, self.keys)
        except RedisError as error:
            raise Unavailable("Redis cannot be reached.", retry_after_s=1) from error
