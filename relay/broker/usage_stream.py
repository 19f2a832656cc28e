"""The usage stream: one record per provider call, written in the step that ends the call.

A record is flat text, field by field, so that ``XRANGE`` reads well and any consumer can use it. A number nobody
reported is the empty string, never 0. The call id is ``<job>:<generation>``, and ``<job>:<generation>.2`` and so on
for what a worker calls after a failure; a sink keeps the highest ``v`` of each.

``kind``: ``final`` the provider closed its count · ``partial`` what was known when the stream broke · ``unknown`` the
provider may have been called and nothing came back.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from relay.core.job import Job, Target
from relay.core.usage import Usage

FINAL, PARTIAL, UNKNOWN = "final", "partial", "unknown"

# Fields, in the order they are written; the README's table is made from it.
FIELDS = {
    "v": "version of the record: 1, or 2 when a worker that had lost its job reported late",
    "call": "`<job>:<generation>`, for later calls of the same worker `<job>:<generation>.2` …; "
    "unique per provider call, and sent upstream as `x-relay-call-id`",
    "job": "job id",
    "generation": "names the worker's lease",
    "attempt": "number of the call for this job, from 1",
    "tenant": "owner of the API key",
    "key_id": "id of the API key",
    "app": "the application: its `X-Title`, else the host of its `Referer`, else the key's name",
    "user": "the application's customer, as the request names them (`metadata.user_id`, `safety_identifier`, `user`)",
    "metadata": "the job's metadata, JSON",
    "log": "`content`, or `content;ttl=<seconds>`, where the content of the job is to be kept",
    "surface": "`anthropic` or `openai`",
    "endpoint": "`messages`, `count_tokens` or `chat_completions`",
    "provider": "name of the provider",
    "model": "model as the client wrote it",
    "target": "model as the provider was asked for it",
    "stream": "`1` when the client asked for a stream",
    "started_ms": "Unix time of the dispatch",
    "queue_ms": "from acceptance to dispatch",
    "first_event_ms": "from dispatch to the first event or byte of the answer",
    "status": "HTTP status of the provider's answer",
    "cache_control": "what became of the request's breakpoints, as in the header `x-relay-cache-control`",
    "fingerprint": "of a prompt with breakpoints: places, sizes and hashes of its beginnings, never a text of it",
    "input_tokens": "uncached input",
    "cache_read_tokens": "input read from the cache",
    "cache_write_5m_tokens": "input written to the cache for 5 minutes",
    "cache_write_1h_tokens": "input written to the cache for an hour",
    "output_tokens": "output, reasoning included",
    "reasoning_tokens": "part of the output, where reported",
    "service_tier": "as reported",
    "usage_first": "the provider's first usage object, JSON",
    "usage_last": "the provider's last usage object, JSON",
    "stop_reason": "as reported",
    "cost": "in nano-dollars, where a budget in money had to know it; all others are priced by the ledger alone",
    "cache_note": "why nothing was cached, where the relay knows",
    "kind": "`final`, `partial` or `unknown`",
    "outcome": "`completed`, `error`, `truncated`, `cancelled`, `interrupted`, `worker_lost` …",
    "error": "error code or type, empty on success",
    "total_ms": "from acceptance to the end",
    "ended_ms": "Unix time of the end",
}

# The largest usage object of the fixtures has 900 characters; a provider must not decide the size of our records.
RAW_CHARS = 8192

Value = str | int
Record = list[Value]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class Call:
    """What is known of a provider call while it runs.  Times are Unix milliseconds."""

    job: Job
    target: Target
    generation: int
    number: int  # among the calls of this lease, from 1
    attempt: int  # among all calls for the job, from 1
    started_ms: int = 0
    cache_control: str = ""
    first_event_ms: int | None = None
    status: int | None = None
    stop_reason: str | None = None
    usage: Usage | None = None
    price: Callable[[Mapping[Any, Any]], int | None] | None = None  # of a record, where a budget has to know

    @property
    def name(self) -> str:
        return f"{self.generation}" if self.number == 1 else f"{self.generation}.{self.number}"

    @property
    def id(self) -> str:
        return f"{self.job.id}:{self.name}"

    def draft(self) -> Record:
        """The record so far: what another worker would have to go by."""
        job, usage = self.job, self.usage
        record: Record = [
            *("v", 1, "call", self.id, "job", job.id, "generation", self.generation, "attempt", self.attempt),
            *("tenant", job.tenant, "key_id", job.key_id, "app", job.app, "user", job.user),
            *("metadata", orjson.dumps(job.metadata).decode() if job.metadata else "", "log", job.log),
            *("surface", job.surface, "endpoint", job.endpoint),
            *("provider", self.target.provider, "model", job.model, "target", self.target.model),
            *("stream", int(job.stream)),
            *("started_ms", self.started_ms, "queue_ms", max(0, self.started_ms - job.created_ms)),
            *("first_event_ms", "" if self.first_event_ms is None else max(0, self.first_event_ms - self.started_ms)),
            *("status", _text(self.status)),
            *("cache_control", self.cache_control, "fingerprint", job.fingerprint),
            *(_tokens(usage) if usage else _NOTHING),
            *("stop_reason", _text(self.stop_reason)),
        ]
        cost = self.price(dict(zip(record[::2], record[1::2], strict=True))) if self.price and usage else None
        return [*record, "cost", _text(cost)]

    def record(self, kind: str, outcome: str, error: str = "", note: str = "", version: int = 1) -> Record:
        """The closed record."""
        ended = now_ms()
        record = self.draft()
        record[1] = version
        total = max(0, ended - self.job.created_ms)
        record += ("cache_note", note)
        return [*record, "kind", kind, "outcome", outcome, "error", error, "total_ms", total, "ended_ms", ended]


def _text(value: Any) -> Value:
    return "" if value is None else value if isinstance(value, int) else str(value)


def _tokens(usage: Usage) -> Record:
    buckets = usage.buckets
    return [
        *("input_tokens", buckets.uncached_input, "cache_read_tokens", buckets.cache_read),
        *("cache_write_5m_tokens", buckets.cache_write_5m, "cache_write_1h_tokens", buckets.cache_write_1h),
        *("output_tokens", buckets.output, "reasoning_tokens", _text(usage.reasoning_tokens)),
        *("service_tier", _text(usage.service_tier)),
        *("usage_first", _json(usage.first_raw), "usage_last", _json(usage.last_raw)),
    ]


def _json(raw: Any) -> str:
    try:
        text = orjson.dumps(raw).decode()
    except TypeError:  # an integer above 64 bits, from a provider that is not well
        text = json.dumps(raw)
    return text if len(text) <= RAW_CHARS else ""


_NOTHING: Record = [
    *("input_tokens", "", "cache_read_tokens", "", "cache_write_5m_tokens", "", "cache_write_1h_tokens", ""),
    *("output_tokens", "", "reasoning_tokens", "", "service_tier", "", "usage_first", "", "usage_last", ""),
]
