"""Whoever can write to Redis still cannot run code: job hashes that name other functions are never executed (S03)."""

from __future__ import annotations

import asyncio
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

from tests.support.badprovider import BadProvider
from tests.support.processes import RedisServer
from tests.support.relay import Relay, message
from tests.support.wait import wait_until


class Touch:
    """Pickled, it is a call of ``os.system``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        import os

        return os.system, (f"touch {self.path}",)


def attacks(marker: Path) -> dict[str, dict[str, bytes]]:
    """Job hashes as an attacker might write them, by what they try."""
    code = f"open({str(marker)!r}, 'w')"
    shell = f"touch {marker}"

    def call(function: str, *arguments: Any, instance: Any = None) -> dict[str, bytes]:
        return {"data": json.dumps([function, instance, list(arguments), {}]).encode()}

    harmless = call("workers.tasks.relay", "0-" + "0" * 32)
    return {
        "eval": call("eval", code),
        "exec": call("builtins.exec", code),
        "os.system": call("os.system", shell),
        "subprocess": call("subprocess.check_output", ["touch", str(marker)]),
        "a method of an instance": call("write_text", "x", instance=str(marker)),
        "pickle": {"data": pickle.dumps(Touch(marker))},
        "packed pickle": {"data": zlib.compress(pickle.dumps(Touch(marker)))},
        "callbacks": harmless | {f"{when}_callback_name": b"os.system" for when in ("success", "failure", "stopped")},
    }


async def test_a_forged_job_is_never_run(
    mortal: Relay, own_redis: RedisServer, upstream: BadProvider, tmp_path: Path
) -> None:
    await mortal.add_worker()
    marker = tmp_path / "was-here"
    async with own_redis.client(decode_responses=False) as redis:
        for name, forged in attacks(marker).items():
            record = {"origin": b"relay", "status": b"queued", "description": b"x", "created_at": b"", **forged}
            await redis.hset(f"rq:job:{name}", mapping=record)  # type: ignore[arg-type]
            await redis.rpush("rq:queue:relay", name)
        await wait_until(lambda: is_empty(redis), what="the forged jobs have been taken")
        assert (await mortal.post("/v1/messages", message("claude-x@"))).status == 200
        assert not marker.exists()
        assert {await redis.hget(f"rq:job:{name}", "status") for name in attacks(marker)} == {b"failed"}


async def test_jobs_whose_records_were_forged_do_what_they_were_accepted_for(
    mortal: Relay, own_redis: RedisServer, upstream: BadProvider, tmp_path: Path
) -> None:
    marker = tmp_path / "was-here"
    forged = attacks(marker).values()
    requests = [asyncio.create_task(mortal.post("/v1/messages", message("claude-x@"))) for _ in forged]
    async with own_redis.client(decode_responses=False) as redis:
        await wait_until(lambda: holds(redis, len(requests)))
        job_ids: Any = await redis.lrange("rq:queue:relay", 0, -1)
        for job_id, record in zip(job_ids, forged, strict=True):
            await redis.hset(b"rq:job:" + job_id, mapping=record)  # type: ignore[arg-type]
    await mortal.add_worker()
    assert {(await request).status for request in requests} == {200}
    assert not marker.exists()


async def holds(redis: Any, count: int) -> bool:
    return int(await redis.llen("rq:queue:relay")) == count


async def is_empty(redis: Any) -> bool:
    return not await redis.llen("rq:queue:relay") and not await redis.llen("rq:queue:relay:intermediate")
