"""The parts of one ingress process, made once from its settings and handed to the handlers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from relay.broker.api_keys import ApiKeys
from relay.broker.batch_steps import BatchSteps
from relay.broker.batches import Batches
from relay.broker.budgets import Budgets
from relay.broker.connections import Link, Wire, address, client
from relay.broker.files import Files
from relay.broker.keys import Keys
from relay.broker.line import Line
from relay.broker.listing import Listing
from relay.broker.queue import Queue
from relay.broker.results import Results
from relay.broker.stream_secret import StreamSecret
from relay.broker.subscriber import Subscriber
from relay.broker.timers import Timers
from relay.broker.webhooks import Redelivery
from relay.core.errors import Unavailable
from relay.ingress.batches.inspection import ItemInspector
from relay.ingress.inspection import Inspector
from relay.ingress.metrics import Metrics
from relay.ingress.requests import Bodies
from relay.ingress.watch import Watch
from relay.settings import Settings

log = logging.getLogger("relay.ingress")

# The given API key is stored before the door opens if Redis lets us, else as soon as it does.
_KEY_RETRY_S = 0.5


class CountingLink(Link):
    """A link that knows how often it was lost."""

    losses = 0

    def dropped(self, wire: Wire) -> None:
        self.losses += wire is self.wire
        super().dropped(wire)


class Ingress:
    """Made outside the event loop, started inside it.  ``draining``: asked to stop, and no longer ready."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.router = settings.router()
        self.auto_cache = tuple(filter(None, map(str.strip, settings.auto_cache.split(","))))
        self.draining = False
        self.watches: set[Watch] = set()
        self.bodies = Bodies(settings.body_limit_bytes)
        self.inspector = Inspector()
        self.item_inspector = ItemInspector()
        where, keys = address(settings.redis_url), Keys(settings.partition)
        self._link = CountingLink(where, "relay-ingress")
        self._client = client(settings.redis_url)
        self.api_keys = ApiKeys(self._client)
        self.queue = Queue(self._link, keys, settings)
        self.budgets = Budgets(self._link, keys)
        self.line = Line(self._link, keys, settings.queue)
        self.listing = Listing(self._link, keys)
        self.batches = Batches(self._link, keys, settings)
        self.batch_steps = BatchSteps(self._link, keys, settings)
        self.files = Files(self._link, keys)
        self.results = Results(self._link, keys, settings)
        self.stream_secret = StreamSecret(self._link, keys)
        self.redelivery = Redelivery(self._link, keys)
        self.subscriber = Subscriber(where, self._link, keys)
        self._timers = Timers(self._link, keys, settings)
        self.metrics = Metrics(self.subscriber, self.watches, lambda: self._link.losses)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Get going, with or without Redis.  Raises ``InvalidRequest`` when the given API key cannot be one."""
        await self.subscriber.start()
        self._tasks += [asyncio.create_task(self.metrics.watch_lag()), asyncio.create_task(self._timers.run())]
        if not await self._store_key():
            log.warning("Redis cannot be reached; requests are refused until it can")
            self._tasks.append(asyncio.create_task(self._store_key_later()))

    def run_beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Work that goes on for as long as the ingress does."""
        self._tasks.append(asyncio.create_task(work))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self.subscriber.close()
        self._link.close()
        self.inspector.close()
        self.item_inspector.close()
        await self._client.aclose()

    async def _store_key(self) -> bool:
        given = self.settings.api_key
        try:
            if given is None:
                await self.queue.ping()
            else:
                await self.api_keys.ensure(given.get_secret_value(), name="first", tenant="default")
        except Unavailable:
            return False
        return True

    async def _store_key_later(self) -> None:
        while not await self._store_key():  # noqa: ASYNC110 - Redis tells nobody when it is back
            await asyncio.sleep(_KEY_RETRY_S)
        self.api_keys = ApiKeys(self._client)  # the old one may have seen just now that there is no such key
