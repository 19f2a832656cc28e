"""RQ's records, as RQ 3.0 keeps them: names, the job hash, the text forms of time.

Our scripts write these records in the same step as the job's own state, so that ``rq info``, registries, ``rq suspend``
and the stop-job command tell the truth at all times; RQ's own code would need some twenty round trips a job and could
stop between any two of them. ``tests/broker/test_rq_records.py`` holds every record against what RQ itself writes
and reads.

Used of RQ beyond its documented API: the key names of ``Job``, ``Queue``, ``Execution``, ``Result``, the registries'
``key_template``, and ``Job.to_dict``.
"""

from __future__ import annotations

import base64
import zlib
from datetime import UTC, datetime

import orjson
from rq.defaults import RQ_KEY_PREFIX
from rq.executions import WORKER_EXECUTIONS_KEY_TEMPLATE, ExecutionRegistry
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job as RqJob
from rq.job import JobStatus
from rq.queue import Queue as RqQueue
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.results import Result
from rq.suspension import WORKERS_SUSPENDED as SUSPENDED
from rq.utils import utcformat
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

__all__ = ["SUSPENDED", "TASK", "RqNames", "error_text", "job_record", "timestamps"]

# The task's import path, as RQ shows it. Nobody imports it from here: workers know their one task.
TASK = "workers.tasks.relay"

SUCCESSFUL, FAILED, STOPPED = (
    str(kind.value) for kind in (Result.Type.SUCCESSFUL, Result.Type.FAILED, Result.Type.STOPPED)
)
EXECUTION_TTL_S = 90  # RQ's own is min(time left, 30) + 60; renewed with every heartbeat


class RqNames:
    """RQ's key names for one queue."""

    job_prefix = RqJob.redis_job_namespace_prefix
    execution_prefix = f"{RQ_KEY_PREFIX}:execution:"
    executions_prefix = ExecutionRegistry.key_template.format("")
    worker_prefix = f"{RQ_KEY_PREFIX}:worker:"
    queues = RqQueue.redis_queues_keys

    def __init__(self, queue: str) -> None:
        self.name = queue
        self.queue = RqQueue.redis_queue_namespace_prefix + queue
        self.intermediate = IntermediateQueue.get_intermediate_queue_key(self.queue)
        self.workers = WORKERS_BY_QUEUE_KEY % queue
        self.started = StartedJobRegistry.key_template.format(queue)
        self.finished = FinishedJobRegistry.key_template.format(queue)
        self.failed = FailedJobRegistry.key_template.format(queue)
        self.canceled = CanceledJobRegistry.key_template.format(queue)

    def job(self, job_id: str) -> str:
        return self.job_prefix + job_id

    def execution(self, job_id: str, execution_id: str) -> str:
        return f"{self.execution_prefix}{job_id}:{execution_id}"

    def executions(self, job_id: str) -> str:
        return self.executions_prefix + job_id

    def worker(self, name: str) -> str:
        return self.worker_prefix + name

    def worker_executions(self, name: str) -> str:
        return WORKER_EXECUTIONS_KEY_TEMPLATE.format(name)

    def results(self, job_id: str) -> str:
        return f"{RQ_KEY_PREFIX}:results:{job_id}"


def timestamps() -> tuple[str, float]:
    """Now, as RQ writes it into hashes and as it scores its registries (this host's clock, as RQ does)."""
    now = datetime.now(UTC)
    return str(utcformat(now)), now.timestamp()


def job_record(
    job_id: str, queue: str, timeout_s: int, result_ttl_s: int, failure_ttl_s: int
) -> list[str | int | bytes]:
    """The fields and values of RQ's job hash: the id is its only argument, in JSON, and its description.

    RQ compresses ``data``; it takes it uncompressed as well (``Job.restore``), which is what so short a text deserves.
    """
    now, _ = timestamps()
    return [
        *("data", orjson.dumps([TASK, None, [job_id], {}])),
        *("description", job_id),
        *("origin", queue),
        *("status", JobStatus.QUEUED.value),
        *("created_at", now),
        *("enqueued_at", now),
        *("timeout", timeout_s),
        *("result_ttl", result_ttl_s),
        *("failure_ttl", failure_ttl_s),
        *("started_at", "", "ended_at", "", "last_heartbeat", "", "worker_name", "", "group_id", ""),
        *("success_callback_name", "", "failure_callback_name", "", "stopped_callback_name", ""),
    ]


def error_text(text: str) -> str:
    """An error as RQ stores it in a failed result."""
    return base64.b64encode(zlib.compress(text.encode())).decode()


class Recorder:
    """Stands in for a pipeline where RQ's methods only queue commands on it; ``commands`` is what they queued."""

    def __init__(self) -> None:
        self.commands: list[tuple[str | int | float, ...]] = []

    def hset(self, name: str, key: str, value: str | int | float) -> None:
        self.commands.append(("HSET", name, key, value))

    def expire(self, name: str, seconds: int) -> None:
        self.commands.append(("EXPIRE", name, seconds))
