"""A worker's figures for Prometheus: what providers were asked, what came of it, what it cost in tokens.

Names beginning with ``gen_ai_`` are those of OpenTelemetry's conventions for clients of generative AI, in the form
Prometheus gives them; the others are the relay's own. Every call is counted once, when its usage record is made, so the
figures are those of the records. Tasks ``count``; a thread of prometheus_client shows it to whoever asks the port.

Counting is plain integers, as in ``relay.ingress.metrics``. Model names may come from clients and error codes from
providers, so there is a bound to how many are told apart.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from operator import add
from threading import Thread
from typing import Final, NamedTuple
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from relay.broker.usage_stream import Call, now_ms
from relay.core.job import Dialect, Target
from relay.histogram import Histogram
from relay.reference import SettingsError

# As the conventions advise; two more, because models that think take minutes.
SECONDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 300.0, 900.0)
TOKENS: Final = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)

# Three times what the largest public price list has in use; and per model, the codes both vendors document.
MODELS_MAX: Final = 300
ERRORS_MAX: Final = 30
OTHER: Final = "other"

# As many workers as `relay up` may start; each takes the first port that is free.
PORTS: Final = 256

# Disjoint, in the order of ``Usage.buckets``.
TYPES: Final = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")
# The conventions' name for what both endpoints do; counting tokens has none.
OPERATIONS: Final = {"messages": "chat", "chat_completions": "chat"}

# The conventions' provider is who defined the API; ours, which may be one of several of its kind, is beside it.
_GEN_AI: Final = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "relay_provider")
_OURS: Final = ("provider", "model")
_FIRST = "gen_ai_client_operation_time_to_first_chunk_seconds"
# What the conventions call it at a model's own server, and dashboards for gateways ask for.
_FIRST_OF_A_SERVER = "gen_ai_server_time_to_first_token_seconds"

# Of what the heartbeat says, that which is as it is now; the rest only grows.
_GAUGES: Final = frozenset({"open_streams", "targets_out", "loop_lag_ms"})


class Kind(NamedTuple):
    """What calls are told apart by."""

    endpoint: str
    dialect: Dialect
    provider: str
    model: str

    @property
    def gen_ai(self) -> tuple[str, ...]:
        """As the values of ``_GEN_AI``."""
        return OPERATIONS.get(self.endpoint, self.endpoint), self.dialect, self.model, self.provider


class Calls:
    """The calls of one kind, added up."""

    __slots__ = ("durations", "first", "input", "outcomes", "output", "retries", "tokens")

    def __init__(self) -> None:
        self.durations: dict[str, Histogram] = {}  # by error, which is empty where all went well
        self.outcomes: Counter[str] = Counter()
        self.retries = 0
        self.first = Histogram(SECONDS)
        self.input, self.output = Histogram(TOKENS), Histogram(TOKENS)
        self.tokens = [0] * len(TYPES)

    def duration(self, error: str) -> Histogram:
        found = self.durations.get(error)
        if found is None:
            error = error if len(self.durations) < ERRORS_MAX else OTHER
            found = self.durations.setdefault(error, Histogram(SECONDS))
        return found


class Metrics(Collector):
    """One worker's.  ``stats``: what its heartbeat says; ``out``: targets that are left alone for now."""

    def __init__(self, stats: Callable[[], Mapping[str, float]], out: Callable[[], Iterable[Target]]) -> None:
        self._stats = stats
        self._out = out
        self._calls: dict[Kind, Calls] = {}

    def count(self, call: Call, dialect: Dialect, outcome: str, error: str) -> None:
        """Note a call that is over."""
        job, target, usage = call.job, call.target, call.usage
        calls = self._of(Kind(job.endpoint, dialect, target.provider, target.model))
        calls.outcomes[outcome] += 1
        calls.retries += call.number > 1
        calls.duration(error).observe(max(0, now_ms() - call.started_ms) / 1000)
        if job.stream and call.first_event_ms is not None:
            calls.first.observe(max(0, call.first_event_ms - call.started_ms) / 1000)
        if usage:
            buckets = usage.buckets
            calls.input.observe(sum(buckets) - buckets.output)
            calls.output.observe(buckets.output)
            calls.tokens = [*map(add, calls.tokens, buckets)]

    def _of(self, kind: Kind) -> Calls:
        found = self._calls.get(kind)
        if found is None:
            kind = kind if len(self._calls) < MODELS_MAX else kind._replace(model=OTHER)
            found = self._calls.setdefault(kind, Calls())
        return found

    # -- showing it, in another thread: hence the copies of dicts --------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        kinds = list(self._calls.items())
        yield from _as_conventions_have_it(kinds)
        yield from _as_we_call_it(kinds)
        yield self._targets_out({kind.model for kind, _ in kinds})
        for name, value in self._stats().items():
            family = GaugeMetricFamily if name in _GAUGES else CounterMetricFamily
            yield family(f"relay_worker_{name}", "As in the worker's heartbeat.", value)

    def _targets_out(self, told: set[str]) -> Metric:
        """Of the models told apart elsewhere too, so that there are no more of them."""
        family = GaugeMetricFamily("relay_provider_target_out", "1: not called for now, it failed.", labels=_OURS)
        for provider, model in {(target.provider, target.model) for target in self._out()}:
            if model in told:
                family.add_metric((provider, model), 1)
        return family


Kinds = Iterable[tuple[Kind, Calls]]


def _as_conventions_have_it(kinds: Kinds) -> Iterator[Metric]:
    duration = HistogramMetricFamily(
        "gen_ai_client_operation_duration_seconds",
        "Provider calls, from dispatch to their end.",
        labels=(*_GEN_AI, "error_type"),
    )
    usage = HistogramMetricFamily(
        "gen_ai_client_token_usage",
        "Tokens of a call as its provider reported them; input includes cached ones.",
        labels=(*_GEN_AI, "gen_ai_token_type"),
    )
    firsts = [
        HistogramMetricFamily(name, "From dispatch to the first event of a stream.", labels=_GEN_AI)
        for name in (_FIRST, _FIRST_OF_A_SERVER)
    ]
    for kind, calls in kinds:
        for error, histogram in list(calls.durations.items()):
            histogram.add_to(duration, (*kind.gen_ai, error))
        calls.input.add_to(usage, (*kind.gen_ai, "input"))
        calls.output.add_to(usage, (*kind.gen_ai, "output"))
        for family in firsts:
            calls.first.add_to(family, kind.gen_ai)
    yield from (duration, usage, *firsts)


def _as_we_call_it(kinds: Kinds) -> Iterator[Metric]:
    labels = ("endpoint", *_OURS)
    ended = CounterMetricFamily("relay_provider_calls", "Provider calls that are over.", labels=(*labels, "outcome"))
    again = CounterMetricFamily("relay_provider_retries", "Those made because one before had failed.", labels=labels)
    tokens = CounterMetricFamily(
        "relay_tokens", "Disjoint; cache writes by how long they live.", labels=(*labels, "type")
    )
    for (endpoint, _, *target), calls in kinds:
        for outcome, count in list(calls.outcomes.items()):
            ended.add_metric((endpoint, *target, outcome), count)
        again.add_metric((endpoint, *target), calls.retries)
        for type_, count in zip(TYPES, calls.tokens, strict=True):
            tokens.add_metric((endpoint, *target, type_), count)
    yield from (ended, again, tokens)


def expose(metrics: Metrics, host: str, port: int) -> Callable[[], None]:
    """Show them at ``port``, or the first free one behind it.  Answers what ends it.  Raises ``SettingsError``."""
    registry = CollectorRegistry()
    registry.register(metrics)
    for each in range(port, min(port + PORTS, 65_536)):
        try:
            return partial(_hide, *start_http_server(each, host, registry))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                where = f"{host} port {each}"
                raise SettingsError(f"RELAY_METRICS_PORT: cannot listen on {where}: {error.strerror}") from None
    raise SettingsError(f"RELAY_METRICS_PORT: no port from {port} on is free")


def _hide(server: WSGIServer, thread: Thread) -> None:
    server.shutdown()
    thread.join()
    server.server_close()
