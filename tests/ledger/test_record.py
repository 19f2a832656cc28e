"""A usage record becomes a row with its price, or is refused by name; nothing in it is believed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relay.broker.usage_stream import FIELDS
from relay.core.pricing import SOURCE, PriceTable
from relay.ledger.record import Row, Unreadable, read
from relay.ledger.tables import MONEY, calls
from tests.ledger.records import NO_TOKENS, RECORD, record
from tests.support.fixtures import response

PRICES = PriceTable()


def row_of(**facts: Any) -> Row:
    return read(record(**facts), PRICES)


def test_every_documented_field_is_a_column() -> None:
    assert set(FIELDS) - set(calls.c.keys()) == {"fingerprint"}  # which has a table of its own, for a while
    assert set(FIELDS) == set(RECORD)


def test_a_row_has_every_column_the_database_does_not_make() -> None:
    made = {"id", "rollup"} | {column.name for column in calls.c if column.computed is not None}
    assert set(row_of()) == set(calls.c.keys()) - made


def test_a_row_says_what_the_record_says() -> None:
    facts: dict[str, Any] = {"cache_control": "stripped=2", "cache_note": "too short"}
    row = row_of(**facts)
    said = RECORD | facts | {"reasoning_tokens": None, "error": None, "log": None}
    del said["cost"], said["fingerprint"]  # one the ledger works out by itself, one has a table of its own
    assert {name: row[name] for name in said} == said


def test_a_row_says_what_the_call_cost() -> None:
    row = row_of()
    assert row["billed_input"] + row["output_cost"] + row["fees"] == 20_152_000
    assert row["read_savings"] - row["write_premium"] == 6_292_000
    assert (row["price_source"], row["price_since"]) == (SOURCE, None)


def test_a_field_of_the_future_is_left_alone() -> None:
    assert row_of(from_2030="yes") == row_of()


@pytest.mark.parametrize(
    "facts", [NO_TOKENS, {"target": "claude-nope-9"}, {"provider": "our-own"}], ids=["no tokens", "model", "provider"]
)
def test_what_cannot_be_priced_has_no_price(facts: dict[str, Any]) -> None:
    row = row_of(**facts)
    assert {row[name] for name in (*MONEY, "price_source")} == {None}


@pytest.mark.parametrize(
    ("read_", "written", "result"), [(5, 0, "hit"), (5, 5, "partial"), (0, 5, "write"), (0, 0, "none")]
)
def test_the_tokens_tell_the_cache_result(read_: int, written: int, result: str) -> None:
    tokens = {"cache_read_tokens": read_, "cache_write_5m_tokens": 0, "cache_write_1h_tokens": written}
    assert row_of(**tokens)["cache"] == result


def test_without_tokens_the_cache_result_is_unknown() -> None:
    assert row_of(**NO_TOKENS)["cache"] == "unknown"


@pytest.mark.parametrize(
    ("said", "factor"),
    [({"service_tier": "batch"}, 0.5), ({"usage_first": '{"speed":"fast"}'}, 2), ({"service_tier": "priority"}, 1)],
)
def test_the_providers_own_words_decide_the_price(said: dict[str, Any], factor: float) -> None:
    assert row_of(**said)["billed_input"] == row_of()["billed_input"] * factor


def test_a_search_costs_a_cent_each_time() -> None:
    searched = row_of(usage_last='{"server_tool_use":{"web_search_requests":2}}')
    assert searched["fees"] == 20_000_000
    assert searched["billed_input"] == row_of()["billed_input"]


def test_a_call_of_several_passes_is_billed_by_its_passes() -> None:
    usage = json.loads(response("anthropic", "iterations-compaction"))["usage"]
    counts = {"input_tokens": 23000, "output_tokens": 1000}
    none_cached = dict.fromkeys(("cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens"), 0)
    row = row_of(**counts, **none_cached, usage_last=json.dumps(usage))
    assert row["billed_input"] == 203_000 * 4_000
    assert row["output_cost"] == 4_500 * 20_000
    assert row["input_tokens"] == 23000


def test_a_pass_whose_price_is_unknown_leaves_the_call_without_one() -> None:
    passes = [{"type": "message", "model": "claude-opus-5-5", "input_tokens": 1, "output_tokens": 1}]
    passes.append(passes[0] | {"model": "claude-nope-9"})
    assert row_of(usage_last=json.dumps({"iterations": passes}))["billed_input"] is None


def test_passes_of_more_tokens_than_can_be_leave_the_call_without_a_price() -> None:
    passes = [{"type": "message", "input_tokens": 10**8, "output_tokens": 1}]
    assert row_of(usage_last=json.dumps({"iterations": passes}))["billed_input"] is None


@pytest.mark.parametrize("raw", ["{", "[]", '"x"', '{"iterations":7,"speed":7,"server_tool_use":[]}', "{}"])
def test_a_raw_usage_that_is_nonsense_changes_nothing(raw: str) -> None:
    assert row_of(usage_last=raw) | {"usage_last": ""} == row_of() | {"usage_last": ""}


@pytest.mark.parametrize("name", ["call", "job", "tenant", "provider", "kind", "outcome", "v", "started_ms"])
def test_a_record_without_what_it_must_have_is_refused(name: str) -> None:
    fields = record()
    del fields[name]
    with pytest.raises(Unreadable, match=f"{name}.* is missing"):
        read(fields, PRICES)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("v", "one"),
        ("started_ms", "4102444800001"),
        ("input_tokens", "-1"),
        ("input_tokens", "1_000"),
        ("input_tokens", " 7"),
        ("input_tokens", "٣"),
        ("output_tokens", "1e3"),
        ("output_tokens", "100000001"),
        ("total_ms", "9" * 5000),
        ("status", "inf"),
    ],
)
def test_a_number_that_is_none_is_refused_without_showing_it(name: str, value: str) -> None:
    with pytest.raises(Unreadable, match=f"^{name} is no number it can be$"):
        row_of(**{name: value})


def test_half_of_the_tokens_is_refused() -> None:
    with pytest.raises(Unreadable, match="some tokens are there and some are missing"):
        row_of(output_tokens="")


def test_a_text_is_cut_and_made_fit_for_every_database() -> None:
    row = row_of(model="a\0b" + "x" * 1000, usage_last="y" * 100_000)
    assert row["model"] == "a\ufffdb" + "x" * 253
    assert len(row["usage_last"]) == 16_384
