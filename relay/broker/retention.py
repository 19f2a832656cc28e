"""How long what is left of an ended job lives.  A decision without any I/O; the publisher carries it out."""

from __future__ import annotations

import math
from typing import NamedTuple

from relay.broker.queue import Limits
from relay.core.job import DONE, FAILED, Job


class Retention(NamedTuple):
    """Times to live, in the units that ``finish.lua`` takes."""

    log_ms: int
    job_s: int
    body_s: int  # 0: not at all
    due_ms: int  # in how long its answer is to be put together; 0: never

    @classmethod
    def of(cls, limits: Limits, job: Job, state: str, *, came_whole: bool) -> Retention:
        """A failed job keeps its request, so that it can be looked at and replayed. One whose content is to be kept
        keeps it until the ledger has taken it, or for as long as its events.

        Whoever lets a job finish without a reader comes back for its answer, later than for its events. One that came
        whole is its log; one that streamed is made of its log while there is one: half way, which leaves time to fail.
        """
        job_s = int(limits.dead_ttl_s if state == FAILED else limits.result_ttl_s)
        log_ms = int(limits.log_ttl_s * 1000)
        outlives = job.on_disconnect == "finish" and job_s * 1000 > log_ms
        return cls(
            log_ms=job_s * 1000 if outlives and came_whole else log_ms,
            job_s=job_s,
            body_s=job_s if state == FAILED else math.ceil(limits.log_ttl_s) if job.log else 0,
            due_ms=log_ms // 2 if outlives and not came_whole and state == DONE else 0,
        )
