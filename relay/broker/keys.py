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
    Name(
        "relay:{p}:job:<id>:body",
        "hash",
        "the request's bytes, in pieces of 1 MiB",
        "with the end of the job; of a failed one with the job, where content is kept when the ledger has it",
    ),
    Name("relay:{p}:job:<id>:log", "stream", "its frames", "1 h after its end (`RELAY_LOG_TTL_S`), or with the job"),
    Name("relay:{p}:job:<id>:live", "channel", "its frames, live", "not stored"),
    Name("relay:{p}:job:<id>:result", "hash", "the answer of a job that streamed, put together", "with the job"),
    Name("relay:{p}:jobs:<tenant>", "sorted set", "a tenant's jobs, by id, which is by age", "with the last of them"),
    Name("relay:{p}:idempotency:<digest>", "string", "the job of an `Idempotency-Key`", "after 24 h"),
    Name("relay:{p}:stream_secret", "string", "what signs stream tokens", "with the last token it signed"),
    Name("relay:{p}:timers", "sorted set", "jobs by when something is to be done for them", "never; jobs leave it"),
    Name("relay:{p}:batch:<id>", "hash", "a batch and how far it is", "7 d after its end (`RELAY_BATCH_TTL_S`)"),
    Name("relay:{p}:batch:<id>:items", "list", "its requests that are no jobs yet", "when they are, or with the batch"),
    Name("relay:{p}:batch:<id>:item:<number>", "hash", "a request above 16 KiB, in pieces", "when it is a job"),
    Name("relay:{p}:batch:<id>:names", "list", "what its client calls its items", "with the end of the batch"),
    Name("relay:{p}:batch:<id>:ended", "list", "items that wait for their line", "with the end of the batch"),
    Name("relay:{p}:batch:<id>:bits", "string", "a bit for each item that ended", "with the end of the batch"),
    Name("relay:{p}:batches:<surface>:<tenant>", "sorted set", "a tenant's batches", "with the last of them"),
    Name("relay:{p}:due_batches", "sorted set", "batches by when to move them on", "never; batches leave it"),
    Name("relay:{p}:file:<id>", "hash", "a file's facts", "after 7 d (`RELAY_BATCH_TTL_S`), or as it was uploaded"),
    Name("relay:{p}:file:<id>:data", "hash", "its bytes, or results, in pieces", "with the file or the batch"),
    Name("relay:{p}:files:<tenant>", "sorted set", "a tenant's files", "with the last of them"),
    Name("relay:{p}:webhooks", "sorted set", "ended jobs by when their webhooks are due", "never; jobs leave it"),
    Name("relay:{p}:webhook_secrets", "hash", "what signs webhooks, by tenant", "never; one field per tenant"),
    Name("relay:{p}:leases", "sorted set", "running jobs by the Redis time their lease ends", "never; jobs leave it"),
    Name("relay:{p}:due_results", "sorted set", "jobs by when to put together what streamed", "never; jobs leave it"),
    Name(
        "relay:{p}:lanes", "sorted set", "lanes with jobs in them, by whose turn it is", "never; empty lanes leave it"
    ),
    Name(
        "relay:{p}:lane:<priority>:<provider>:<tenant>", "list", "jobs that wait for their turn", "never; jobs leave it"
    ),
    Name(
        "relay:{p}:waiting",
        "hash",
        "how many wait, per tenant and (under the empty name) in all",
        "never; tenants leave it",
    ),
    Name("relay:{p}:vtime", "string", "how far the turns have come", "never"),
    Name("relay:{p}:limits", "hash", "limits of tenants and providers", "never; `relay limits remove`"),
    Name("relay:{p}:budgets", "hash", "budgets of keys and tenants", "never; `relay budgets remove`"),
    Name("relay:{p}:spent:<period>:<kind>:<name>", "hash", "what was spent of a budget", "2 d after its day or month"),
    Name("relay:{p}:busy:<kind>:<name>", "sorted set", "jobs that count against a limit", "2 h after the last"),
    Name("relay:{p}:paced", "hash", "when a limit's allowance is used up", "never; one field per limit"),
    Name(
        "relay:{p}:usage",
        "stream",
        "one record per provider call",
        "never; trimmed behind the ledger (`RELAY_USAGE_TTL_S`), in any case to `RELAY_USAGE_MAXLEN` records",
    ),
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
        self.timers = f"{self._base}:timers"
        self.waiting = f"{self._base}:waiting"
        self.lanes = f"{self._base}:lanes"
        self.limits = f"{self._base}:limits"
        self.budgets = f"{self._base}:budgets"
        self.due_results = f"{self._base}:due_results"
        self.due_batches = f"{self._base}:due_batches"
        self.stream_secret = f"{self._base}:stream_secret"
        self.webhooks = f"{self._base}:webhooks"
        self.webhook_secrets = f"{self._base}:webhook_secrets"

    def job(self, job_id: str) -> str:
        return self._job + job_id

    def body(self, job_id: str) -> str:
        return f"{self._job}{job_id}:body"

    def log(self, job_id: str) -> str:
        return f"{self._job}{job_id}:log"

    def live(self, job_id: str) -> str:
        """The pub/sub channel of a job."""
        return f"{self._job}{job_id}:live"

    def result(self, job_id: str) -> str:
        return f"{self._job}{job_id}:result"

    def jobs(self, tenant: str) -> str:
        """The index of a tenant's jobs."""
        return f"{self._base}:jobs:{tenant}"

    def idempotency(self, digest: str) -> str:
        return f"{self._base}:idempotency:{digest}"

    def lane(self, lane: str) -> str:
        """The jobs in a lane; the scripts make the same name."""
        return f"{self._base}:lane:{lane}"

    def spent(self, period: str, holder: str) -> str:
        """What was spent of a budget in a day or a month; the scripts make the same name."""
        return f"{self._base}:spent:{period}:{holder}"

    def batch(self, batch_id: str) -> str:
        return f"{self._base}:batch:{batch_id}"

    def batch_items(self, batch_id: str) -> str:
        return f"{self._base}:batch:{batch_id}:items"

    def batch_item(self, batch_id: str, number: int) -> str:
        return f"{self._base}:batch:{batch_id}:item:{number}"

    def batch_names(self, batch_id: str) -> str:
        return f"{self._base}:batch:{batch_id}:names"

    def batch_ended(self, batch_id: str) -> str:
        return f"{self._base}:batch:{batch_id}:ended"

    def batch_bits(self, batch_id: str) -> str:
        return f"{self._base}:batch:{batch_id}:bits"

    def batches(self, surface: str, tenant: str) -> str:
        """The index of a tenant's batches."""
        return f"{self._base}:batches:{surface}:{tenant}"

    def file(self, file_id: str) -> str:
        return f"{self._base}:file:{file_id}"

    def file_data(self, file_id: str) -> str:
        return f"{self._base}:file:{file_id}:data"

    def files(self, tenant: str) -> str:
        """The index of a tenant's files."""
        return f"{self._base}:files:{tenant}"

    def worker(self, name: str) -> str:
        return f"{self._base}:workers:{name}"

    def claim(self, worker: str) -> str:
        return f"{self._base}:workers:{worker}:claim"


def partition_of(job_id: str) -> str | None:
    """The partition in a job id; None when the text cannot be one of our ids."""
    partition, dash, rest = job_id.rpartition("-")
    return partition if dash and partition and len(rest) == 32 and rest.isalnum() else None
