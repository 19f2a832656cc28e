"""Delivers webhooks: takes what is due, signs it, sends it, and notes what became of it.

Runs beside the jobs of a worker, with bounds of its own: a receiver that takes its time holds up neither jobs nor other
receivers. It decides nothing about times and signatures, which is ``relay.core.webhook``'s, and speaks no HTTP, which
is ``workers.webhook_post``'s.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from contextlib import suppress

from relay.broker.connections import Link, RedisError
from relay.broker.keys import Keys
from relay.broker.webhooks import Due, Outbox, WebhookSecrets
from relay.core import webhook
from relay.core.errors import Unavailable
from relay.core.webhook import DELIVERED, FAILED, PENDING, Schedule
from relay.core.webhook_target import shown
from relay.settings import Settings
from workers.webhook_post import Post

log = logging.getLogger("relay.webhooks")

# Deliveries under way at a time, of one worker and to one host.
AT_ONCE, PER_HOST = 20, 2
# An end that another worker noted is found within this time.
LOOK_S = 1.0
# Beyond the longest delivery: Redis may be away for a moment when its outcome is to be noted.
LEASE_MARGIN_S = 20.0
# For what is under way when the worker leaves; what takes longer is delivered again by another one.
CLOSING_S = 2.0


class Webhooks:
    """``run`` it for as long as the worker lives, then ``close`` it."""

    def __init__(self, link: Link, keys: Keys, settings: Settings) -> None:
        self._outbox = Outbox(link, keys)
        self._secrets = WebhookSecrets(link, keys)
        self._post = Post(settings.webhook_timeout_s, allow_private=settings.webhook_allow_private)
        self._schedule = Schedule(settings.webhook_retry_s, settings.webhook_give_up_s)
        self._lease_s = settings.webhook_timeout_s + LEASE_MARGIN_S
        self._running: dict[asyncio.Task[None], str] = {}  # and its host
        self._changed = asyncio.Event()
        self.delivered = 0
        self.failed = 0  # attempts

    async def run(self) -> None:
        while True:
            self._changed.clear()
            try:
                wait_s = await self._take()
            except RedisError as error:
                log.debug("webhooks: %s", error)
                wait_s = LOOK_S
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()

    async def close(self) -> None:
        if self._running:
            await asyncio.wait(self._running, timeout=CLOSING_S)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._post.close()

    async def _take(self) -> float:
        """Begin what is due; in how many seconds to look again."""
        room = AT_ONCE - len(self._running)
        if room <= 0:
            return LOOK_S
        hosts = Counter(self._running.values())
        taken, wait_s = await self._outbox.take(room, self._lease_s, hosts.items(), PER_HOST)
        for due in taken:
            task = asyncio.create_task(self._deliver(due))
            self._running[task] = host_of(due.job.webhook)
            task.add_done_callback(self._ended)
        return LOOK_S if wait_s is None else min(wait_s, LOOK_S)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._changed.set()
        if not task.cancelled() and (error := task.exception()):
            log.error("a webhook ended in an error of ours", exc_info=error)

    async def _deliver(self, due: Due) -> None:
        job = due.job
        try:
            secrets = await self._secrets.of(job.tenant)
        except Unavailable:
            return  # due again when its lease is over
        body = webhook.message(job, due.state, due.ended_ms)
        headers = webhook.headers(webhook.message_id(job.id), body, secrets, int(time.time()))
        reply = await self._post.send(job.webhook, headers, body)
        if not reply.error:
            self.delivered += 1
            await self._outbox.note(due, DELIVERED, reply.status, "")
            return
        self.failed += 1
        pause_s = self._schedule.pause_s(reply, due.attempts + 1, due.elapsed_s, random.random())
        log.info("job %s: webhook to %s: %s", job.id, shown(job.webhook), reply.error)
        if pause_s is None:
            await self._outbox.note(due, FAILED, reply.status, reply.error)
        else:
            await self._outbox.note(due, PENDING, reply.status, reply.error, pause_s)


def host_of(url: str) -> str:
    """As ``webhook_due.lua`` counts them."""
    return shown(url).partition("://")[2].lower()
