"""The worker: one process, one event loop, as many jobs as it has room for.

To RQ it is a worker like any other: registered, with a heartbeat, listed by ``rq info``, obeying ``rq suspend``, the
stop-job and shutdown commands and the signals. Inside it is an RQ ``BaseWorker`` that never forks and never blocks: an
LLM stream is waiting, not work. It runs one task and resolves no function by name, so a job hash cannot make it run
anything else.

This is its face to RQ; what it does is ``shift``. Of RQ's methods it calls ``register_birth``, ``register_death``,
``set_state`` and ``heartbeat``, none of them private.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from typing import Any

import redis
import uvloop
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry
from rq.worker import BaseWorker, WorkerStatus
from rq.worker_registration import clean_worker_registry

from relay.broker.connections import blocking_client
from relay.broker.rq_records import Recorder
from relay.settings import Settings, load
from workers.shift import Shift

log = logging.getLogger("relay.worker")


class RelayWorker(BaseWorker):
    """``rq worker --worker-class workers.worker.RelayWorker relay`` starts one, and so does ``relay work``.

    Its settings come from the environment, as everywhere; its Redis and its queue are those RQ was given.
    """

    def __init__(
        self, queues: Any, name: str | None = None, *, settings: Settings | None = None, **options: Any
    ) -> None:
        super().__init__(queues, name=name or _name(), **options)
        if len(self.queues) != 1:
            raise ValueError("a relay worker serves exactly one queue")
        self.settings = settings or load({"queue": self.queues[0].name})
        self.log_job_description = False
        self.signed_on = False

    def work(self, burst: bool = False, *_: Any, max_jobs: int | None = None, **__: Any) -> bool:
        """Take jobs until told to stop; ``burst``: until the queue is empty, ``max_jobs``: until so many are done.

        RQ's other options are about things we have no use for: a scheduler process, logging, several queues.
        """
        self.sign_on()
        try:
            return uvloop.run(Shift(self, burst, max_jobs).run()) > 0
        finally:
            try:
                self.register_death()  # type: ignore[no-untyped-call]
            except redis.RedisError as error:
                log.warning("could not sign off from Redis: %s", type(error).__name__)

    def sign_on(self) -> None:
        """Register with RQ. A full Redis refuses, and must be worked empty all the same: the heartbeat tries again."""
        try:
            self.register_birth()  # type: ignore[no-untyped-call]
            self.signed_on = True
        except redis.OutOfMemoryError:
            log.warning("Redis is full: this worker is not registered with RQ yet")

    def housekeep(self) -> None:
        """Remove what has expired from RQ's registries and from its set of workers. Blocks: run it in a thread.

        Not its registry of started jobs: cleaning that one fails jobs, and ours are settled by ``expire.lua`` alone.
        """
        queue = self.queues[0]
        for registry in (FinishedJobRegistry, FailedJobRegistry, CanceledJobRegistry):
            registry(queue=queue).cleanup()
        clean_worker_registry(queue)

    def signs_of_life(self, *, busy: bool, suspended: bool) -> list[tuple[Any, ...]]:
        """The commands that tell RQ how we are."""
        record: Any = Recorder()  # where RQ expects a pipeline
        state = WorkerStatus.SUSPENDED if suspended else WorkerStatus.BUSY if busy else WorkerStatus.IDLE
        self.set_state(state.value, pipeline=record)
        self.heartbeat(pipeline=record)
        commands: list[tuple[Any, ...]] = record.commands
        return commands


def _name() -> str:
    """Tells an operator, and a job's status, where the worker runs: ``<host>-<pid>-<random>``."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


def start(settings: Settings) -> None:
    """Run one worker with these settings until it is told to stop."""
    RelayWorker([settings.queue], connection=blocking_client(settings.redis_url), settings=settings).work()
