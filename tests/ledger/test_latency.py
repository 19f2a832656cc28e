"""Quantiles of how long calls took: the nearest rank, of the newest calls that a filter leaves."""

from __future__ import annotations

from sqlalchemy import Engine

from relay.ledger.latency import MOST_CALLS, Latency, Quantiles, latency
from relay.ledger.queries import Filter
from relay.ledger.store import Store
from tests.ledger.records import STARTED_MS, entry


def asked(engine: Engine, wanted: Filter) -> Latency:
    with engine.connect() as connection:
        return latency(connection, wanted)


def test_of_no_calls_there_are_none(engine: Engine) -> None:
    assert asked(engine, Filter()) == Latency(0, Quantiles(None, None), Quantiles(None, None))


def test_half_take_no_longer_than_the_median_and_all_but_five_percent_than_the_95th(
    engine: Engine, store: Store
) -> None:
    store.put([entry(n, total_ms=n * 10, first_event_ms=n if n > 60 else "") for n in range(1, 101)])
    assert asked(engine, Filter()) == Latency(100, Quantiles(500, 950), Quantiles(80, 98))


def test_only_the_calls_of_the_filter_count(engine: Engine, store: Store) -> None:
    store.put([entry(n, app="slow" if n > 3 else "fast", total_ms=n, started_ms=STARTED_MS + n) for n in range(1, 7)])
    assert asked(engine, Filter(any_of={"app": ["fast"]})).total == Quantiles(2, 3)
    assert asked(engine, Filter(since_ms=STARTED_MS + 2, until_ms=STARTED_MS + 5)).total == Quantiles(3, 4)


def test_of_many_calls_the_newest_count(engine: Engine, store: Store) -> None:
    store.put([entry(n, total_ms=n, started_ms=STARTED_MS + n) for n in range(1, MOST_CALLS + 101)])
    found = asked(engine, Filter())
    assert (found.calls, found.total.p50) == (MOST_CALLS, 100 + MOST_CALLS // 2)
