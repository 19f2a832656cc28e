"""Traces, switched on by OpenTelemetry's own variables; without them the SDK is not even imported.

``OTEL_EXPORTER_OTLP_ENDPOINT`` says where spans go; the SDK reads it and all the others (service name, sampler,
headers, batches) itself. The ingress and the worker ``start`` it, make their spans with ``relay.ingress.tracing`` and
``workers.tracing``, and ``close`` it last. It knows neither requests nor jobs.

Importing the API alone takes 65 ms, the SDK with its exporter 140 more: hence the imports inside functions. The
provider is not made the global one, or libraries would add spans of their own.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

log = logging.getLogger("relay.telemetry")

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"

# For the last spans to leave when a process stops: a collector that hangs must not use up the grace period.
FLUSH_S = 3.0


class Traces:
    """Makes spans, and takes trace contexts from headers and to them."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._propagator = TraceContextTextMapPropagator()
        self.tracer = provider.get_tracer("relay", metadata.version("llm-relay"))

    def context(self, headers: Mapping[str, str]) -> Context:
        """The context these headers tell of; an empty one, which begins a trace, where they tell of none."""
        from opentelemetry.context import Context

        return self._propagator.extract(headers, Context())

    def headers(self, span: Span) -> dict[str, str]:
        """What tells others that their spans belong below this one."""
        from opentelemetry.trace import set_span_in_context

        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, set_span_in_context(span))
        return carrier

    def close(self) -> None:
        """Send what is left, as far as that is done within ``FLUSH_S``."""
        last = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        last.start()
        last.join(FLUSH_S)
        if last.is_alive():
            log.warning("the last spans could not be sent within %.0f s", FLUSH_S)


def start(process: str) -> Traces | None:
    """Begin to trace, for a process called so; None where nobody asked for it, or it cannot be."""
    if not is_wanted(os.environ):
        return None
    if (protocol := _first(os.environ, _PROTOCOLS)) not in ("", _PROTOCOL):
        log.warning("no traces: OTEL_EXPORTER_OTLP_PROTOCOL is %s, and the relay speaks %s only", protocol, _PROTOCOL)
        return None
    try:
        return Traces(_provider(process))
    except ImportError:
        log.warning("no traces: OTEL_EXPORTER_OTLP_ENDPOINT is set; they need pip install 'llm-relay[otel]'")
        return None


def is_wanted(environ: Mapping[str, str]) -> bool:
    """Whether the standard variables ask for traces."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    return environ.get("OTEL_TRACES_EXPORTER", "").strip() in ("", "otlp") and bool(_first(environ, _ENDPOINTS))


def _provider(process: str) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):  # the operator has given no name
        resource = resource.merge(Resource({SERVICE_NAME: f"relay-{process}"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((value for name in names if (value := environ.get(name, "").strip())), "")
