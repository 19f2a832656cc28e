"""Our records against RQ's own: what our scripts write is what RQ 3.0 writes, and what it reads.

Each stage of a job's life is also brought about by RQ's own methods, on a queue beside ours; the two must leave the
same kinds of keys with the same fields. A change in RQ's private formats shows here first.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis as redis_sync
from redis.asyncio import Redis
from rq.executions import Execution
from rq.job import Job as RqJob
from rq.job import JobStatus
from rq.queue import Queue as RqQueue
from rq.registry import (
    CanceledJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    StartedJobRegistry,
    clean_registries,
)
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend
from rq.worker import BaseWorker, Worker
from rq.worker_registration import clean_worker_registry

from relay.broker.connections import blocking_client
from relay.broker.rq_records import TASK, Recorder, RqNames, error_text
from relay.core.job import CANCELLED, CLAIMED, DISPATCHED, DONE, FAILED, STREAMING, Job
from tests.broker.system import TENANT, Broker, dump, let_lease_lapse, make_job, state_of
from tests.broker.system import Worker as OurWorker

STOCK = "stock"  # RQ's own queue
RQ_TTL_S = 90


@pytest.fixture
def rq(broker: Broker) -> Iterator[redis_sync.Redis]:
    """The connection RQ is given."""
    with blocking_client(broker.url) as connection:
        yield connection


@pytest.fixture
def queue(rq: redis_sync.Redis) -> RqQueue:
    """Our queue, as RQ sees it."""
    return RqQueue("relay", connection=rq, serializer=JSONSerializer)


@pytest.fixture
def stock(rq: redis_sync.Redis, broker: Broker) -> Iterator[Stock]:
    stock = Stock(rq, broker)
    yield stock
    stock.job.delete()  # RQ lets a waiting job wait for ever


class Stock:
    """A job that RQ itself brings from stage to stage."""

    worker_name = "a-worker-of-rq"

    def __init__(self, connection: redis_sync.Redis, broker: Broker) -> None:
        limits = broker.limits
        self.connection = connection
        self.queue = RqQueue(STOCK, connection=connection, serializer=JSONSerializer)
        job_id = make_job().id
        self.job = self.queue.enqueue(
            TASK,
            job_id,
            job_id=job_id,
            description=job_id,
            job_timeout=int(limits.total_s),
            result_ttl=int(limits.result_ttl_s),
            failure_ttl=int(limits.dead_ttl_s),
        )

    def start(self) -> Execution:
        with self.connection.pipeline() as pipeline:
            execution = Execution.create(self.job, RQ_TTL_S, pipeline, worker_name=self.worker_name)
            self.job.prepare_for_execution(self.worker_name, pipeline)
            pipeline.lrem(self.queue.key, 1, self.job.id)
            pipeline.execute()
        return execution

    def finish(self, *, failure: str = "") -> None:
        execution = self.start()
        now = datetime.now(UTC)
        told: Any = {
            "worker_name": self.worker_name,
            "execution_id": execution.id,
            "execution_started_at": execution.created_at,
            "execution_ended_at": now,
        }
        self.job.ended_at = now
        with self.connection.pipeline() as pipeline:
            if failure:
                self.job.set_status(JobStatus.FAILED, pipeline=pipeline)
                self.job._handle_failure(failure, pipeline, **told)
            else:
                self.job._handle_success(120, pipeline, **told)
            execution.delete(self.job, pipeline)
            pipeline.execute()


async def records(broker: Broker, job_id: str, queue: str, worker: str = "-", execution: str = "-") -> dict[str, Any]:
    """Where RQ's keys speak of a job: the fields of hashes and results, the entries of lists and registries."""

    def anonymous(text: str) -> str:
        for own, stand_in in ((job_id, "JOB"), (execution, "EXECUTION"), (f":{queue}", ":QUEUE"), (worker, "WORKER")):
            text = text.replace(own, stand_in)
        return text

    def concern(entry: str) -> bool:
        return job_id in entry or execution in entry

    # RQ compresses what is no text then.
    async with Redis.from_url(broker.url, decode_responses=True, encoding="latin-1") as redis:
        held = await dump(redis)
    found: dict[str, Any] = {}
    for name, value in held.items():
        if not name.startswith("rq:") or job_id not in name + repr(value):
            continue
        if ":results:" in name:
            found[anonymous(name)] = sorted(value[-1][1])
        elif isinstance(value, dict):
            found[anonymous(name)] = sorted(value)
        else:
            entries = [item if isinstance(item, str) else item[0] for item in value]
            found[anonymous(name)] = sorted(anonymous(entry) for entry in entries if concern(entry))
    return found


def fetched(job: Job, rq: redis_sync.Redis) -> RqJob:
    return RqJob.fetch(job.id, connection=rq, serializer=JSONSerializer)


# --- waiting


async def test_a_job_hash_is_the_one_rq_makes(broker: Broker, rq: redis_sync.Redis, stock: Stock) -> None:
    job = await broker.submit()
    ours, theirs = fetched(job, rq), RqJob.fetch(stock.job.id, connection=rq, serializer=JSONSerializer)
    assert {*rq.hgetall(ours.key)} == {*rq.hgetall(theirs.key)}
    same = ("func_name", "kwargs", "timeout", "result_ttl", "failure_ttl", "_status", "instance")
    also = ("started_at", "ended_at", "last_heartbeat", "worker_name", "group_id", "meta", "_dependency_ids")
    for name in (*same, *also):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert (ours.args, ours.description, ours.origin) == ([job.id], job.id, "relay")
    for when in (ours.created_at, ours.enqueued_at):
        assert abs(when - datetime.now(UTC)) < timedelta(minutes=1)


async def test_the_queue_is_one_of_rqs_queues(broker: Broker, rq: redis_sync.Redis, queue: RqQueue) -> None:
    job = await broker.submit()
    assert queue in RqQueue.all(connection=rq, serializer=JSONSerializer)
    assert queue.get_job_ids() == [job.id]
    assert queue.get_job_position(job.id) == 0
    assert fetched(job, rq).get_status() == JobStatus.QUEUED


async def test_rq_gets_the_id_in_json_and_nothing_of_the_request(
    broker: Broker, redis: Redis, rq: redis_sync.Redis
) -> None:
    job = await broker.submit(b'{"model": "m", "messages": "a prompt nobody else may read"}', tenant="a-tenant")
    assert json.loads(rq.hget(RqJob.key_for(job.id), "data")) == [TASK, None, [job.id], {}]
    of_rq = repr({name: value for name, value in (await dump(redis)).items() if name.startswith("rq:")})
    assert job.id in of_rq
    for secret in ("a prompt", "a-tenant", "claude", "rk_1"):
        assert secret not in of_rq


async def test_submitting_leaves_the_records_that_enqueueing_leaves(broker: Broker, redis: Redis, stock: Stock) -> None:
    job = await broker.submit()
    assert await records(broker, job.id, "relay") == await records(broker, stock.job.id, STOCK)


# --- running


async def test_claiming_leaves_the_records_that_starting_leaves(
    broker: Broker, worker: OurWorker, redis: Redis, stock: Stock
) -> None:
    job = await broker.submit()
    lease = await worker.claim()
    execution = stock.start()
    ours = await records(broker, job.id, "relay", worker.name, lease.id)
    theirs = await records(broker, stock.job.id, STOCK, stock.worker_name, execution.id)
    assert ours == theirs
    assert ours["rq:wip:QUEUE"] == ["JOB:EXECUTION"]


async def test_rq_sees_a_running_job(broker: Broker, worker: OurWorker, rq: redis_sync.Redis, queue: RqQueue) -> None:
    job = await broker.submit()
    lease = await worker.claim()
    seen = fetched(job, rq)
    assert (seen.get_status(), seen.worker_name) == (JobStatus.STARTED, worker.name)
    for when in (seen.started_at, seen.last_heartbeat):
        assert abs(when - datetime.now(UTC)) < timedelta(minutes=1)
    assert queue.get_job_ids() == []
    assert job.id in StartedJobRegistry(queue=queue)
    assert StartedJobRegistry(queue=queue).get_job_and_execution_ids(cleanup=False) == [(job.id, lease.id)]
    execution = Execution.fetch(lease.id, job.id, connection=rq)
    assert (execution.job_id, execution.worker_name) == (job.id, worker.name)
    assert seen.get_executions() == [execution]
    assert executions_of(worker, rq) == [execution]


def executions_of(worker: OurWorker, rq: redis_sync.Redis) -> list[Execution]:
    """As RQ's monitors ask for them."""
    return BaseWorker(["relay"], name=worker.name, connection=rq).get_current_executions()


async def test_a_heartbeat_keeps_the_records_alive(
    broker: Broker, worker: OurWorker, redis: Redis, rq: redis_sync.Redis, queue: RqQueue
) -> None:
    job = await broker.submit()
    lease = await worker.claim()
    old = datetime.now(UTC).timestamp() - 1
    for registry, member in ((broker.rq.started, f"{job.id}:{lease.id}"), (broker.rq.executions(job.id), lease.id)):
        await redis.zadd(registry, {member: old}, xx=True)
    for name in (broker.rq.execution(job.id, lease.id), broker.rq.worker_executions(worker.name)):
        await redis.expire(name, 2)

    assert await worker.leases.heartbeat([lease]) == [0]

    assert fetched(job, rq).get_executions() == executions_of(worker, rq) != []
    assert StartedJobRegistry(queue=queue).get_expired_job_ids() == []
    assert await redis.ttl(broker.rq.execution(job.id, lease.id)) > 60
    assert await redis.ttl(broker.rq.worker_executions(worker.name)) > 60


async def test_whoever_looks_at_the_queue_does_a_running_job_no_harm(
    broker: Broker, worker: OurWorker, redis: Redis, rq: redis_sync.Redis, queue: RqQueue
) -> None:
    """``rq info`` and dashboards clean registries; RQ's cleaning fails what it takes for abandoned."""
    job, lease = await broker.in_state(STREAMING, worker)
    assert lease
    await worker.leases.heartbeat([lease])
    before = await dump(redis)
    clean_registries(queue)
    clean_worker_registry(queue)
    assert len(StartedJobRegistry(queue=queue)) == 1
    assert await dump(redis) == before
    assert fetched(job, rq).get_status() == JobStatus.STARTED


# --- ended


@pytest.mark.parametrize("state", [DONE, FAILED])
async def test_ending_leaves_the_records_that_rq_leaves(
    broker: Broker, worker: OurWorker, redis: Redis, stock: Stock, state: str
) -> None:
    job, lease = await broker.in_state(state, worker)
    assert lease
    stock.finish(failure="" if state == DONE else "overloaded_error: so it is")
    ours = await records(broker, job.id, "relay", worker.name, lease.id)
    theirs = await records(broker, stock.job.id, STOCK, stock.worker_name)
    assert ours == theirs


async def test_rq_sees_a_finished_job(broker: Broker, worker: OurWorker, rq: redis_sync.Redis, queue: RqQueue) -> None:
    job, lease = await broker.in_state(DONE, worker)
    assert lease
    seen = fetched(job, rq)
    assert seen.get_status() == JobStatus.FINISHED
    assert seen.ended_at and seen.started_at and seen.ended_at >= seen.started_at
    assert job.id in FinishedJobRegistry(queue=queue)
    result = seen.latest_result()
    assert result
    assert (result.type, result.worker_name, result.execution_id) == (Result.Type.SUCCESSFUL, worker.name, lease.id)
    assert result.execution_started_at and result.execution_ended_at
    assert result.execution_started_at <= result.execution_ended_at <= datetime.now(UTC) + timedelta(seconds=1)
    assert_nothing_runs(worker, rq, queue, job)


def assert_nothing_runs(worker: OurWorker, rq: redis_sync.Redis, queue: RqQueue, job: Job) -> None:
    assert StartedJobRegistry(queue=queue).get_job_ids(cleanup=False) == []
    assert fetched(job, rq).get_executions() == executions_of(worker, rq) == []


async def test_rq_sees_a_failed_job_and_why(
    broker: Broker, worker: OurWorker, rq: redis_sync.Redis, queue: RqQueue
) -> None:
    job, _ = await broker.in_state(FAILED, worker)
    seen = fetched(job, rq)
    assert seen.get_status() == JobStatus.FAILED
    assert job.id in FailedJobRegistry(queue=queue)
    result = seen.latest_result()
    assert result
    assert (result.type, result.exc_string) == (Result.Type.FAILED, "overloaded_error: so it is")
    assert_nothing_runs(worker, rq, queue, job)


async def test_rq_sees_a_job_that_was_stopped(
    broker: Broker, worker: OurWorker, rq: redis_sync.Redis, queue: RqQueue
) -> None:
    job = await broker.submit()
    await worker.finish(worker.outlet(await worker.start()), CANCELLED)
    seen = fetched(job, rq)
    assert seen.get_status() == JobStatus.STOPPED
    assert job.id in FailedJobRegistry(queue=queue)  # where RQ puts it, too
    result = seen.latest_result()
    assert result
    assert result.type == Result.Type.STOPPED
    assert_nothing_runs(worker, rq, queue, job)


async def test_rq_sees_a_job_that_was_cancelled_while_it_waited(
    broker: Broker, rq: redis_sync.Redis, queue: RqQueue
) -> None:
    job = await broker.submit()
    await broker.queue.cancel(job.id, TENANT)
    assert fetched(job, rq).get_status() == JobStatus.CANCELED
    assert job.id in CanceledJobRegistry(queue=queue)
    assert queue.get_job_ids() == []


async def test_the_workers_counters_are_those_rq_keeps(broker: Broker, worker: OurWorker, rq: redis_sync.Redis) -> None:
    stock = BaseWorker(["relay"], name=worker.name, connection=rq)
    stock.register_birth()
    await worker.register()
    for state in (DONE, DONE, FAILED):
        await broker.in_state(state, worker)
    [seen] = Worker.all(connection=rq)
    assert (seen.name, seen.successful_job_count, seen.failed_job_count) == (worker.name, 2, 1)
    # It worked for moments; the jobs are older than that.
    assert 0 <= seen.total_working_time < 60
    stock.register_death()


@pytest.mark.parametrize(
    ("state", "cancelled", "status"),
    [
        (CLAIMED, False, JobStatus.QUEUED),
        (DISPATCHED, False, JobStatus.QUEUED),
        (STREAMING, False, JobStatus.FAILED),
        (CLAIMED, True, JobStatus.FAILED),
    ],
)
async def test_rq_sees_what_became_of_a_lost_workers_job(
    broker: Broker,
    worker: OurWorker,
    redis: Redis,
    rq: redis_sync.Redis,
    queue: RqQueue,
    state: str,
    cancelled: bool,
    status: JobStatus,
) -> None:
    job, _ = await broker.in_state(state, worker)
    if cancelled:
        await broker.queue.cancel(job.id, TENANT)
    await let_lease_lapse(redis, broker.keys, job)
    await broker.worker("reaper-1-000000").leases.expire()
    seen = fetched(job, rq)
    assert seen.get_status() == status
    assert queue.get_job_ids() == ([job.id] if status == JobStatus.QUEUED else [])
    assert (job.id in FailedJobRegistry(queue=queue)) == (status == JobStatus.FAILED)
    assert_nothing_runs(worker, rq, queue, job)
    if status == JobStatus.QUEUED:
        assert seen.worker_name is None


# --- what others put into our queue


@pytest.mark.parametrize("state", [DONE, FAILED])
async def test_a_relayed_job_that_is_requeued_does_not_run_again(
    broker: Broker, worker: OurWorker, redis: Redis, rq: redis_sync.Redis, queue: RqQueue, state: str
) -> None:
    job, _ = await broker.in_state(state, worker)
    registry = (FinishedJobRegistry if state == DONE else FailedJobRegistry)(queue=queue)
    registry.requeue(job.id)
    assert queue.get_job_ids() == [job.id]
    assert await worker.leases.claim([], 5) == []
    assert await state_of(redis, broker.keys, job) == state
    assert fetched(job, rq).get_status() == JobStatus.FAILED
    assert job.id in FailedJobRegistry(queue=queue)


async def test_a_job_that_names_a_function_of_its_own_is_refused(
    broker: Broker, worker: OurWorker, redis: Redis, queue: RqQueue
) -> None:
    foreign = queue.enqueue("os.system", "exit 1")
    popped = await worker.leases.pop(1)
    assert popped == foreign.id
    assert await worker.leases.claim([popped], 5) == []
    assert foreign.get_status() == JobStatus.FAILED
    assert foreign.id in FailedJobRegistry(queue=queue)
    assert not await redis.exists(broker.keys.job(foreign.id), broker.rq.intermediate)


# --- suspension, names, errors


async def test_suspending_and_resuming_is_rqs_own(worker: OurWorker, rq: redis_sync.Redis) -> None:
    suspend(rq)
    assert await worker.leases.suspended()
    resume(rq)
    assert not await worker.leases.suspended()


def test_rqs_own_prefix_is_honoured() -> None:
    """``RQ_KEY_PREFIX`` is read by RQ when it is imported, so a process of its own has to be asked."""
    names = "from relay.broker.rq_records import *; n = RqNames('relay');"
    script = names + "print(n.queue, n.job('J'), n.execution('J', 'E'), n.results('J'), n.worker('W'), SUSPENDED)"
    environment = os.environ | {"RQ_KEY_PREFIX": "{rl}:rq"}
    told = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.split() == [
        "{rl}:rq:queue:relay",
        "{rl}:rq:job:J",
        "{rl}:rq:execution:J:E",
        "{rl}:rq:results:J",
        "{rl}:rq:worker:W",
        "{rl}:rq:suspended",
    ]


def test_names_are_those_of_rqs_objects(rq: redis_sync.Redis, queue: RqQueue) -> None:
    names = RqNames("relay")
    assert names.queue == queue.key
    assert names.intermediate == queue.intermediate_queue_key
    assert names.job("J") == RqJob.key_for("J")
    execution = Execution("E", "J", connection=rq, worker_name="W")
    assert (names.execution("J", "E"), names.worker_executions("W")) == (execution.key, execution.worker_executions_key)
    assert names.results("J") == Result.get_key("J")
    assert names.worker("W") == BaseWorker(["relay"], name="W", connection=rq).key
    registries = (StartedJobRegistry, FinishedJobRegistry, FailedJobRegistry, CanceledJobRegistry)
    ours = (names.started, names.finished, names.failed, names.canceled)
    assert ours == tuple(registry(queue=queue).key for registry in registries)


def test_an_error_text_is_read_by_rq(rq: redis_sync.Redis) -> None:
    payload = {b"type": b"2", b"exc_string": error_text("ünfit: 429").encode()}
    assert Result.restore("J", "1-0", payload, connection=rq).exc_string == "ünfit: 429"


def test_a_recorder_takes_what_rq_says_to_a_pipeline(rq: redis_sync.Redis) -> None:
    record: Any = Recorder()
    worker = BaseWorker(["relay"], name="W", connection=rq)
    worker.set_state("busy", pipeline=record)
    worker.heartbeat(pipeline=record)
    commands = [(command, name) for command, name, *_ in record.commands]
    assert commands[0] == ("HSET", "rq:worker:W")
    assert ("EXPIRE", "rq:worker:W") in commands
