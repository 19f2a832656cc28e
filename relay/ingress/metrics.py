"""What ``/metrics`` shows: this ingress's counters, the queue, and the counters that workers keep in Redis.

Counting is plain integers on the hot path (a labelled ``prometheus_client`` counter costs 2 µs an increment, a dict
0.1); the families are made when somebody asks.
"""

from __future__ import annotations

import asyncio
import re
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.registry import Collector

from relay.broker.subscriber import Subscriber
from relay.ingress.exchange import Exchange
from relay.ingress.watch import Watch

# From a warm cache on the same host to a model that thinks for minutes before it speaks.
BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

LAG_EVERY_S = 0.5
_NAME = re.compile(r"[^a-zA-Z0-9_]")


class Metrics(Collector):
    """One ingress's figures.  ``queue`` and ``workers`` are set by whoever asked Redis, just before they are shown."""

    def __init__(self, subscriber: Subscriber, watches: set[Watch], link_losses: Callable[[], int]) -> None:
        self._subscriber = subscriber
        self._link_losses = link_losses
        self._watches = watches
        self._requests: Counter[tuple[str, int]] = Counter()
        self._first_s = [0] * (len(BUCKETS_S) + 1)
        self._first_sum_s = 0.0
        self._lag_s = 0.0
        self._lag_max_s = 0.0
        self.queue: dict[str, int] = {}
        self.workers: dict[str, dict[str, float]] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def count(self, exchange: Exchange) -> None:
        """Note a native request that is over.  A client that left before any answer counts as 499, as nginx does."""
        self._requests[exchange.surface, exchange.status or 499] += 1
        if exchange.first_s:
            first_s = exchange.first_s - exchange.began_s
            self._first_s[bisect_left(BUCKETS_S, first_s)] += 1
            self._first_sum_s += first_s

    async def watch_lag(self) -> None:
        """Measure for ever how late the event loop is."""
        while True:
            due_s = time.perf_counter() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            self._lag_s = max(0.0, time.perf_counter() - due_s)
            self._lag_max_s = max(self._lag_max_s, self._lag_s)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        yield from self._own()
        for name, value in self.queue.items():
            yield GaugeMetricFamily(f"relay_queue_{name}", "Of this partition, from Redis.", value)
        yield from self._of_workers()

    def _own(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "relay_ingress_requests", "Answered requests on the native surfaces.", labels=("surface", "status")
        )
        for (surface, status), count in self._requests.items():
            requests.add_metric((surface, str(status)), count)
        yield requests
        yield GaugeMetricFamily("relay_ingress_open_streams", "Clients waiting for a job's frames.", len(self._watches))
        yield self._first_events()
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

    def _first_events(self) -> Metric:
        total, buckets = 0, []
        for bound, count in zip([*map(str, BUCKETS_S), "+Inf"], self._first_s, strict=True):
            total += count
            buckets.append((bound, total))
        return HistogramMetricFamily(
            "relay_ingress_first_event_seconds",
            "From a request's head to its first event.",
            buckets=buckets,
            sum_value=self._first_sum_s,
        )

    def _of_workers(self) -> Iterator[Metric]:
        families: dict[str, UnknownMetricFamily] = {}
        for worker, stats in sorted(self.workers.items()):
            for counter, value in stats.items():
                name = f"relay_worker_{_NAME.sub('_', counter)}"
                if name not in families:
                    families[name] = UnknownMetricFamily(name, "As the worker reports it.", labels=("worker",))
                families[name].add_metric((worker,), value)
        yield from families.values()
