"""Budgets: what people write, what Redis keeps, the calendar, and what clients are told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.budget import MOST, NANO, Bound, Budget, Period, Standing, Unit, amount, end_ms, header, name_of, parse

periods: st.SearchStrategy[Period] = st.sampled_from(["day", "month"])
units: st.SearchStrategy[Unit] = st.sampled_from(["money", "tokens"])
moments = st.datetimes(datetime(1970, 1, 1), datetime(2400, 1, 1), timezones=st.just(UTC))


def ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


AT_MS = ms(datetime(2026, 11, 22, 13, 36, 29, tzinfo=UTC))


# --- words


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("20 USD a day", Bound("day", "money", 0, 20 * NANO)),
        ("soft 16.50 usd per day", Bound("day", "money", 16_500_000_000, 0)),
        ("1,250 USD/month", Bound("month", "money", 0, 1250 * NANO)),
        ("0.000000001USD a month", Bound("month", "money", 0, 1)),
        ("5M tokens a month", Bound("month", "tokens", 0, 5_000_000)),
        ("1.5k tokens a day", Bound("day", "tokens", 0, 1500)),
        ("soft 1 token a day", Bound("day", "tokens", 1, 0)),
        ("  2_000_000 Tokens a Day ", Bound("day", "tokens", 0, 2_000_000)),
    ],
)
def test_a_bound_is_read_as_people_write_it(text: str, bound: Bound) -> None:
    assert parse([text]) == Budget((bound,))


def test_bounds_of_one_period_and_unit_belong_together() -> None:
    budget = parse(["300 USD a month", "soft 16 USD a day", "20 USD a day"])
    assert budget.bounds == (Bound("day", "money", 16 * NANO, 20 * NANO), Bound("month", "money", 0, 300 * NANO))
    assert budget.words == "20 USD a day, soft 16 USD a day, 300 USD a month"


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        ([], "at least one"),
        (["20 EUR a day"], "20 EUR a day"),
        (["20 USD a week"], "20 USD a week"),
        (["20 USD"], "no bound"),
        (["twenty USD a day"], "twenty"),
        (["-1 USD a day"], "-1 USD"),
        (["0 USD a day"], "out of bounds"),
        (["0.0000000001 USD a day"], "no bound"),
        (["1.5 tokens a day"], "out of bounds"),
        (["1,00 USD a day"], "1,00 USD a day"),
        (["2B USD a day"], "at most 1,000,000,000 USD"),
        (["20 USD a day", "30 USD a day"], "second hard bound"),
        (["20 USD a day", "soft 20 USD a day"], "must be below"),
        (["x" * 1000], "x" * 80),
    ],
)
def test_what_is_no_budget_is_told_by_name(texts: list[str], named: str) -> None:
    with pytest.raises(ValueError, match=named) as told:
        parse(texts)
    assert len(str(told.value)) < 250


@given(st.builds(Bound, periods, units, st.just(0), st.integers(1, MOST)))
def test_what_is_shown_is_what_can_be_written(bound: Bound) -> None:
    assert parse([bound.words]) == Budget((bound,))


@given(st.lists(st.builds(Bound, periods, units, st.integers(0, MOST), st.integers(1, MOST))).map(tuple))
def test_a_budget_comes_back_from_redis_as_it_went(bounds: tuple[Bound, ...]) -> None:
    assert Budget.decode(Budget(bounds).encode()) == Budget(bounds)


@pytest.mark.parametrize(
    "text", ["", "x", "{}", "7", '["day"]', '[["day","money",1]]', '[["week","money",0,1]]', '[["day","money",0,0]]']
)
def test_what_somebody_wrote_by_hand_is_no_bound(text: str) -> None:
    assert Budget.decode(text) == Budget(())


# --- the calendar


@given(moments, periods)
def test_a_period_has_one_name_until_its_end_and_another_one_after(moment: datetime, period: Period) -> None:
    at_ms = ms(moment)
    over_ms = end_ms(period, at_ms)
    assert at_ms < over_ms <= at_ms + 86_400_000 * (1 if period == "day" else 31)
    assert name_of(period, over_ms - 1) == name_of(period, at_ms)
    assert name_of(period, over_ms) > name_of(period, at_ms)


@pytest.mark.parametrize(
    ("at", "day", "month"),
    [
        ("2026-11-22T13:36:29", "2026-11-23", "2026-12-01"),
        ("2026-12-31T23:59:59", "2027-01-01", "2027-01-01"),
        ("2028-02-28T00:00:00", "2028-02-29", "2028-03-01"),
        ("2026-01-31T00:00:00", "2026-02-01", "2026-02-01"),
    ],
)
def test_a_day_and_a_month_end_at_midnight_utc(at: str, day: str, month: str) -> None:
    at_ms = ms(datetime.fromisoformat(at).replace(tzinfo=UTC))
    ends = [datetime.fromtimestamp(end_ms(period, at_ms) / 1000, UTC) for period in ("day", "month")]
    assert ends == [datetime.fromisoformat(each).replace(tzinfo=UTC) for each in (day, month)]


# --- what is told


DAILY = Bound("day", "money", 16 * NANO, 20 * NANO)


def standing(spent: int, bound: Bound = DAILY) -> Standing:
    return Standing("tenant:acme", bound, spent, AT_MS)


def test_a_bound_is_passed_when_it_is_spent() -> None:
    assert [standing(nano * NANO).is_past_soft for nano in (15, 16, 21)] == [False, True, True]
    assert [standing(nano * NANO).is_over for nano in (16, 19, 20)] == [False, False, True]
    assert not standing(10**18, Bound("day", "money")).is_over
    assert standing(5 * NANO).ratio == 0.25
    assert standing(2, Bound("month", "tokens", soft=1)).ratio == 2


def test_a_refusal_names_whose_what_how_much_and_until_when() -> None:
    assert standing(20_126_000_000).refusal == (
        "The budget is used up: tenant acme has spent 20.13 USD of 20 USD a day. "
        "It begins anew at 2026-11-23 00:00 UTC."
    )
    by_key = Standing("key:3fa9c1d2", Bound("month", "tokens", 0, 5000), 7001, AT_MS)
    assert by_key.refusal == (
        "The budget is used up: API key 3fa9c1d2 has spent 7,001 tokens of 5,000 tokens a month. "
        "It begins anew at 2026-12-01 00:00 UTC."
    )


def test_what_is_less_than_a_cent_is_not_rounded_away() -> None:
    assert standing(1200, Bound("day", "money", 1000)).words == (
        "tenant acme has spent 0.0000012 USD of its soft 0.000001 USD a day"
    )


def test_the_rest_of_a_period_is_never_nothing() -> None:
    assert standing(0).left_s == 10 * 3600 + 23 * 60 + 31
    late_ms = ms(datetime(2026, 11, 22, 23, 59, 59, tzinfo=UTC) + timedelta(milliseconds=999))
    assert Standing("tenant:acme", Bound("day", "money", 0, 1), 0, late_ms).left_s == 1


def test_the_header_has_an_item_for_each_bound() -> None:
    by_tokens = Standing("key:3fa9c1d2", Bound("month", "tokens", 4000), 4123, AT_MS)
    assert header([standing(16_412_345_678), by_tokens]) == (
        "tenant;period=day;unit=usd;spent=16.412;soft=16;hard=20;reset=37411, "
        "key;period=month;unit=tokens;spent=4123;soft=4000;reset=728611"
    )


def test_amounts_are_told_to_the_last_digit() -> None:
    assert [amount("money", value) for value in (1, 10 * NANO, 1234 * NANO + 5)] == [
        "0.000000001 USD",
        "10 USD",
        "1,234.000000005 USD",
    ]
    assert amount("tokens", 1000) == "1,000 tokens"
