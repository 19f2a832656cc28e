"""Answers of the ledger, each against the plainest way to work it out from all rows."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine

from relay.core.errors import InvalidRequest
from relay.core.pricing import PriceTable
from relay.ledger import queries
from relay.ledger.database import migrate, open_engine, url_of
from relay.ledger.queries import GROUPS, STEPS, SUMS, Filter, rows, summary, timeline
from relay.ledger.store import Store
from relay.ledger.tables import HOUR_MS
from relay.settings import load
from tests.ledger.conftest import DATABASES
from tests.ledger.records import NO_TOKENS, STARTED_MS, entry, stored_calls

Row = dict[str, Any]

TENANTS, APPS, MODELS = ("acme", "zeta"), ("", "chat", "mail"), ("claude-opus-5-5", "claude-haiku-5-5", "claude-nope-9")
HOURS = 60
END_MS = STARTED_MS + HOURS * HOUR_MS


@pytest.fixture(scope="module", params=DATABASES)
def ledger(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A connection to a ledger of three days with 600 calls, and these as plain rows."""
    url = f"sqlite:///{tmp_path_factory.mktemp('queries') / 'ledger.sqlite3'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").new_database()
    engine = open_engine(url_of(load({"ledger_url": url})))
    migrate(engine)
    dice = random.Random(5)
    Store(engine, PriceTable(), "stream").put([_entry(number, dice) for number in range(600)])
    with engine.connect() as connection:
        yield connection, _newest_first(engine)
    engine.dispose()


def _entry(number: int, dice: random.Random) -> Any:
    facts = {
        "started_ms": STARTED_MS + dice.randrange(HOURS * HOUR_MS // 1000) // 7 * 7000,  # some at the same time
        "tenant": dice.choice(TENANTS),
        "app": dice.choice(APPS),
        "target": dice.choice(MODELS),
        "model": dice.choice(("fast", "best")),
        "outcome": dice.choice(("completed", "completed", "error")),
        "user": dice.choice(("u1", "u2")),
        "cache_read_tokens": dice.choice((0, 4000)),
        "output_tokens": dice.randrange(1000),
        "fingerprint": dice.choice(("", f"headers:0:a system.0:9000:{number}:5m", "headers:0:a system.0:9000:b:5m")),
    }
    return entry(number, **facts | (NO_TOKENS if dice.random() < 0.1 else {}))


def _newest_first(engine: Engine) -> list[Row]:
    return sorted(stored_calls(engine), key=lambda row: (row["started_ms"], row["id"]), reverse=True)


moments = st.one_of(st.none(), st.integers(STARTED_MS - HOUR_MS, END_MS + HOUR_MS), st.just(STARTED_MS + 5 * HOUR_MS))
filters = st.builds(
    Filter,
    tenant=st.sampled_from([None, "acme", "nobody"]),
    since_ms=moments,
    until_ms=moments,
    any_of=st.dictionaries(st.just("app"), st.sampled_from([("chat",), ("", "mail")]), max_size=1).flatmap(
        lambda chosen: st.sampled_from([chosen, chosen | {"outcome": ("error",)}, chosen | {"target": MODELS[:2]}])
    ),
    user=st.sampled_from([None, None, "u1"]),
)
by_any = st.lists(
    st.sampled_from(["hour", "day", "tenant", "app", "target", "outcome", "cache"]), max_size=3, unique=True
)
few = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def matches(row: Row, wanted: Filter) -> bool:
    since = wanted.since_ms if wanted.since_ms is not None else 0
    until = wanted.until_ms if wanted.until_ms is not None else END_MS * 2
    return (
        since <= row["started_ms"] < until
        and wanted.tenant in (None, row["tenant"])
        and wanted.user in (None, row["user"])
        and all(row[name] in values for name, values in wanted.any_of.items())
    )


def added_up(found: Sequence[Row], by: Sequence[str]) -> dict[tuple[Any, ...], Row]:
    sums: dict[tuple[Any, ...], Row] = defaultdict(lambda: dict.fromkeys(SUMS, 0))
    for row in found:
        size = {name: hours * HOUR_MS for name, hours in STEPS.items()}
        group = tuple(row["started_ms"] // size[name] * size[name] if name in size else row[name] for name in by)
        counts = {
            "calls": 1,
            "unreported": int(row["input_tokens"] is None),
            "unpriced": int(row["input_tokens"] is not None and row["cost"] is None),
            "first_events": 1,
        }
        for name in SUMS:
            sums[group][name] += counts[name] if name in counts else row[name] or 0
    return sums


@few
@given(filters, by_any)
def test_a_summary_is_what_the_rows_add_up_to(
    ledger: tuple[Connection, list[Row]], wanted: Filter, by: list[str]
) -> None:
    connection, everything = ledger
    found = {tuple(each.pop(name) for name in by): each for each in summary(connection, wanted, by)}
    assert found == added_up([row for row in everything if matches(row, wanted)], by)


@few
@given(filters, st.integers(1, 100), st.sampled_from([0, queries.MOST_SORTED]))
def test_pages_are_the_rows_newest_first_each_once(
    ledger: tuple[Connection, list[Row]], wanted: Filter, limit: int, most_sorted: int
) -> None:
    connection, everything = ledger
    read: list[Row] = []
    cursor = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queries, "MOST_SORTED", most_sorted)  # found in the order of time, or by their rollups
        while True:
            page = rows(connection, wanted, cursor, limit)
            read += page.rows
            cursor = page.cursor
            if cursor is None:
                break
            assert len(page.rows) == limit
    assert read == [row | {"content": None} for row in everything if matches(row, wanted)]


def test_every_group_can_be_asked_for(ledger: tuple[Connection, list[Row]]) -> None:
    connection, everything = ledger
    for name in GROUPS:
        assert sum(each["calls"] for each in summary(connection, Filter(), [name])) == len(everything)


def test_groups_come_by_time_and_then_the_dearest_first(ledger: tuple[Connection, list[Row]]) -> None:
    found = summary(ledger[0], Filter(), ["day", "target"])
    order = [(each["day"], -each["cost"]) for each in found]
    assert order == sorted(order)
    assert len({each["day"] for each in found}) == 3


def test_the_calls_of_one_job_are_found(ledger: tuple[Connection, list[Row]]) -> None:
    found = rows(ledger[0], Filter(job="0-job5")).rows
    assert [row["call"] for row in found] == ["0-job5:7"]


def test_a_timeline_has_no_holes(ledger: tuple[Connection, list[Row]]) -> None:
    connection, everything = ledger
    wanted = Filter(since_ms=STARTED_MS - 5 * HOUR_MS, until_ms=END_MS + 1, any_of={"app": ("chat",)})
    points = timeline(connection, wanted, "hour")
    assert [point["hour"] for point in points] == list(range(STARTED_MS - 5 * HOUR_MS, END_MS + HOUR_MS, HOUR_MS))
    assert sum(point["calls"] for point in points) == sum(matches(row, wanted) for row in everything)
    assert all(set(point) == {"hour", *SUMS, "cache_reasons"} for point in points)


def test_a_timeline_counts_the_reasons(ledger: tuple[Connection, list[Row]]) -> None:
    connection, everything = ledger
    counted = Counter[str]()
    for point in timeline(connection, Filter(since_ms=STARTED_MS, until_ms=END_MS + 7), "hour"):
        counted.update(point["cache_reasons"])
    assert len(counted) > 1
    assert counted == Counter(row["cache_reason"] for row in everything if row["cache_reason"])


def test_a_timeline_without_a_period_is_as_long_as_there_is_something(ledger: tuple[Connection, list[Row]]) -> None:
    connection, everything = ledger
    days = timeline(connection, Filter(), "day")
    assert (days[0]["day"], days[-1]["day"]) == (STARTED_MS, STARTED_MS + 2 * 24 * HOUR_MS)
    assert sum(day["calls"] for day in days) == len(everything)
    assert timeline(connection, Filter(tenant="nobody"), "day") == []


def test_a_timeline_of_too_many_points_is_refused(ledger: tuple[Connection, list[Row]]) -> None:
    with pytest.raises(InvalidRequest, match="more than 8784 hours"):
        timeline(ledger[0], Filter(since_ms=0, until_ms=END_MS), "hour")


@pytest.mark.parametrize("cursor", ["x", "1", "1-", "-1-1", "1-1-1", "١-١", "9" * 40 + "-1"])
def test_a_cursor_that_is_none_is_refused_by_name(ledger: tuple[Connection, list[Row]], cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="is no cursor"):
        rows(ledger[0], Filter(), cursor)
