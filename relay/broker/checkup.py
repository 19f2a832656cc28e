"""What can be wrong with a Redis before anything fails, and who works on its queue.  For ``relay doctor``.

Reads only, and nothing that a managed Redis forbids (``CONFIG`` is forbidden on many): all is in ``INFO``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

from relay.broker.api_keys import ADMIN, ApiKey, ApiKeys
from relay.broker.connections import Client, Link, RedisError
from relay.broker.floors import FLOORS
from relay.broker.keys import Keys
from relay.broker.queue import Limits, Queue
from relay.broker.rq_records import SUSPENDED
from relay.broker.usage_reader import behind
from relay.core.errors import RelayError
from relay.core.job import QUEUED

# Leases are in Redis' time; only what people see (ages, prices of the day) goes by the clocks of our hosts.
CLOCK_OFF_S: Final = 2.0
FULL: Final = 0.8
LEDGER_LATE_S: Final = 300.0


class Finding(NamedTuple):
    """``ok``; ``warning``: it works, and an operator should know; ``wrong``: calls fail, or will be lost."""

    about: str
    state: Literal["ok", "warning", "wrong"]
    words: str


async def check_redis(client: Client) -> list[Finding]:
    """Of the server itself.  Raises ``RedisError`` and ``OSError`` where it cannot be reached."""
    asked = time.time()
    seconds, micros = await client.time()
    away_s = time.time() - asked
    off_s = seconds + micros / 1e6 - (asked + away_s / 2)
    return [*judge(await client.info()), *_clock(off_s, away_s)]


def judge(info: Mapping[str, Any]) -> Iterator[Finding]:
    """What the server's own ``INFO`` says; services that are like Redis leave things out."""
    brand = "valkey" if "valkey_version" in info else "redis"
    version, policy = str(info.get(f"{brand}_version", "0.0")), info.get("maxmemory_policy", "noeviction")
    most, used = info.get("maxmemory", 0), info.get("used_memory", 0)
    if tuple(int(part) for part in version.split(".")[:2]) < FLOORS[brand]:
        floor = ".".join(map(str, FLOORS[brand]))
        yield Finding("redis", "wrong", f"{brand} {version} is too old; {floor} is the first that will do")
    else:
        yield Finding("redis", "ok", f"{brand} {version}")
    if not info.get("aof_enabled", 1):
        yield Finding("redis", "warning", "appendonly is off: accepted jobs do not survive its restart")
    if policy != "noeviction":
        words = f"maxmemory-policy is {policy}, so it may evict jobs; set noeviction"
        yield Finding("redis", "wrong" if most else "warning", words)
    if most and used > FULL * most:
        percent = 100 * used // most
        yield Finding("redis", "warning", f"{percent} % of maxmemory are used; new requests get 503 when it is full")


def _clock(off_s: float, away_s: float) -> Iterator[Finding]:
    if abs(off_s) > CLOCK_OFF_S:
        yield Finding("clock", "warning", f"this host's differs from Redis' by {off_s:+.1f} s")
    else:
        yield Finding("clock", "ok", f"as Redis'; one trip there takes {away_s * 1000:.1f} ms")


async def check_keys(client: Client) -> Finding:
    try:
        found = await ApiKeys(client).list()
    except RelayError as error:
        return Finding("api keys", "wrong", error.message)
    valid = [key for key in found if _is_valid(key)]
    if not valid:
        return Finding("api keys", "wrong", "there is none; make one: relay keys create --name … --admin")
    if not any(ADMIN in key.scopes for key in valid):
        return Finding(
            "api keys", "warning", "none is an admin's, so nobody sees all tenants: relay keys create --admin"
        )
    return Finding("api keys", "ok", f"{len(valid)} in use")


def _is_valid(key: ApiKey) -> bool:
    try:
        key.refuse_if_over(time.time())
    except RelayError:
        return False
    return True


async def check_queue(link: Link, keys: Keys, limits: Limits) -> list[Finding]:
    """Of the workers and what waits for them."""
    queue = Queue(link, keys, limits)
    try:
        workers, counts = await asyncio.gather(queue.worker_stats(), queue.counts())
        suspended = await link.execute("EXISTS", SUSPENDED)
    except (RedisError, RelayError) as error:
        return [Finding("workers", "wrong", f"Redis does not tell: {error}")]
    waiting = f"{counts[QUEUED]} jobs wait, {counts['running']} run"
    found = [
        Finding("workers", "ok", f"{len(workers)} alive; {waiting}")
        if workers
        else Finding("workers", "wrong", f"none is alive; {waiting}")
    ]
    if suspended:
        found.append(Finding("workers", "warning", "suspended: they take no jobs until rq resume"))
    if counts[QUEUED] > FULL * limits.queue_limit:
        found.append(Finding("queue", "warning", f"nearly full: new calls get 429 from {limits.queue_limit} on"))
    return found


async def check_usage_stream(link: Link, keys: Keys) -> Finding:
    """How far the ledger is behind."""
    try:
        lag = await behind(link, keys)
    except RedisError as error:
        return Finding("ledger", "wrong", f"Redis does not tell how far it is behind: {error}")
    words = f"{lag.records} records behind"
    if lag.oldest_s > LEDGER_LATE_S:
        return Finding("ledger", "warning", f"{words}, the oldest {lag.oldest_s:.0f} s; does a relay ledger run?")
    return Finding("ledger", "ok", words)
