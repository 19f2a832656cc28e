"""A worker as a process: taking, stopping, timing out, and what RQ and an operator can tell it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from rq.command import send_shutdown_command, send_stop_execution_command
from rq.worker import Worker as RqWorker

from relay.broker.connections import address, blocking_client
from relay.broker.keys import Keys
from relay.broker.queue import JobStatus
from relay.broker.subscriber import Subscriber
from relay.core.job import CANCELLED, DONE, ENDED, FAILED, QUEUED, STREAMING, Job
from tests.broker.system import TENANT, Broker, make_job, usage_records
from tests.support.badprovider import BadProvider
from tests.support.oracles import check_quiet
from tests.support.processes import Process, RedisServer, python
from tests.support.relay import served_by
from tests.support.wait import wait_until
from tests.workers.conftest import request

RQ = str(Path(sys.executable).parent / "rq")
GRACE_S = 0.4


class Shop:
    """Workers as processes, and the broker to give them work. The processes it started are stopped by ``close``."""

    def __init__(self, server: RedisServer, provider: BadProvider, directory: Path) -> None:
        self.server = server
        self.provider = provider
        self.broker = Broker(server.url)
        self.keys = Keys()
        self._directory = directory
        self._processes: list[Process] = []

    async def worker(self, command: list[str] | None = None, **environment: str) -> Process:
        """Start one, and wait until it is ready."""
        process = self.launch(command, **environment)
        await process.ready()
        return process

    def launch(self, command: list[str] | None = None, **environment: str) -> Process:
        settings = {"RELAY_REDIS_URL": self.server.url, **served_by(self.provider), **environment}
        name = f"worker-{len(self._processes)}"
        process = Process(name, command or python("-m", "relay", "work"), self._directory, settings)
        self._processes.append(process)
        return process

    async def submit(self, mode: str = "", *, count: int = 1, **facts: object) -> list[Job]:
        """Jobs nobody reads, which go on all the same unless a test says otherwise."""
        body = request(mode)
        jobs = [make_job(body, **{"on_disconnect": "finish", **facts}) for _ in range(count)]
        for job in jobs:
            await self.broker.queue.submit(job, body)
        return jobs

    async def status(self, job: Job) -> JobStatus:
        return await self.broker.queue.status(job.id, TENANT)

    async def ended(self, job: Job) -> JobStatus:
        await wait_until(lambda: self._is_in(job, *ENDED))
        return await self.status(job)

    async def until(self, job: Job, state: str) -> None:
        await wait_until(lambda: self._is_in(job, state), what=f"the job is {state}")

    async def _is_in(self, job: Job, *states: str) -> bool:
        return (await self.status(job)).state in states

    async def close(self) -> None:
        await asyncio.gather(*[process.stop() for process in self._processes if process.is_running])
        self.broker.close()
        for process in self._processes:
            if process.stop_was_asked:
                check_quiet(process)


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("shop-redis"), append_only=False)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[Redis]:
    async with server.client() as client:
        yield client


@pytest.fixture(scope="module")
async def _shop(
    server: RedisServer, _upstream: BadProvider, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Shop, Process]]:
    shop = Shop(server, _upstream, tmp_path_factory.mktemp("shop"))
    worker = await shop.worker(
        RELAY_ABANDON_GRACE_S=str(GRACE_S), RELAY_FIRST_BYTE_S="1", RELAY_IDLE_S="1", RELAY_RETRIES="0"
    )
    yield shop, worker
    await shop.close()


@pytest.fixture
def shop(_shop: tuple[Shop, Process], upstream: BadProvider) -> Shop:
    """A shop where one worker is at work."""
    return _shop[0]


@pytest.fixture
def process(_shop: tuple[Shop, Process]) -> Process:
    return _shop[1]


@pytest.fixture
async def own_shop(tmp_path: Path, upstream: BadProvider) -> AsyncIterator[Shop]:
    """A shop without a worker, on a Redis of its own."""
    server = RedisServer(tmp_path / "redis", append_only=False)
    await server.start()
    shop = Shop(server, upstream, tmp_path)
    yield shop
    await shop.close()
    await server.stop()


# --- at work


async def test_a_worker_takes_what_waits_and_says_who_it_is(shop: Shop, process: Process) -> None:
    [job] = await shop.submit()
    status = await shop.ended(job)
    assert (status.state, status.worker_pid) == (DONE, process.pid)
    assert process.ready_line == f"ready worker {status.worker}"


async def test_one_worker_holds_many_streams_at_once(shop: Shop, upstream: BadProvider) -> None:
    jobs = await shop.submit("gate", count=50)
    await asyncio.gather(*[shop.until(job, STREAMING) for job in jobs])
    upstream.gate.set()
    assert {(await shop.ended(job)).state for job in jobs} == {DONE}


async def test_a_worker_keeps_counters_that_go_with_it(shop: Shop, redis: Redis) -> None:
    [job] = await shop.submit()
    status = await shop.ended(job)
    name = shop.keys.worker(status.worker)
    counters = await redis.hgetall(name)
    assert {"open_streams", "jobs", "flushes", "frames", "fenced", "requeued", "loop_lag_ms"} <= {*counters}
    assert 0 < await redis.ttl(name) <= 60
    assert {*(await shop.broker.queue.worker_stats())[status.worker]} == {*counters}


# --- told to stop a job


async def test_a_cancelled_job_hangs_up_within_a_second(shop: Shop, upstream: BadProvider, redis: Redis) -> None:
    [job] = await shop.submit("gate")
    await shop.until(job, STREAMING)
    await shop.broker.queue.cancel(job.id, TENANT)
    async with asyncio.timeout(1):
        await upstream.calls[0].ended.wait()
    assert upstream.calls[0].how == "client_gone"
    assert (await shop.ended(job)).state == CANCELLED
    [record] = [each for each in await usage_records(redis, shop.keys) if each["job"] == job.id]
    assert (record["kind"], record["outcome"]) == ("partial", "cancelled")


async def test_rqs_stop_execution_command_stops_that_attempt(shop: Shop, redis: Redis) -> None:
    job, *others = await shop.submit("gate", count=15)  # some of them are claimed in one call
    for each in (job, *others):
        await shop.until(each, STREAMING)
    lease = await redis.hget(shop.keys.job(job.id), "lease")
    with blocking_client(shop.server.url) as connection:
        await asyncio.to_thread(send_stop_execution_command, connection, job.id, lease)
    assert (await shop.ended(job)).state == CANCELLED
    shop.provider.gate.set()
    assert {(await shop.ended(other)).state for other in others} == {DONE}


# --- nobody reads


async def test_a_job_whose_readers_have_left_is_cancelled_after_the_grace(shop: Shop, upstream: BadProvider) -> None:
    subscriber = Subscriber(address(shop.server.url), shop.broker.link, shop.keys)
    read, unread, patient = make_jobs("cancel", "cancel", "finish")
    readers = [await subscriber.open(job.id, fresh=True) for job in (read, unread)]
    for job in (read, unread, patient):
        await shop.broker.queue.submit(job, request("gate"))
        await shop.until(job, STREAMING)
    began = asyncio.get_running_loop().time()
    readers[1].close()
    assert (await shop.ended(unread)).message == "Every reader of this job has left."
    assert asyncio.get_running_loop().time() - began >= GRACE_S
    assert [(await shop.status(job)).state for job in (read, patient)] == [STREAMING, STREAMING]
    upstream.gate.set()
    for job in (read, patient):
        assert (await shop.ended(job)).state == DONE
    subscriber.close()


def make_jobs(*policies: str) -> list[Job]:
    return [make_job(request("gate"), on_disconnect=policy) for policy in policies]


# --- time


@pytest.mark.parametrize("mode", ["hang_headers", "ping_only"])
async def test_a_silent_provider_is_left_in_time(shop: Shop, upstream: BadProvider, mode: str) -> None:
    [job] = await shop.submit(mode)
    await wait_until(lambda: upstream.calls)
    clock = asyncio.get_running_loop().time
    began = clock()
    status = await shop.ended(job)
    assert (status.state, status.error) == (FAILED, "upstream_timeout")
    assert 0.5 < clock() - began < 3


# --- as many as there is room for


async def test_a_burst_ends_when_the_queue_is_empty(own_shop: Shop) -> None:
    """One process with room for one job at a time, one that is to take two jobs only."""
    command = [RQ, "worker", "--url", own_shop.server.url, "--worker-class", "workers.worker.RelayWorker", "relay"]
    for options, environment, left in ((["--max-jobs", "2"], {}, 1), ([], {"RELAY_CONCURRENCY": "1"}, 0)):
        jobs = await own_shop.submit(count=3)
        process = own_shop.launch([*command, "--burst", *options], **environment)
        assert await process.ended(30) == 0, process.output
        assert [(await own_shop.status(job)).state for job in jobs].count(QUEUED) == left


# --- a Redis that is full


async def test_a_full_redis_is_worked_empty(own_shop: Shop, upstream: BadProvider) -> None:
    """Also by a worker with room for one job, and without asking a busy Redis all the time."""
    await own_shop.worker(RELAY_CONCURRENCY="1")
    async with own_shop.server.client() as redis:
        [running] = await own_shop.submit("gate")
        await own_shop.until(running, STREAMING)
        waiting = await own_shop.submit(count=3)
        await redis.config_set("maxmemory", 1)
        assert {(await own_shop.status(job)).state for job in waiting} == {QUEUED}
        upstream.gate.set()
        for job in (running, *waiting):
            assert (await own_shop.ended(job)).state == DONE
        before = await _calls(redis)
        await asyncio.sleep(0.5)
        asked = await _calls(redis) - before
        await redis.config_set("maxmemory", 0)
        assert asked < 100
        [late] = await own_shop.submit()
        assert (await own_shop.ended(late)).state == DONE


async def _calls(redis: Redis) -> int:
    return int((await redis.info("stats"))["total_commands_processed"])


async def test_a_worker_can_start_when_redis_is_full(own_shop: Shop) -> None:
    """Or a full Redis could not be worked empty after a restart of its workers."""
    [job] = await own_shop.submit()
    async with own_shop.server.client() as redis:
        await redis.config_set("maxmemory", 1)
        process = await own_shop.worker(RELAY_LEASE_S="1")
        assert (await own_shop.ended(job)).state == DONE
        await redis.config_set("maxmemory", 0)
        # With its next heartbeat it is in RQ's books as well.
        await wait_until(lambda: redis.smembers("rq:workers"))
    with blocking_client(own_shop.server.url) as connection:
        [seen] = RqWorker.all(connection=connection)
    assert seen.pid == process.pid


# --- leaving


async def test_a_worker_that_leaves_hands_back_and_signs_off(own_shop: Shop, upstream: BadProvider) -> None:
    """What streams gets its end, what waits for the provider is queued again, RQ hears that the worker is gone."""
    process = await own_shop.worker(RELAY_DRAIN_S="0.3")
    [streaming] = await own_shop.submit("gate")
    [called] = await own_shop.submit("gate_headers")
    await own_shop.until(streaming, STREAMING)
    await wait_until(lambda: len(upstream.calls) == 2)
    with blocking_client(own_shop.server.url) as connection:
        [seen] = RqWorker.all(connection=connection)
        assert seen.name == process.ready_line.removeprefix("ready worker ")
        await asyncio.to_thread(send_shutdown_command, connection, seen.name)
        assert await process.ended() == 0
        assert RqWorker.all(connection=connection) == []
    assert [(await own_shop.status(job)).error for job in (streaming, called)] == ["interrupted", None]
    assert (await own_shop.status(called)).state == QUEUED


async def test_a_providers_limits_are_those_of_relay_toml(
    server: RedisServer, redis: Redis, upstream: BadProvider, tmp_path: Path
) -> None:
    """They are in Redis, where the queue is paced, as soon as a worker runs."""
    (tmp_path / "relay.toml").write_text(
        f'[providers.anthropic]\nbase_url = "{upstream.url}"\nconcurrency = 3\ntokens_per_minute = 5000\n'
    )
    shop = Shop(server, upstream, tmp_path)
    await shop.worker(RELAY_CONFIG=str(tmp_path / "relay.toml"), ANTHROPIC_BASE_URL="", OPENAI_BASE_URL="")
    await wait_until(lambda: redis.hget("relay:{0}:limits", "provider:anthropic"))
    assert await redis.hgetall("relay:{0}:limits") == {"provider:anthropic": "3 0 5000"}
    await shop.close()
    await redis.delete("relay:{0}:limits")
