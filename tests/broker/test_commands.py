"""RQ's commands to a worker, sent by RQ itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis as redis_sync
from redis.asyncio import Redis
from rq.command import (
    send_command,
    send_shutdown_command,
    send_stop_execution_command,
    send_stop_job_command,
)
from rq.serializers import JSONSerializer

from relay.broker.commands import Commands
from relay.broker.connections import address, blocking_client
from tests.broker.system import TENANT, Broker, Worker
from tests.support.wait import wait_until


@pytest.fixture
def rq(broker: Broker) -> Iterator[redis_sync.Redis]:
    with blocking_client(broker.url) as connection:
        yield connection


@pytest.fixture
async def heard(broker: Broker, worker: Worker, redis: Redis) -> AsyncIterator[list[dict[str, Any]]]:
    """What a worker that listens has heard."""
    heard: list[dict[str, Any]] = []
    commands = Commands(address(broker.url), worker.name, heard.append)
    listening = asyncio.ensure_future(commands.listen())
    await wait_until(lambda: _listens(redis, worker))
    yield heard
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    commands.close()


async def _listens(redis: Redis, worker: Worker) -> bool:
    [(_, count)] = await redis.pubsub_numsub(f"rq:pubsub:{worker.name}")
    return bool(count)


async def test_rqs_commands_are_heard(
    broker: Broker, worker: Worker, rq: redis_sync.Redis, heard: list[dict[str, Any]]
) -> None:
    job = await broker.submit()
    lease = await worker.claim()
    send_stop_job_command(rq, job.id, serializer=JSONSerializer)
    send_stop_execution_command(rq, job.id, lease.id)
    send_shutdown_command(rq, worker.name)
    await wait_until(lambda: len(heard) == 3)
    assert heard == [
        {"command": "stop-job", "job_id": job.id},
        {"command": "stop-execution", "job_id": job.id, "execution_id": lease.id},
        {"command": "shutdown"},
    ]


async def test_a_cancellation_is_a_stop_job_command(
    broker: Broker, worker: Worker, heard: list[dict[str, Any]]
) -> None:
    job = await broker.submit()
    await worker.claim()
    await broker.queue.cancel(job.id, TENANT)
    await wait_until(lambda: heard == [{"command": "stop-job", "job_id": job.id}])


async def test_commands_to_others_are_not_heard(
    worker: Worker, rq: redis_sync.Redis, heard: list[dict[str, Any]]
) -> None:
    send_shutdown_command(rq, "somebody-else")
    send_command(rq, worker.name, "kill-horse")
    await wait_until(lambda: heard == [{"command": "kill-horse"}])


@pytest.mark.parametrize("noise", [b"", b"not JSON", b"[]", b'"shutdown"', b"null", b"\xff\xfe"])
async def test_what_is_no_command_is_passed_over(
    worker: Worker, rq: redis_sync.Redis, heard: list[dict[str, Any]], noise: bytes
) -> None:
    rq.publish(f"rq:pubsub:{worker.name}", noise)
    send_shutdown_command(rq, worker.name)
    await wait_until(lambda: heard == [{"command": "shutdown"}])


async def test_it_listens_again_after_a_lost_connection(
    worker: Worker, redis: Redis, rq: redis_sync.Redis, heard: list[dict[str, Any]]
) -> None:
    for turn in range(1, 4):
        [before] = [each["id"] for each in await redis.client_list(_type="pubsub")]
        await redis.client_kill_filter(_type="pubsub")
        await wait_until(lambda was=before: _listens_anew(redis, worker, was))
        send_shutdown_command(rq, worker.name)
        await wait_until(lambda wanted=turn: len(heard) == wanted)


async def _listens_anew(redis: Redis, worker: Worker, before: str) -> bool:
    ids = [each["id"] for each in await redis.client_list(_type="pubsub")]
    return len(ids) == 1 and ids != [before] and await _listens(redis, worker)
