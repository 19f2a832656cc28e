"""Every Redis name the relay uses, what it holds and when it goes.

``TABLE`` is the README's table. Names carry the partition as hash tag, so that all of one partition lives in one slot
of a cluster and a script may touch several of them. RQ's own names start with ``rq:`` or with ``RQ_KEY_PREFIX``.
"""

from __future__ import annotations

from typing import NamedTuple

API_KEYS = "relay:api_keys"


class Name(NamedTuple):
    """One row of the README's table."""

    pattern: str
    type: str
    holds: str
    expires: str


TABLE = (
    Name("relay:{p}:job:<id>", "hash", "the job and its state", "24 h after its end (`RELAY_RESULT_TTL_S`)"),
    Name("relay:{p}:job:<id>:body", "hash", "the request's bytes, in pieces of 1 MiB", "with the end of the job"),
    Name("relay:{p}:job:<id>:log", "stream", "its frames", "1 h after its end (`RELAY_LOG_TTL_S`)"),
    Name("relay:{p}:job:<id>:live", "channel", "its frames, live", "not stored"),
    Name("relay:{p}:leases", "sorted set", "running jobs by the Redis time their lease ends", "never; jobs leave it"),
    Name("relay:{p}:usage", "stream", "one record per provider call", "never; trimmed to `RELAY_USAGE_MAXLEN` records"),
    Name("relay:{p}:workers:<name>", "hash", "a worker's counters and heartbeat", "60 s after its last heartbeat"),
    Name("relay:{p}:workers:<name>:claim", "string", "its last claim, should it repeat it", "after 90 s"),
    Name(API_KEYS, "hash", "API keys by SHA-256, with tenant and name", "never; `relay keys revoke` marks them"),
)


class Keys:
    """The names of one partition."""

    def __init__(self, partition: str = "0") -> None:
        self.partition = partition
        self._base = f"relay:{{{partition}}}"
        self._job = f"{self._base}:job:"
        self.leases = f"{self._base}:leases"
        self.usage = f"{self._base}:usage"

    def job(self, job_id: str) -> str:
        return self._job + job_id

    def body(self, job_id: str) -> str:
        return f"{self._job}{job_id}:body"

    def log(self, job_id: str) -> str:
        return f"{self._job}{job_id}:log"

    def live(self, job_id: str) -> str:
        """The pub/sub channel of a job."""
        return f"{self._job}{job_id}:live"

    def worker(self, name: str) -> str:
        return f"{self._base}:workers:{name}"

    def claim(self, worker: str) -> str:
        return f"{self._base}:workers:{worker}:claim"


def partition_of(job_id: str) -> str | None:
    """The partition in a job id; None when the text cannot be one of our ids."""
    partition, dash, rest = job_id.rpartition("-")
    return partition if dash and partition and len(rest) == 32 and rest.isalnum() else None
