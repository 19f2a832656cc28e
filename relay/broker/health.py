"""Signs of life of the workers, as RQ's own records have them.  For ``relay health worker``; changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime

from rq.utils import utcparse
from rq.worker_registration import REDIS_WORKER_KEYS

from relay.broker.connections import RedisError, client


async def silence_s(url: str, hostname: str) -> float | None:
    """Seconds since a worker on ``hostname`` last wrote its heartbeat, the liveliest counting; None if there is none.

    A Redis that does not answer says nothing about a worker: 0 then.
    """
    redis = client(url)
    try:
        async with redis.pipeline(transaction=False) as pipeline:
            for key in await redis.smembers(REDIS_WORKER_KEYS):
                pipeline.hmget(key, "hostname", "last_heartbeat")
            records = await pipeline.execute()
    except (RedisError, OSError):
        return 0.0
    finally:
        await redis.aclose()
    beats = [utcparse(beat.decode()) for host, beat in records if host == hostname.encode() and beat]
    return (datetime.now(UTC) - max(beats)).total_seconds() if beats else None
