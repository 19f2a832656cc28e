"""Each call once, whatever is delivered, in whatever order, by however many; and rollups that always add up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, select, text

from relay.broker.usage_reader import Entry
from relay.core.pricing import PriceTable
from relay.ledger.store import Store, Stored
from relay.ledger.tables import HOUR_MS, calls, daily, rejected, rollups
from tests.ledger.records import NO_TOKENS, STARTED_MS, check_sums, entry, stored_calls, stored_sums


def test_a_call_is_stored_with_what_follows_from_its_price(store: Store, engine: Engine) -> None:
    assert store.put([entry()]) == Stored(calls=1)
    [row] = stored_calls(engine)
    assert (row["call"], row["cost"], row["net_saved"]) == ("0-job1:7", 20_152_000, 6_292_000)
    assert row["baseline"] - row["billed_input"] == row["net_saved"]
    check_sums(engine)


def test_a_call_delivered_again_changes_nothing(store: Store, engine: Engine) -> None:
    batch = [entry(number) for number in range(1, 6)]
    assert store.put([*batch, *batch]).calls == 5
    before = stored_calls(engine), stored_sums(engine)
    assert store.put(batch) == Stored()
    assert (stored_calls(engine), stored_sums(engine)) == before


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "two batches"])
@pytest.mark.parametrize("late_first", [True, False], ids=["late first", "late last"])
def test_the_highest_version_wins_and_the_rollup_knows(
    store: Store, engine: Engine, together: bool, late_first: bool
) -> None:
    lost = entry(kind="unknown", outcome="worker_lost", **NO_TOKENS)
    late = entry(v=2, outcome="completed", started_ms=STARTED_MS + HOUR_MS)
    batch = [late, lost] if late_first else [lost, late]
    for part in [batch] if together else [[each] for each in batch]:
        store.put(part)
    [row] = stored_calls(engine)
    assert (row["v"], row["outcome"], row["input_tokens"]) == (2, "completed", 2048)
    assert len(stored_sums(engine)) == 1
    check_sums(engine)


# Few calls, so that they meet often; everything a rollup is split by or sums up may differ between versions.
versions = st.builds(
    lambda number, v, hour, facts, tokens: entry(
        number, v=v, started_ms=STARTED_MS + hour * HOUR_MS + number, **facts, **tokens
    ),
    st.integers(1, 6),
    st.integers(1, 3),
    st.sampled_from([0, 1, 30]),
    st.fixed_dictionaries(
        {
            "tenant": st.sampled_from(["acme", "zeta"]),
            "target": st.sampled_from(["claude-opus-5-5", "claude-haiku-5-5", "claude-nope-9"]),
            "outcome": st.sampled_from(["completed", "error"]),
            "first_event_ms": st.sampled_from(["", 0, 17]),
        }
    ),
    st.one_of(
        st.just(NO_TOKENS),
        st.fixed_dictionaries(
            {
                name: st.integers(0, 10**8)
                for name in ("input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens")
            }
        ),
    ),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(versions, max_size=8), max_size=5))
def test_rollups_are_the_sums_of_the_rows_to_the_last_unit(
    store: Store, engine: Engine, batches: list[list[Entry]]
) -> None:
    with engine.begin() as connection:
        for table in (calls, rollups, daily):
            connection.execute(delete(table))
    highest: dict[str, int] = {}
    for batch in batches:
        store.put(batch)
        for each in batch:
            name, version = each.fields["call"], int(each.fields["v"])
            highest[name] = max(version, highest.get(name, 0))
    assert {row["call"]: row["v"] for row in stored_calls(engine)} == highest
    check_sums(engine)


async def test_two_that_store_the_same_at_once_store_it_once(engine: Engine) -> None:
    batches = [[entry(n, outcome=f"o{n % 3}") for n in range(start, start + 200)] for start in range(0, 1000, 100)]

    def put_all(order: int) -> int:
        store = Store(engine, PriceTable(), "stream")
        return sum(store.put(batch).calls for batch in batches[::order])

    counts = await asyncio.gather(*(asyncio.to_thread(put_all, order) for order in (1, -1, 1)))
    assert sum(counts) == len(stored_calls(engine)) == 1100
    check_sums(engine)


# -- what cannot be stored -----------------------------------------------------------------------------------------


def aside(engine: Engine) -> dict[str, Any]:
    with engine.connect() as connection:
        return {row.entry: row for row in connection.execute(select(rejected))}


def test_what_cannot_be_read_is_kept_aside_once_and_stops_nobody(
    store: Store, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    poison = entry(2, output_tokens="canary-text")
    for _ in range(2):
        store.put([entry(1), poison, entry(3)])
    assert [row["call"] for row in stored_calls(engine)] == ["0-job1:7", "0-job3:7"]
    [(name, row)] = aside(engine).items()
    assert (name, row.reason) == ("2-0", "output_tokens is no number it can be")
    assert "canary-text" in row.fields
    assert [record.getMessage() for record in caplog.records] == [f"usage record 2-0 kept aside: {row.reason}"]


@pytest.mark.parametrize("fields", [{}, {"\ufffd\0": "\0"}, {"v": "1" * 100_000}])
def test_anything_can_be_kept_aside(store: Store, engine: Engine, fields: dict[str, str]) -> None:
    assert store.put([Entry("1-0", fields)]) == Stored(rejected=1)
    assert len(aside(engine)["1-0"].fields) <= 65_536


def test_what_the_database_refuses_is_found_and_kept_aside(store: Store, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text('CREATE UNIQUE INDEX one_call_a_user ON calls ("user")'))
    batch = [entry(number, user="same" if number in (4, 7) else number) for number in range(1, 9)]
    assert store.put(batch) == Stored(calls=7, rejected=1)
    assert [(name, row.reason) for name, row in aside(engine).items()] == [
        ("7-0", f"the database refuses it: {refusal(engine)}")
    ]
    check_sums(engine)


def refusal(engine: Engine) -> str:
    return {"sqlite": "IntegrityError", "postgresql": "UniqueViolation"}[engine.dialect.name]
