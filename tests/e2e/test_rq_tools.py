"""An RQ user finds what they expect: its command line, its registries, its commands, and its worker class."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from rq.command import send_stop_job_command
from rq.job import Job
from rq.queue import Queue
from rq.registry import FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.worker import Worker

from tests.support.badprovider import BadProvider
from tests.support.oracles import check_usage, end_of
from tests.support.processes import Process, RedisServer, clean_environment
from tests.support.relay import Relay, message, served_by
from tests.support.wait import wait_until

RQ = str(Path(sys.executable).parent / "rq")


@pytest.fixture
def connection(redis_server: RedisServer) -> Iterator[BlockingRedis]:
    """What RQ's own API takes."""
    with BlockingRedis.from_url(redis_server.url) as client:
        yield client


@pytest.fixture
def rq(redis_server: RedisServer) -> Callable[..., Awaitable[str]]:
    """RQ's command line; what it prints."""

    async def run(command: str, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *(RQ, command, "--url", redis_server.url, *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=clean_environment(),
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()
        return output.decode()

    return run


async def test_rq_info_shows_the_queue_and_its_workers(
    relay: Relay, upstream: BadProvider, rq: Callable[..., Awaitable[str]]
) -> None:
    assert (await relay.post("/v1/messages", message("claude-x@"))).status == 200
    shown = await rq("info")
    assert "relay" in shown
    assert "1 workers, 1 queues" in shown
    assert str(relay.workers[0].pid) in shown


async def test_a_job_is_in_the_registry_of_what_became_of_it(
    relay: Relay, upstream: BadProvider, connection: BlockingRedis
) -> None:
    done = await relay.post("/v1/messages", message("claude-x@"))
    refused = await relay.post("/v1/messages", message("claude-x@400"))
    queue = Queue("relay", connection=connection, serializer=JSONSerializer)
    async with await relay.stream(message("claude-x@gate:1", stream=True)) as running:
        assert done.headers.get("x-relay-job-id") in FinishedJobRegistry(queue=queue).get_job_ids()
        assert refused.headers.get("x-relay-job-id") in FailedJobRegistry(queue=queue).get_job_ids()
        assert running.job_id in StartedJobRegistry(queue=queue).get_job_ids(cleanup=False)
        upstream.gate.set()
        await running.rest()
    [worker] = Worker.all(connection=connection, serializer=JSONSerializer)
    assert worker.successful_job_count > 0
    assert worker.failed_job_count > 0


async def test_a_job_holds_its_id_and_nothing_of_the_prompt(
    relay: Relay, upstream: BadProvider, connection: BlockingRedis
) -> None:
    answered = await relay.post("/v1/messages", message("claude-x@", text="a secret prompt"))
    job_id = answered.headers.get("x-relay-job-id") or ""
    job = Job.fetch(job_id, connection=connection, serializer=JSONSerializer)
    assert (job.args, job.kwargs, job.description) == ([job_id], {}, job_id)
    assert "secret prompt" not in str(connection.hgetall(f"rq:job:{job_id}"))


async def test_the_stop_job_command_cancels(
    relay: Relay, upstream: BadProvider, redis: Redis, connection: BlockingRedis
) -> None:
    async with await relay.stream(message("claude-x@gate:3", stream=True)) as reader:
        before = await reader.take(5)
        await asyncio.to_thread(send_stop_job_command, connection, reader.job_id, serializer=JSONSerializer)
        events = before + await reader.rest()
    assert end_of(events) == "cancelled"
    [end] = await wait_until(lambda: upstream.ends_of(reader.job_id))
    assert end["how"] == "client_gone"
    await check_usage(redis, upstream.ledger, reader.job_id, ["partial"])


async def test_suspended_workers_take_nothing_until_resumed(
    relay: Relay, upstream: BadProvider, redis: Redis, rq: Callable[..., Awaitable[str]]
) -> None:
    await rq("suspend")
    await wait_until(lambda: "suspended" in relay.workers[0].output)
    waiting = asyncio.create_task(relay.post("/v1/messages", message("claude-x@")))
    await wait_until(lambda: redis.llen("rq:queue:relay"))
    assert not upstream.calls
    await rq("resume")
    assert (await waiting).status == 200


async def test_rq_worker_starts_ours(
    mortal: Relay, own_redis: RedisServer, upstream: BadProvider, tmp_path: Path
) -> None:
    command = [RQ, "worker", "--url", own_redis.url, "--worker-class", "workers.worker.RelayWorker", "relay"]
    worker = Process("rq-worker", command, tmp_path, served_by(upstream))
    mortal.workers.append(worker)
    await worker.ready()
    async with await mortal.stream(message("claude-x@", stream=True)) as reader:
        assert end_of(await reader.rest()) == "done"
    assert await worker.stop() == 0
