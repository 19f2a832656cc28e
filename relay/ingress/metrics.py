"""What ``/metrics`` shows: this ingress's counters, the queue, and the counters that workers keep in Redis.

Counting is plain integers on the hot path (a labelled ``prometheus_client`` counter costs 2 µs an increment, a dict
0.1); the families are made when somebody asks.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.registry import Collector

from relay.broker.budgets import Account
from relay.broker.subscriber import Subscriber
from relay.histogram import Histogram
from relay.http_metrics import GONE, Durations
from relay.ingress.exchange import Exchange
from relay.ingress.watch import Watch

# From a warm cache on the same host to a model that thinks for minutes before it speaks.
BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

LAG_EVERY_S = 0.5
_NAME = re.compile(r"[^a-zA-Z0-9_]")


@dataclass(slots=True)
class Seen:
    """What one request for the figures has seen in Redis; ``accounts`` are for an operator's eyes."""

    queue: dict[str, int] = field(default_factory=dict)
    workers: dict[str, dict[str, float]] = field(default_factory=dict)
    accounts: list[Account] = field(default_factory=list)


class Metrics(Collector):
    """One ingress's figures."""

    def __init__(self, subscriber: Subscriber, watches: set[Watch], link_losses: Callable[[], int]) -> None:
        self._subscriber = subscriber
        self._link_losses = link_losses
        self._watches = watches
        self._requests: Counter[tuple[str, int]] = Counter()
        self._first_s = Histogram(BUCKETS_S)
        self.durations = Durations()  # of the native requests here, of all others where they are routed
        self._lag_s = 0.0
        self._lag_max_s = 0.0
        self._seen = Seen()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def count(self, exchange: Exchange) -> None:
        """Note a native request that is over."""
        status, scope = exchange.status or GONE, exchange.scope
        self._requests[exchange.surface, status] += 1
        self.durations.count(scope["method"], scope["path"], status, time.perf_counter() - exchange.began_s)
        if exchange.first_s:
            self._first_s.observe(exchange.first_s - exchange.began_s)

    async def watch_lag(self) -> None:
        """Measure for ever how late the event loop is."""
        while True:
            due_s = time.perf_counter() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            self._lag_s = max(0.0, time.perf_counter() - due_s)
            self._lag_max_s = max(self._lag_max_s, self._lag_s)

    def text(self, seen: Seen) -> bytes:
        """In Prometheus' text format, with what this one reader may see."""
        self._seen = seen
        try:
            return generate_latest(self._registry)
        finally:
            self._seen = Seen()

    def collect(self) -> Iterator[Metric]:
        yield from self._own()
        for name, value in self._seen.queue.items():
            yield GaugeMetricFamily(f"relay_queue_{name}", "Of this partition, from Redis.", value)
        yield from self._of_workers()
        yield self._of_budgets()

    def _own(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "relay_ingress_requests", "Answered requests on the native surfaces.", labels=("surface", "status")
        )
        for (surface, status), count in self._requests.items():
            requests.add_metric((surface, str(status)), count)
        yield requests
        yield GaugeMetricFamily("relay_ingress_open_streams", "Clients waiting for a job's frames.", len(self._watches))
        first = HistogramMetricFamily("relay_ingress_first_event_seconds", "From a request's head to its first event.")
        self._first_s.add_to(first)
        yield first
        yield self.durations.family()
        lag = GaugeMetricFamily("relay_ingress_loop_lag_ms", "How late the event loop was.", labels=("of",))
        lag.add_metric(("now",), self._lag_s * 1000)
        lag.add_metric(("max",), self._lag_max_s * 1000)
        yield lag
        subscriber = self._subscriber
        for name, help_text, value in (
            ("gap_rereads", "Readers sent to the log by a hole in what they got live.", subscriber.gap_rereads),
            ("tail_rereads", "Readers sent to the log by the check after a silence.", subscriber.tail_rereads),
            ("resubscribes", "Lost and regained pub/sub connections.", subscriber.resubscribes),
            ("redis_losses", "Lost connections for everything else.", self._link_losses()),
        ):
            yield CounterMetricFamily(f"relay_ingress_{name}", help_text, value)

    def _of_budgets(self) -> Metric:
        """Whose, as ``key:<id>`` or ``tenant:<name>``: as many as an operator has set."""
        spent = GaugeMetricFamily(
            "relay_budget_spent_ratio",
            "Spent of a budget's hard bound, or of its soft one where it has no other.",
            labels=("holder", "period", "unit"),
        )
        for standing in (each for account in self._seen.accounts for each in account.standings):
            spent.add_metric((standing.holder, standing.bound.period, standing.bound.unit), standing.ratio)
        return spent

    def _of_workers(self) -> Iterator[Metric]:
        families: dict[str, UnknownMetricFamily] = {}
        for worker, stats in sorted(self._seen.workers.items()):
            for counter, value in stats.items():
                name = f"relay_worker_{_NAME.sub('_', counter)}"
                if name not in families:
                    families[name] = UnknownMetricFamily(name, "As the worker reports it.", labels=("worker",))
                families[name].add_metric((worker,), value)
        yield from families.values()
