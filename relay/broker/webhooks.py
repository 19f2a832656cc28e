"""Webhooks in Redis: which jobs' ends are still to be told, how far that has come, and the secrets that sign it.

The script that ends a job puts it on the list, so no end goes untold. Workers take what is due with a lease and note
what became of it; a worker that dies in between has its deliveries repeated. So each end is told at least once.
"""

from __future__ import annotations

import base64
import logging
import secrets
from collections.abc import Iterable
from typing import NamedTuple

from relay.broker import scripts
from relay.broker.asking import Asking
from relay.broker.connections import Link
from relay.broker.keys import Keys
from relay.broker.queue import fields
from relay.core.job import Job
from relay.core.webhook import ROTATION_MS, SECRET_BYTES, State

log = logging.getLogger("relay.webhooks")

# One look takes a millisecond at most. A list of 10,000 that all go to one busy host is passed in fifty.
LOOKED_AT = 200
HOST_BUSY_MS = 2000

# A job outlives the next attempt by so much, should there be no worker to make it in time.
KEPT_MS = 3_600_000


class Due(NamedTuple):
    """One delivery to make, owned."""

    job: Job
    state: str  # of the job
    ended_ms: int
    attempts: int  # before this one
    elapsed_s: float  # since it was first due
    lease: str


class Outbox:
    """The workers' side."""

    def __init__(self, link: Link, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    async def take(
        self, most: int, lease_s: float, hosts: Iterable[tuple[str, int]], most_per_host: int
    ) -> tuple[list[Due], float | None]:
        """What is due, and in how many seconds to look again, or when there is room for more.

        ``hosts``: those with deliveries under way, and how many.  Raises ``RedisError``.
        """
        lease = secrets.token_hex(16)
        limits = (most, LOOKED_AT, lease, int(lease_s * 1000), most_per_host, HOST_BUSY_MS)
        args = [self._keys.job(""), *limits, *[item for pair in hosts for item in pair]]
        now, next_ms, *taken = await self._link.run(scripts.WEBHOOK_DUE, [self._keys.webhooks], args)
        found = [await self._due(job_id.decode(), flat, int(now), lease) for job_id, flat in taken]
        return [due for due in found if due], None if next_ms < 0 else next_ms / 1000

    async def note(self, due: Due, state: State, status: int | None, error: str, pause_s: float = 0) -> None:
        """Insists. What another worker has taken over meanwhile is the other's to note."""
        names = [self._keys.job(due.job.id), self._keys.webhooks]
        args = [due.job.id, due.lease, state, status or "", error, int(pause_s * 1000), KEPT_MS]
        await self._link.insist(scripts.WEBHOOK_DONE, names, args)

    async def _due(self, job_id: str, flat: list[bytes], now_ms: int, lease: str) -> Due | None:
        """None for a record that somebody spoilt by hand: it must not keep the others waiting."""
        try:
            stored = fields(flat)
            return Due(
                Job.decode(stored),
                stored["state"],
                int(stored["ended_ms"]),
                int(stored["webhook_attempts"]),
                (now_ms - int(stored["webhook_since_ms"])) / 1000,
                lease,
            )
        except (KeyError, ValueError, TypeError):
            log.warning("job %s: its record cannot be read, so nobody is told of its end", job_id)
            await self._link.execute("ZREM", self._keys.webhooks, job_id)
            return None


class WebhookSecrets:
    """Of the tenants of one partition.  Raises ``Unavailable`` when Redis cannot be asked."""

    def __init__(self, link: Link, keys: Keys) -> None:
        self._ask = Asking(link)
        self._key = keys.webhook_secrets

    async def of(self, tenant: str, *, rotate: bool = False) -> list[str]:
        """The secrets in force, the newest first; made when there is none.  ``rotate``: a new one, too."""
        new = "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
        args = [tenant, new, int(rotate), ROTATION_MS]
        return [item.decode() for item in await self._ask.run(scripts.WEBHOOK_SECRET, [self._key], args)]


class Redelivery:
    """The door's side.  Raises ``Unavailable`` when Redis cannot be asked."""

    def __init__(self, link: Link, keys: Keys) -> None:
        self._ask = Asking(link)
        self._keys = keys

    async def ask_for(self, job_id: str) -> bool:
        """Have a job's end told once more.  False when it has not ended or nobody is to be told."""
        answer = await self._ask.run(scripts.WEBHOOK_AGAIN, [self._keys.job(job_id)], [job_id])
        return bool(answer != scripts.UNKNOWN)
