"""What a test must not leave in Redis: a key without an expiry, save the few that are meant to stay."""

from __future__ import annotations

import re

from redis.asyncio import Redis
from rq.defaults import RQ_KEY_PREFIX

from relay.broker.keys import TABLE

# RQ's own fixed sets: they are registers, their members leave them.
_RQ_FIXED = re.compile(
    re.escape(RQ_KEY_PREFIX)
    + r":(queues|workers|workers:[^:]+|queue:[^:]+|queue:[^:]+:intermediate|suspended|clean_registries:[^:]+"
    + r"|(wip|finished|failed|canceled|deferred|scheduled):[^:]+)"
)


def _pattern(name: str) -> re.Pattern[str]:
    literal = re.escape(name).replace(r"\{p\}", r"\{[a-z0-9]+\}")  # whatever the partition
    return re.compile(re.sub(r"<\w+>", r"[^:]+", literal))


_STAYING = [_pattern(name.pattern) for name in TABLE if name.expires.startswith("never")]


async def keys_without_expiry(redis: Redis) -> list[str]:
    """The keys that would stay for ever and are not meant to."""
    names = [name async for name in redis.scan_iter(count=1000) if not _may_stay(name)]
    async with redis.pipeline(transaction=False) as asked:
        for name in names:
            asked.ttl(name)
        return [name for name, ttl in zip(names, await asked.execute(), strict=True) if ttl == -1]


def _may_stay(name: str) -> bool:
    return bool(_RQ_FIXED.fullmatch(name)) or any(pattern.fullmatch(name) for pattern in _STAYING)
