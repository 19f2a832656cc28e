"""A worker's figures: each call once, under the names people look for, and never too many series."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterable
from dataclasses import replace
from time import perf_counter

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from relay.broker.usage_stream import Call, now_ms
from relay.core.job import Target
from relay.core.usage import Usage
from relay.reference import SettingsError
from tests.broker.system import make_job
from tests.support.figures import Figures
from tests.support.processes import free_port
from workers.metrics import ERRORS_MAX, MODELS_MAX, Metrics, expose

CLAUDE = Target("anthropic", "anthropic", "claude-x")
USAGE = Usage(input_tokens=11, cache_read_tokens=5, cache_write_by_ttl={"5m": 7, "1h": 2}, output_tokens=3)


def made(target: Target = CLAUDE, *, number: int = 1, usage: Usage | None = USAGE, stream: bool = True) -> Call:
    """A call that began two seconds ago, and answered after one."""
    call = Call(replace(make_job(), stream=stream), target, generation=1, number=number, attempt=number)
    call.started_ms, call.usage = now_ms() - 2000, usage
    call.first_event_ms = call.started_ms + 1000
    return call


def shown(metrics: Metrics) -> Figures:
    registry = CollectorRegistry()
    registry.register(metrics)
    return Figures(generate_latest(registry).decode())


def none() -> Iterable[Target]:
    return ()


def test_a_call_is_counted_with_its_time_and_its_tokens() -> None:
    metrics = Metrics(dict, none)
    metrics.count(made(), "anthropic", "completed", "")
    found = shown(metrics)
    labels = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "anthropic", "gen_ai_request_model": "claude-x"}
    duration = "gen_ai_client_operation_duration_seconds"
    assert found(f"{duration}_count", **labels, error_type="") == 1
    assert 2 <= found(f"{duration}_sum", **labels) < 2.5
    assert [found(f"{duration}_bucket", le=le) for le in ("1.28", "2.56", "+Inf")] == [0, 1, 1]
    for name in ("gen_ai_client_operation_time_to_first_chunk_seconds", "gen_ai_server_time_to_first_token_seconds"):
        assert (found(f"{name}_count", **labels), found(f"{name}_sum", **labels)) == (1, 1)
    used = "gen_ai_client_token_usage_sum"
    assert [found(used, **labels, gen_ai_token_type=each) for each in ("input", "output")] == [25, 3]
    by_type = {each: found("relay_tokens_total", type=each) for each in found.values("relay_tokens_total", "type")}
    assert by_type == {"input": 11, "cache_read": 5, "cache_write_5m": 7, "cache_write_1h": 2, "output": 3}
    assert found("relay_provider_calls_total", provider="anthropic", model="claude-x", outcome="completed") == 1
    assert found("relay_provider_retries_total") == 0


def test_a_failure_is_told_by_its_code_and_a_second_try_is_a_retry() -> None:
    metrics = Metrics(dict, none)
    metrics.count(made(usage=None), "anthropic", "error", "overloaded_error")
    metrics.count(made(number=2), "anthropic", "completed", "")
    found = shown(metrics)
    assert found("gen_ai_client_operation_duration_seconds_count", error_type="overloaded_error") == 1
    assert found("relay_provider_calls_total", outcome="error") == 1
    assert found("relay_provider_retries_total") == 1
    assert found("gen_ai_client_token_usage_count", gen_ai_token_type="input") == 1


def test_only_a_stream_has_a_first_chunk() -> None:
    metrics = Metrics(dict, none)
    metrics.count(made(stream=False), "anthropic", "completed", "")
    assert shown(metrics)("gen_ai_client_operation_time_to_first_chunk_seconds_count") == 0


def test_names_that_strangers_choose_cannot_make_series_without_end() -> None:
    metrics = Metrics(dict, none)
    for number in range(2 * MODELS_MAX):
        metrics.count(made(replace(CLAUDE, model=f"claude-{number}")), "anthropic", "completed", "")
        metrics.count(made(), "anthropic", "error", f"error-{number}")
    found = shown(metrics)
    models = found.values("relay_provider_calls_total", "model")
    assert len(models) == MODELS_MAX + 1
    assert "other" in models
    assert len(found.values("gen_ai_client_operation_duration_seconds_count", "error_type")) <= ERRORS_MAX + 2
    assert found("gen_ai_client_operation_duration_seconds_count") == 4 * MODELS_MAX


def test_targets_that_are_out_and_the_heartbeat_are_shown() -> None:
    metrics = Metrics(lambda: {"jobs": 7, "open_streams": 3}, lambda: [CLAUDE, replace(CLAUDE, model="never-called")])
    metrics.count(made(), "anthropic", "error", "http_500")
    found = shown(metrics)
    assert found("relay_provider_target_out", provider="anthropic", model="claude-x") == 1
    assert found("relay_provider_target_out") == 1
    assert (found("relay_worker_jobs_total"), found("relay_worker_open_streams")) == (7, 3)


def test_counting_a_call_costs_little() -> None:
    metrics, call, calls = Metrics(dict, none), made(), 2000
    best = min(_seconds(metrics, call, calls) for _ in range(5))
    assert best / calls < 50e-6  # 4 µs on an idle machine; ten times that would be another way of counting


def _seconds(metrics: Metrics, call: Call, calls: int) -> float:
    began = perf_counter()
    for _ in range(calls):
        metrics.count(call, "anthropic", "completed", "")
    return perf_counter() - began


def test_workers_of_one_host_take_a_port_each() -> None:
    port = free_port()
    hide = [expose(Metrics(lambda n=n: {"jobs": n}, none), "127.0.0.1", port) for n in (1, 2)]  # type: ignore[misc]
    pages = []
    for each in range(port, port + 10):
        try:
            pages.append(urllib.request.urlopen(f"http://127.0.0.1:{each}/metrics", timeout=5).read().decode())
        except OSError:
            continue
    assert {Figures(page)("relay_worker_jobs_total") for page in pages if "relay_worker_jobs" in page} == {1, 2}
    for end in hide:
        end()


def test_an_address_that_cannot_be_listened_on_is_named() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        with pytest.raises(SettingsError, match=r"RELAY_METRICS_PORT: cannot listen on 192\.0\.2\.1 port"):
            expose(Metrics(dict, none), "192.0.2.1", probe.getsockname()[1])
