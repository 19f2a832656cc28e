"""A job as its API shows it.

The endpoints below ``/v1/jobs`` answer with these, and a native call that asked for an answer later.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from relay.broker.queue import JobStatus
from relay.core.job import CLAIMED, DISPATCHED, STREAMING, OnDisconnect, Priority
from relay.core.webhook import Delivery
from relay.core.webhook_target import shown

Status = Literal["queued", "in_progress", "completed", "failed", "cancelled"]


class WorkerView(BaseModel):
    name: str
    pid: int | None


class TimingsView(BaseModel):
    """Unix time in milliseconds; null: not reached."""

    created_ms: int
    run_at_ms: int | None = Field(description="It does not run before; null: at once.")
    expires_at_ms: int | None = Field(description="It fails if no worker has taken it by then; null: never.")
    claimed_ms: int | None
    dispatched_ms: int | None
    first_event_ms: int | None
    ended_ms: int | None


class ErrorView(BaseModel):
    code: str
    message: str


class WebhookView(BaseModel):
    """How far the telling of a job's end has come."""

    url: str = Field(description="Without its path, which may be a secret.", examples=["https://example.com"])
    state: Literal["pending", "delivered", "failed"]
    attempts: int
    last_status: int | None = Field(description="The receiver's; null: it did not answer.")
    last_error: str | None
    next_attempt_ms: int | None

    @classmethod
    def of(cls, url: str, delivery: Delivery | None) -> WebhookView | None:
        if delivery is None:
            return None
        return cls(
            url=shown(url),
            state=delivery.state,
            attempts=delivery.attempts,
            last_status=delivery.last_status,
            last_error=delivery.last_error,
            next_attempt_ms=delivery.next_ms,
        )


class LinksView(BaseModel):
    self: str
    stream: str
    result: str
    cancel: str


class JobView(BaseModel):
    """A job."""

    id: str
    object: Literal["job"] = "job"
    status: Status
    state: Literal["queued", "claimed", "dispatched", "streaming", "done", "failed", "cancelled"] = Field(
        description="Where in its life the job is: `dispatched` means that the provider may have been called, "
        "`streaming` that there is output."
    )
    endpoint: str
    model: str = Field(description="As the client named it.")
    provider: str
    stream: bool
    attempt: int = Field(description="Provider calls so far; 0 while the job waits.")
    generation: int = Field(description="Names the attempt; the first part of its event ids.")
    last_event: str | None = Field(description="Id of the newest event.", examples=["1763760000000-12"])
    http_status: int | None = Field(description="The provider's.")
    usage_kind: Literal["final", "partial", "unknown"] | None = Field(
        description="What is known of the attempt's cost; null until it has ended."
    )
    worker: WorkerView | None = Field(description="Who runs it; null when nobody does.")
    priority: Priority
    metadata: dict[str, str]
    on_disconnect: OnDisconnect = Field(description="Whether it is finished when nobody reads it.")
    webhook: WebhookView | None
    replay_of: str | None = Field(description="The failed job whose request this one repeats.")
    timings: TimingsView
    error: ErrorView | None
    links: LinksView

    @classmethod
    def of(cls, status: JobStatus) -> JobView:
        job, here = status.job, f"/v1/jobs/{status.job.id}"
        running = status.state in (CLAIMED, DISPATCHED, STREAMING)
        return cls.model_validate(
            {
                "id": job.id,
                "status": status.status,
                "state": status.state,
                "endpoint": job.endpoint,
                "model": job.model,
                "provider": job.targets[0].provider,
                "stream": job.stream,
                "attempt": status.calls,
                "generation": status.generation,
                "last_event": f"{status.generation}-{status.sequence}" if status.sequence else None,
                "http_status": status.http_status,
                "usage_kind": status.usage_kind,
                "worker": {"name": status.worker, "pid": status.worker_pid} if running else None,
                "priority": job.priority,
                "metadata": job.metadata,
                "on_disconnect": job.on_disconnect,
                "webhook": WebhookView.of(job.webhook, status.delivery),
                "replay_of": job.replay_of or None,
                "timings": {
                    "created_ms": job.created_ms,
                    "run_at_ms": job.run_at_ms or None,
                    "expires_at_ms": job.expires_at_ms or None,
                    "claimed_ms": status.claimed_ms,
                    "dispatched_ms": status.dispatched_ms,
                    "first_event_ms": status.first_ms,
                    "ended_ms": status.ended_ms,
                },
                "error": {"code": status.error, "message": status.message or ""} if status.error else None,
                "links": {"self": here} | {name: f"{here}/{name}" for name in ("stream", "result", "cancel")},
            }
        )


class JobList(BaseModel):
    """A page of jobs."""

    object: Literal["list"] = "list"
    data: list[JobView]
    first_id: str | None
    last_id: str | None = Field(
        description="What to pass as `after` for the next page. Not always a job of this one: a search that finds "
        "little pauses after 20,000 jobs."
    )
    has_more: bool
