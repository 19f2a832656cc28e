"""The reading side of the usage stream: a consumer group whose members share the records between them.

Delivery is at least once. A record counts as read when its reader says that it is stored; what a reader that died, or
whose answer from Redis was lost, leaves behind goes to another one after ``CLAIM_IDLE_S``. Whoever stores must know a
record again by its call id. Knows nothing of what a record says; the ledger's process is the caller.

Synchronous, unlike the rest of the broker: the ledger does one thing at a time.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from relay.broker import scripts
from relay.broker.connections import Link, blocking_client
from relay.broker.keys import Keys

GROUP = "ledger"

# The slowest batch seen took 2 s, on a busy disk. A reader that is slower loses nothing: its batch is stored twice,
# and the second time is noticed.
CLAIM_IDLE_S = 10.0
_CLAIM_EVERY_S = 3.0

# A consumer that has owed nothing and asked for nothing for so long is a process that is gone.
GONE_S = 600.0

# Where Redis cannot say how many records a group has not read (somebody deleted one in the middle), they are counted.
_MOST_COUNTED = 10_000


class Entry(NamedTuple):
    """One record as it stands in the stream."""

    id: str
    fields: dict[str, str]


class Behind(NamedTuple):
    """What the ledger has not stored yet."""

    records: int
    oldest_s: float


class UsageReader:
    """One member of the group.  Every method raises ``RedisError``."""

    def __init__(
        self, url: str, keys: Keys, *, keep_s: float, claim_idle_s: float = CLAIM_IDLE_S, gone_s: float = GONE_S
    ) -> None:
        self._client = blocking_client(url, text=True)
        self._stream = keys.usage
        self._keep_ms = int(keep_s * 1000)
        self._claim_idle_ms = int(claim_idle_s * 1000)
        self._gone_ms = int(gone_s * 1000)
        self._claim_every_s = min(_CLAIM_EVERY_S, claim_idle_s)
        self._claim_at = 0.0  # monotonic; 0: look at once for what others left behind
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"

    def read(self, most: int, wait_s: float) -> list[Entry]:
        """Up to ``most`` records, those left behind by others first; none if nothing came within the time."""
        try:
            return self._left_behind(most) or self._new(most, wait_s)
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
        # The first start, or a Redis that forgot: from the beginning, as the ledger knows what it has.
        with contextlib.suppress(ResponseError):  # another process was faster
            self._client.xgroup_create(self._stream, GROUP, id="0", mkstream=True)
        return self._new(most, wait_s)

    def stored(self, entries: list[Entry]) -> None:
        """These are safe and need not be read again."""
        if entries:
            self._client.xack(self._stream, GROUP, *[entry.id for entry in entries])

    def trim(self) -> int:
        """Drop records that every group has stored and that are old enough; how many."""
        script = scripts.USAGE_TRIM.source
        return int(self._client.eval(script, 1, self._stream, self._keep_ms, self._gone_ms))

    def close(self) -> None:
        self._client.close()

    def _left_behind(self, most: int) -> list[Entry]:
        if time.monotonic() < self._claim_at:
            return []
        reply: Any = self._client.xautoclaim(
            self._stream, GROUP, self.name, min_idle_time=self._claim_idle_ms, start_id="0-0", count=most
        )
        entries = [Entry(id_, fields) for id_, fields in reply[1] if fields is not None]
        if not entries:  # else there may be more
            self._claim_at = time.monotonic() + self._claim_every_s
        return entries

    def _new(self, most: int, wait_s: float) -> list[Entry]:
        streams: Any = {self._stream: ">"}
        reply: Any = self._client.xreadgroup(GROUP, self.name, streams, count=most, block=max(1, int(wait_s * 1000)))
        if not reply:
            return []
        [[_, entries]] = reply.items() if isinstance(reply, dict) else reply
        return [Entry(id_, fields) for id_, fields in entries]


async def behind(link: Link, keys: Keys) -> Behind:
    """How far the ledger is behind.  Raises ``RedisError``."""
    records, age_ms = await link.run(scripts.USAGE_LAG, [keys.usage], [GROUP, _MOST_COUNTED])
    return Behind(int(records), int(age_ms) / 1000)
