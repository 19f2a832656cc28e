"""Telling somebody that a job has ended, as Standard Webhooks 1.0 has it: message, signatures, when to try again.

The message is thin: it says which job and how it ended, never what was asked or answered. Its id is the job's, so that
a receiver can tell a second delivery from a second event. Pure: ``workers.webhooks`` brings the time, the dice and the
network, ``relay.broker.webhooks`` keeps the state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NamedTuple, cast

import orjson
from standardwebhooks import Webhook

from relay.core.job import STATUS, Job

State = Literal["pending", "delivered", "failed"]
PENDING: State = "pending"
DELIVERED: State = "delivered"
FAILED: State = "failed"

# What the standard advises for a secret is 24 to 64 random bytes.
SECRET_BYTES = 32
# How long the secret before still signs, so that receivers can be told the new one meanwhile.
ROTATION_MS = 86_400_000

# Pauses grow fourfold: with a first one of 5 s there are six attempts in two hours, and six more in a day.
_GROWTH, _LONGEST_PAUSE_S = 4, 14_400.0
# A fifth more or less, so that those who failed together do not all come back together.
_JITTER = 0.2

# The receiver is not interested any more.
_GONE = 410


@dataclass(frozen=True, slots=True)
class Delivery:
    """How far the telling of a job's end has come, as its hash in Redis has it.  Times are Unix milliseconds."""

    state: State
    attempts: int
    last_status: int | None
    last_error: str | None
    next_ms: int | None  # None: there is no further attempt, or the job has not ended

    @classmethod
    def decode(cls, stored: Mapping[str, str]) -> Delivery | None:
        """None for a job without a webhook."""
        if not stored.get("webhook"):
            return None
        status, due = stored.get("webhook_status"), stored.get("webhook_next_ms")
        return cls(
            cast(State, stored.get("webhook_state", PENDING)),
            int(stored.get("webhook_attempts", 0)),
            int(status) if status else None,
            stored.get("webhook_error") or None,
            int(due) if due else None,
        )


def message_id(job_id: str) -> str:
    """The same for every delivery: a job ends once."""
    return f"msg_{job_id}"


def message(job: Job, state: str, ended_ms: int) -> bytes:
    """What is sent, equal bytes each time."""
    status, here = STATUS[state], f"/v1/jobs/{job.id}"
    at = datetime.fromtimestamp(ended_ms / 1000, UTC).isoformat(timespec="milliseconds")
    data = {
        "id": job.id,
        "object": "job",
        "status": status,
        "endpoint": job.endpoint,
        "model": job.model,
        "metadata": job.metadata,
        "links": {"self": here, "stream": f"{here}/stream", "result": f"{here}/result"},
    }
    return orjson.dumps({"id": message_id(job.id), "type": f"job.{status}", "timestamp": at, "data": data})


def headers(msg_id: str, body: bytes, secrets: Iterable[str], at_s: int) -> dict[str, str]:
    """Those of one delivery, signed with every secret in force."""
    at = datetime.fromtimestamp(at_s, UTC)
    signatures = [Webhook(secret).sign(msg_id, at, body.decode()) for secret in secrets]
    return {
        "content-type": "application/json",
        "user-agent": "llm-relay",
        "webhook-id": msg_id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": " ".join(signatures),
    }


class Reply(NamedTuple):
    """What a receiver made of a message; ``error`` is in our words, never in its."""

    status: int | None
    error: str = ""
    retry_after_s: float = 0.0
    is_final: bool = False  # it would be no use to try again

    @classmethod
    def of(cls, status: int, retry_after: str | None) -> Reply:
        if 200 <= status < 300:
            return cls(status)
        if 300 <= status < 400:
            return cls(status, f"The receiver answered with a redirect ({status}), which is not followed.")
        asked_s = float(retry_after) if retry_after and retry_after.isascii() and retry_after.isdigit() else 0.0
        return cls(status, f"The receiver answered with {status}.", asked_s, status == _GONE)


class Schedule(NamedTuple):
    """When to try again."""

    first_s: float
    give_up_s: float  # after the job's end, or after somebody asked for a delivery

    def pause_s(self, reply: Reply, attempts: int, elapsed_s: float, dice: float) -> float | None:
        """How long to wait after so many attempts; None: not again.  ``dice`` is evenly from 0 to 1."""
        if not reply.error or reply.is_final:
            return None
        grown = min(self.first_s * _GROWTH ** min(attempts - 1, 32), _LONGEST_PAUSE_S)
        pause = max(grown * (1 - _JITTER + 2 * _JITTER * dice), min(reply.retry_after_s, _LONGEST_PAUSE_S))
        return pause if elapsed_s + pause <= self.give_up_s else None
