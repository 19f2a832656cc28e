"""Money: the worked cases to the last digit, and the laws that hold for any tokens at any price."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import genai_prices
import pytest
from genai_prices.data import providers
from genai_prices.types import TimeOfDateConstraint
from hypothesis import given
from hypothesis import strategies as st

from relay.core.pricing import OWN, SOURCE, STEP_MS, Amounts, Price, PriceTable, Rates, Terms, published, total
from relay.core.pricing_overrides import Override, parse
from relay.core.usage import Buckets, Usage
from tests.support.fixtures import ROOT, read_json

CASES = {case["name"]: case for case in read_json(ROOT / "pricing" / "cases.json")["cases"]}
KNOWN = {name: case for name, case in CASES.items() if case["rates_usd_per_million"]}

AT = datetime(2026, 11, 21, tzinfo=UTC)
AT_MS = int(AT.timestamp() * 1000)
PLAIN = Buckets(100, 0, 0, 0, 10)

tokens = st.builds(Buckets, *[st.integers(0, 10**9)] * 5)
rates = st.builds(Rates, *[st.integers(0, 10**9)] * 5)
prices = st.builds(
    lambda low, high, above: Price(((above, high), (0, low)), "test"), rates, rates, st.integers(1, 10**6)
)


def tokens_of(usage: Mapping[str, Any]) -> Buckets:
    names = ("input_tokens", "cache_read_tokens", "cache_write_by_ttl", "output_tokens")
    return Usage(**{name: usage[name] for name in names}).buckets


def terms_of(case: Mapping[str, Any]) -> Terms:
    context = case["price_context"]
    return Terms(service_tier=context.get("processing"), speed=context.get("speed"))


def nano(dollars: str) -> Decimal:
    return Decimal(dollars) * 10**9


def check(case: Mapping[str, Any], amounts: Amounts) -> None:
    expected = case["expected"]
    assert amounts.cost == nano(expected["total_usd"])
    assert amounts.baseline + amounts.output + amounts.fees == nano(expected["uncached_usd"])
    assert amounts.net_saved == nano(expected["savings_usd"])


@pytest.mark.parametrize("name", KNOWN)
def test_a_worked_case_comes_out_to_the_last_digit_at_published_prices(name: str) -> None:
    case = KNOWN[name]
    at_ms = int(datetime.fromisoformat(case["priced_at"]).timestamp() * 1000)
    price = PriceTable().find(case["provider"], case["model"], at_ms, terms_of(case))
    assert price is not None
    searched = price.search_fee * case["usage"]["web_search_requests"]
    check(case, total([price.amounts(tokens_of(case["usage"])), Amounts(0, 0, 0, 0, searched)]))


@pytest.mark.parametrize("name", [name for name, case in KNOWN.items() if not case["usage"]["web_search_requests"]])
def test_a_worked_case_comes_out_to_the_last_digit_at_its_own_rates(name: str) -> None:
    case = KNOWN[name]
    given_rates, factor = case["rates_usd_per_million"], Decimal(case["rate_multiplier"])
    renamed = {name.replace("30m", "5m"): Decimal(rate) * factor for name, rate in given_rates.items()}
    price = PriceTable([Override(**renamed)]).find("any", "model", AT_MS)
    assert price is not None
    assert price.source == OWN
    check(case, price.amounts(tokens_of(case["usage"])))


def test_a_model_nobody_knows_has_no_price() -> None:
    case = CASES["unknown-model"]
    assert case["expected"]["total_usd"] is None
    assert PriceTable().find(case["provider"], case["model"], AT_MS) is None


def test_a_provider_nobody_knows_has_no_price() -> None:
    assert PriceTable().find("our-own", "claude-opus-5-5", AT_MS) is None


def test_a_model_that_is_not_sold_by_the_token_has_no_price() -> None:
    assert published("openai", "whisper-1", AT) is None


@given(prices, tokens)
def test_what_is_saved_is_what_reads_save_less_what_writes_add(price: Price, used: Buckets) -> None:
    amounts = price.amounts(used)
    assert amounts.baseline - amounts.billed_input == amounts.read_savings - amounts.write_premium == amounts.net_saved
    assert all(type(amount) is int for amount in (*amounts, amounts.baseline, amounts.net_saved, amounts.cost))


@given(prices, tokens)
def test_the_baseline_is_all_input_at_the_plain_price(price: Price, used: Buckets) -> None:
    prompt = sum(used) - used.output
    plain = next(rates.input for above, rates in price.steps if prompt > above or above == 0)
    assert abs(price.amounts(used).baseline - Decimal(prompt * plain) / 1000) <= 2  # half a unit per bucket


@given(prices, tokens)
def test_without_caching_nothing_is_saved(price: Price, used: Buckets) -> None:
    amounts = price.amounts(Buckets(used.uncached_input, 0, 0, 0, used.output))
    assert amounts.read_savings == amounts.write_premium == amounts.net_saved == 0


@given(tokens, st.sampled_from(["claude-opus-5-5", "claude-haiku-5-5", "claude-sonnet-4-6", "claude-opus-4-1"]))
def test_the_bill_is_the_librarys_within_the_rounding(used: Buckets, model: str) -> None:
    usage = genai_prices.Usage(
        input_tokens=sum(used) - used.output,
        cache_read_tokens=used.cache_read,
        cache_write_tokens=used.cache_write_5m + used.cache_write_1h,
        cache_write_5m_tokens=used.cache_write_5m,
        cache_write_1h_tokens=used.cache_write_1h,
        output_tokens=used.output,
    )
    theirs = genai_prices.calc_price(usage, model, provider_id="anthropic", genai_request_timestamp=AT)
    price = published("anthropic", model, AT)
    assert price is not None
    assert abs(price.amounts(used).cost - theirs.total_price * 10**9) <= Decimal("2.5")


def test_a_price_is_the_one_of_its_day() -> None:
    """Batches of this model are sold since 14 October 2026."""
    table, batch = PriceTable(), Terms(service_tier="batch")
    before, after = (
        table.find("anthropic", "claude-opus-5-5", int(datetime(2026, 10, day, tzinfo=UTC).timestamp() * 1000), batch)
        for day in (13, 14)
    )
    assert before is not None
    assert after is not None
    assert before.amounts(PLAIN).cost == 2 * after.amounts(PLAIN).cost


def test_prices_change_between_two_of_our_steps_only() -> None:
    """A price is looked up once for each step, so one that changed within it would be missed."""
    changes = [
        moment.hour * 60 + moment.minute + moment.second / 60
        for provider in providers
        for model in provider.models
        if isinstance(model.prices, list)
        for price in model.prices
        if isinstance(price.constraint, TimeOfDateConstraint)
        for moment in (price.constraint.start_time, price.constraint.end_time)
    ]
    assert changes
    assert [minute for minute in changes if minute % (STEP_MS / 60_000)] == []


def test_inference_in_the_us_only_costs_a_tenth_more() -> None:
    plain, us = (
        PriceTable().find("anthropic", "claude-opus-5-5", AT_MS, Terms(region=region)) for region in ("global", "us")
    )
    assert plain is not None
    assert us is not None
    assert us.amounts(PLAIN).cost * 10 == plain.amounts(PLAIN).cost * 11


def test_a_price_tells_where_it_comes_from() -> None:
    price = published("anthropic", "claude-opus-5-5", AT)
    assert price is not None
    assert (price.source, price.since) == (SOURCE, None)
    assert SOURCE.startswith("genai-prices 0.")


# -- an operator's own prices --------------------------------------------------------------------------------------

OWN_PRICES = """
[[price]]
provider = "anthropic"
model = "claude-sonnet-*"
since = 2026-11-21
input = 2
output = 10.5
cache_read = 0.25
cache_write_1h = 3.5

[[price]]
provider = "eu-*"
like = "anthropic"
"""


@pytest.fixture
def table() -> PriceTable:
    return PriceTable(parse(OWN_PRICES))


def test_an_own_price_wins_from_its_day_on(table: PriceTable) -> None:
    day_before = table.find("anthropic", "claude-sonnet-4-6", AT_MS - 1)
    price = table.find("anthropic", "claude-sonnet-4-6", AT_MS)
    assert price is not None
    assert (price.source, price.since) == (OWN, date(2026, 11, 21))
    assert day_before == published("anthropic", "claude-sonnet-4-6", AT)


def test_short_and_long_writes_have_prices_of_their_own(table: PriceTable) -> None:
    price = table.find("anthropic", "claude-sonnet-4-6", AT_MS)
    assert price is not None
    assert price.amounts(Buckets(0, 0, 100, 0, 0)).cost == 100 * 2_000  # as input, for want of a rate
    assert price.amounts(Buckets(0, 0, 0, 100, 0)).cost == 100 * 3_500
    assert price.amounts(Buckets(0, 100, 0, 0, 100)).cost == 100 * (250 + 10_500)


def test_a_provider_may_cost_what_another_publishes(table: PriceTable) -> None:
    assert table.find("eu-west", "claude-opus-5-5", AT_MS) == published("anthropic", "claude-opus-5-5", AT)
    assert table.find("eu-west", "claude-nope-9", AT_MS) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("price", "is no TOML: "),
        ("[prices]", "has 'prices'; there is only [[price]]"),
        ("[price]\ninput = 1", "has [price]; write [[price]]"),
        ("[[price]]\ninput = 1", "[[price]] number 1: needs like, or input and output"),
        ("[[price]]\nlike = 'a'\ninput = 1", "[[price]] number 1: has both like and input"),
        ("[[price]]\nlike = 'a'\n[[price]]\ninput = -1\noutput = 2", "number 2: input: Input should be greater than"),
        ("[[price]]\ninput = 'x'\noutput = 2", "number 1: input: Input should be a valid decimal, not 'x'"),
        ("[[price]]\ninput = 1\noutput = 2\ncashed = 3", "number 1: cashed: Extra inputs are not permitted, not '3'"),
        ("[[price]]\ninput = 3000000\noutput = 2", "not '3000000'"),
    ],
)
def test_a_mistake_in_the_file_is_named(text: str, said: str) -> None:
    with pytest.raises(ValueError) as error:
        parse(text)
    assert said in str(error.value)
