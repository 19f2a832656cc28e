"""When there are traces, and what it costs to have none."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Mapping
from time import perf_counter

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from relay import telemetry
from relay.telemetry import Traces, is_wanted
from tests.support.collector import Collector
from tests.support.processes import clean_environment, python

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


def running(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        python("-c", code), env=clean_environment() | environment, capture_output=True, text=True, check=True
    )


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "TRUE"}, False),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, False),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "otlp"}, True),
    ],
)
def test_the_standard_variables_decide(environment: Mapping[str, str], wanted: bool) -> None:
    assert is_wanted(environment) is wanted


def test_where_nobody_asks_nothing_is_imported() -> None:
    begin = "import sys, workers.worker, relay.ingress.main; from relay import telemetry; "
    end = "print(telemetry.start('worker'), {'opentelemetry.sdk.trace', 'workers.tracing'} & {*sys.modules})"
    assert running(begin + end).stdout == "None set()\n"


@pytest.mark.parametrize(
    ("code", "environment", "told"),
    [
        ("sys.modules['opentelemetry.sdk'] = None", {}, "pip install 'llm-relay[otel]'"),
        ("", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL is grpc"),
    ],
)
def test_what_keeps_traces_from_being_is_said_once_and_clearly(
    code: str, environment: Mapping[str, str], told: str
) -> None:
    begin = f"import sys; from relay import logs, telemetry; logs.configure('info'); {code}\n"
    done = running(begin + "print(telemetry.start('worker'))", **ENDPOINT, **environment)
    assert done.stdout == "None\n"
    [line] = done.stderr.splitlines()
    assert told in line


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({}, "relay-worker"),
        ({"OTEL_SERVICE_NAME": "mine"}, "mine"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=ours,deployment.environment.name=test"}, "ours"),
    ],
)
async def test_a_process_is_called_as_the_operator_says(environment: Mapping[str, str], name: str) -> None:
    code = "from relay import telemetry; t = telemetry.start('worker'); t.tracer.start_span('x').end(); t.close()"
    with Collector() as collector:
        running(code, **collector.environment, **environment)
        [span] = collector.spans
    assert (span.service, span.name) == (name, "x")


def test_a_collector_that_hangs_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(telemetry, "FLUSH_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        exporter = OTLPSpanExporter(endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces", timeout=1)
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(exporter))
        traces = Traces(provider)
        traces.tracer.start_span("x").end()
        began = perf_counter()
        traces.close()
        assert perf_counter() - began < 0.9
        [last] = [thread for thread in threading.enumerate() if thread.name == "last-spans"]
        last.join()
    assert "the last spans could not be sent" in caplog.text
