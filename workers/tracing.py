"""A span for each job and one below it for each provider call, where traces are wanted.

Names are those of OpenTelemetry's conventions for messaging and for generative AI; what they have no name for is called
``relay.…``. Prompts, answers and the words of errors never enter a span. Tasks call it; ``relay.telemetry`` sends.

The span of a job is a child of the request's, which the conventions for messaging allow where one message is processed
at a time: one trace then tells what the client waited for. An item of a batch begins a trace of its own with a link to
the batch's request: fifty thousand children would be a trace nobody can open.

A job's span is the operation with all its retries, and each call of a provider has its own span below: the conventions
want one for both, and would hide which call it was that failed.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, get_current_span, set_span_in_context

from relay.broker.leases import Lease
from relay.broker.usage_stream import Call, now_ms
from relay.core.job import CANCELLED, DONE
from relay.core.meter import Meter
from relay.core.usage import Usage
from relay.provider import Provider
from relay.telemetry import Traces
from workers.attempt import Ending
from workers.metrics import OPERATIONS


class Tracing:
    """Of one worker, which takes its jobs from ``queue``."""

    def __init__(self, traces: Traces, queue: str) -> None:
        self._traces = traces
        self._queue = queue

    def job(self, lease: Lease) -> JobTrace:
        """Begin the span of a job that was just claimed."""
        job, context = lease.job, self._traces.context(lease.job.trace)
        links: list[Link] = []
        if job.batch:
            creation = get_current_span(context).get_span_context()
            links, context = [Link(creation)] if creation.is_valid else [], Context()
        attributes: dict[str, Any] = {
            "messaging.system": "rq",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": self._queue,
            "messaging.message.id": job.id,
            "relay.job.id": job.id,
            "relay.job.queue_time": max(0, now_ms() - job.created_ms) / 1000,
        }
        name = f"process {self._queue}"
        span = self._traces.tracer.start_span(name, context, SpanKind.CONSUMER, attributes, links)
        return JobTrace(self._traces, span)


class JobTrace:
    """``end`` it, whatever becomes of the job."""

    def __init__(self, traces: Traces, span: Span) -> None:
        self._traces = traces
        self._span = span
        self._call: Span | None = None

    def call(self, call: Call, provider: Provider) -> dict[str, str]:
        """Begin the span of a provider call; the headers that tell the provider of it."""
        job, target = call.job, call.target
        operation = OPERATIONS.get(job.endpoint, job.endpoint)
        address = urlsplit(provider.base_url)
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": provider.dialect,
            "gen_ai.request.model": target.model,
            "server.address": address.hostname or "",
            "server.port": address.port or (443 if address.scheme == "https" else 80),
            "relay.provider": target.provider,
            "relay.call.id": call.id,
            "relay.call.attempt": call.attempt,
        }
        if job.stream:
            attributes["gen_ai.request.stream"] = True
        context = set_span_in_context(self._span)
        name = f"{operation} {target.model}"
        self._call = self._traces.tracer.start_span(name, context, SpanKind.CLIENT, attributes)
        return self._traces.headers(self._call)

    def called(self, call: Call, meter: Meter, ending: Ending) -> None:
        """End the span of the call."""
        span, self._call = self._call, None
        if span is None:
            return
        if span.is_recording():
            span.set_attributes(_answer(call, meter) | _tokens(call.usage))
            span.set_attribute("relay.outcome", ending.outcome)
            _note_error(span, ending)
        span.end()

    def end(self, ending: Ending | None) -> None:
        """End the span of the job; ``ending`` is None where another worker may go on with it."""
        for span in filter(None, (self._call, self._span)):
            if ending is not None:
                _note_error(span, ending)
            else:
                span.set_attribute("error.type", "interrupted")
                span.set_status(Status(StatusCode.ERROR))
            span.end()


def _answer(call: Call, meter: Meter) -> dict[str, Any]:
    first_ms = call.first_event_ms if call.job.stream else None
    found = {
        "http.response.status_code": call.status,
        "gen_ai.response.id": meter.message_id,
        "gen_ai.response.model": meter.model,
        "gen_ai.response.finish_reasons": [call.stop_reason] if call.stop_reason else None,
        "gen_ai.response.time_to_first_chunk": None if first_ms is None else max(0, first_ms - call.started_ms) / 1000,
    }
    return {name: value for name, value in found.items() if value is not None}


def _tokens(usage: Usage | None) -> dict[str, Any]:
    """What the provider reported; the input holds what was read from the cache and written to it."""
    if usage is None:
        return {}
    found = {
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cache_read_tokens,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens,
    }
    if usage.reasoning_tokens is not None:
        found["gen_ai.usage.reasoning.output_tokens"] = usage.reasoning_tokens
    return found


def _note_error(span: Span, ending: Ending) -> None:
    """That a client cancelled is no error."""
    state = ending.end.state
    if state not in (DONE, CANCELLED):
        span.set_attribute("error.type", ending.end.code or "_OTHER")
        span.set_status(Status(StatusCode.ERROR))
