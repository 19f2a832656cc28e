"""The console's figures for Prometheus: how far the ledger is behind, what is in it, how the console itself serves.

What the ledger has is read from its database when somebody asks: it is right however many ledgers write and whichever
console is asked. A late record may correct an earlier one, so these figures are gauges: ``delta``, not ``rate``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from relay.broker.usage_reader import Behind
from relay.http_metrics import Durations
from relay.ledger.totals import Total

# Models may be named by clients; those with the most calls are told apart.
MODELS_MAX: Final = 300
OTHER: Final = "other"

_NANO: Final = 1e9
_MODEL: Final = ("provider", "model")


def text(durations: Durations, lag: Behind | None, rejected: int | None, found: list[Total] | None = None) -> bytes:
    """In Prometheus' text format; ``None`` is what is not known, or not for everybody."""
    registry = CollectorRegistry()
    registry.register(_Figures([durations.family(), *_of_ledger(lag, rejected), *_of_calls(found)]))
    return generate_latest(registry)


class _Figures(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _of_ledger(lag: Behind | None, rejected: int | None) -> Iterator[Metric]:
    if lag is not None:
        yield GaugeMetricFamily("relay_ledger_records_behind", "Usage records not stored yet.", lag.records)
        yield GaugeMetricFamily("relay_ledger_seconds_behind", "Age of the oldest of them.", lag.oldest_s)
    if rejected is not None:
        yield GaugeMetricFamily("relay_ledger_rejected_records", "Kept aside, as they could not be read.", rejected)


def _of_calls(found: list[Total] | None) -> Iterator[Metric]:
    if found is None:
        return
    calls = GaugeMetricFamily(
        "relay_ledger_calls",
        "Calls stored, by what the prompt cache did, and why it was no better.",
        labels=(*_MODEL, "cache", "reason"),
    )
    groups = _bounded(found)
    for labels, count in _sums(groups, "calls", lambda each: (*_model(each), each.cache, each.cache_reason)):
        calls.add_metric(labels, count)
    yield calls
    for name, help_text, field, unit in (
        ("relay_ledger_unpriced_calls", "Those with tokens and without a known price.", "unpriced", 1),
        ("relay_ledger_spend_dollars", "What they cost.", "cost", _NANO),
        (
            "relay_ledger_cache_savings_dollars",
            "What caching saved; below zero if writes cost more.",
            "net_saved",
            _NANO,
        ),
    ):
        family = GaugeMetricFamily(name, help_text, labels=_MODEL)
        for labels, sum_ in _sums(groups, field, _model):
            family.add_metric(labels, sum_ / unit)
        yield family


Labels = tuple[str, ...]


def _bounded(groups: list[Total]) -> list[Total]:
    """With so many models told apart at most."""
    calls: Counter[Labels] = Counter()
    for each in groups:
        calls[_model(each)] += each.calls
    known = {model for model, _ in calls.most_common(MODELS_MAX)}
    return [each if _model(each) in known else each._replace(target=OTHER) for each in groups]


def _model(each: Total) -> Labels:
    return each.provider, each.target


def _sums(groups: Iterable[Total], field: str, labels: Callable[[Total], Labels]) -> Iterable[tuple[Labels, int]]:
    sums: Counter[Labels] = Counter()
    for each in groups:
        sums[labels(each)] += getattr(each, field)
    return sums.items()
