"""Signs of life: of workers as RQ's own records have them, of ledgers as Redis has them.  For ``relay health``."""

from __future__ import annotations

from datetime import UTC, datetime

from rq.utils import utcparse
from rq.worker_registration import REDIS_WORKER_KEYS

from relay.broker.connections import RedisError, ResponseError, client


async def ledger_silence_s(url: str, stream: str, group: str, hostname: str) -> float | None:
    """Seconds since a ledger on ``hostname`` last asked for records, as ``silence_s``."""
    redis = client(url)
    try:
        readers = await redis.xinfo_consumers(stream, group)
    except ResponseError:
        return None  # there is no stream, or no group
    except (RedisError, OSError):
        return 0.0
    finally:
        await redis.aclose()
    idle = [reader["idle"] for reader in readers if reader["name"].decode().startswith(f"{hostname}-")]
    return min(idle) / 1000 if idle else None


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
