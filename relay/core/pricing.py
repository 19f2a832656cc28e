"""What a call cost and what caching saved, in whole nano-dollars: from token counts to money.

Prices are those of genai-prices as bundled with it, under the overrides of an operator (``pricing_overrides``). A price
nobody knows is None, never 0. Nothing here reads a file, a clock or the network.

The ledger is its caller, through ``bill``, when it takes a record in, by the time of the call. That keeps the promise
that a changed price never rewrites history as well as pricing in the worker would (the amounts are stored with the row,
and no row is ever priced again), and it keeps half a second of imports and the price table's memory out of every worker
but those whose calls are under a budget in money.

Where we differ from genai-prices on purpose: it answers in decimal dollars, 180 µs a call; here a model's rates are
looked up once for every quarter of an hour and the rest is integer arithmetic, 6 µs. And it does not know that
US-only inference costs a tenth more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Final, NamedTuple

import genai_prices
from genai_prices.types import ModelInfo, ModelPrice, StartDateConstraint, TieredPrices

from relay.core.pricing_overrides import Override
from relay.core.usage import Buckets

SOURCE: Final = f"genai-prices {genai_prices.__version__}"
OWN: Final = "own prices"

# Some prices change with the time of day, on the half hour at the earliest; finding one takes 0.4 ms.
STEP_MS: Final = 15 * 60_000
# Models, times the quarters of an hour: a day's records of 100 models, read after an outage, fit. 1 KB each at most.
_REMEMBERED = 10_000

# US-only inference, by the price page: everything costs 1.1 times as much.
_REGIONS: Mapping[str | None, Decimal] = {"us": Decimal("1.1")}


class Rates(NamedTuple):
    """Pico-dollars per token, which are millionths of the usual dollars per million."""

    input: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int
    output: int


class Amounts(NamedTuple):
    """Nano-dollars. What is not here is derived, so that no two numbers can disagree."""

    billed_input: int
    read_savings: int
    write_premium: int
    output: int
    fees: int  # per request, and for what the provider's own tools did

    @property
    def net_saved(self) -> int:
        """Below 0 for a write that was not read yet."""
        return self.read_savings - self.write_premium

    @property
    def baseline(self) -> int:
        """All input at the uncached price."""
        return self.billed_input + self.net_saved

    @property
    def cost(self) -> int:
        return self.billed_input + self.output + self.fees


def total(bills: Iterable[Amounts]) -> Amounts:
    return Amounts(*map(sum, zip(*bills, strict=True)))


class Terms(NamedTuple):
    """What a price depends on besides model and time, as the provider reported it."""

    service_tier: str | None = None
    speed: str | None = None
    region: str | None = None


STANDARD: Final = Terms()


@dataclass(frozen=True, slots=True)
class Price:
    """What one model costs at one moment.

    ``steps``: rates and the prompt length beyond which they hold, longest first; the last holds from 0. A step is for
    the whole call, cached tokens and output too. Fees are nano-dollars.
    """

    steps: tuple[tuple[int, Rates], ...]
    source: str
    since: date | None = None
    request_fee: int = 0
    search_fee: int = 0

    def amounts(self, tokens: Buckets) -> Amounts:
        """The bill. Every bucket is rounded by itself, to the nearest nano-dollar, at both of its prices."""
        uncached, read, write_5m, write_1h, output = tokens
        prompt = uncached + read + write_5m + write_1h
        for above, rates in self.steps:  # noqa: B007 - the last one is for whatever is left
            if prompt > above:
                break
        read_billed = _nano(read, rates.cache_read)
        writes_billed = _nano(write_5m, rates.cache_write_5m) + _nano(write_1h, rates.cache_write_1h)
        return Amounts(
            billed_input=_nano(uncached, rates.input) + read_billed + writes_billed,
            read_savings=_nano(read, rates.input) - read_billed,
            write_premium=writes_billed - _nano(write_5m, rates.input) - _nano(write_1h, rates.input),
            output=_nano(output, rates.output),
            fees=self.request_fee,
        )


class PriceTable:
    """The published prices under an operator's own."""

    def __init__(self, overrides: Sequence[Override] = ()) -> None:
        self._overrides = tuple(overrides)
        self._in_step = lru_cache(_REMEMBERED)(self._look_up)

    def find(self, provider: str, model: str, at_ms: int, terms: Terms = STANDARD) -> Price | None:
        """The price of a model at a time, or None if nobody knows it."""
        return self._in_step(provider, model, at_ms // STEP_MS, terms)

    def _look_up(self, provider: str, model: str, step: int, terms: Terms) -> Price | None:
        at = datetime.fromtimestamp(step * STEP_MS / 1000, UTC)
        own = next((each for each in self._overrides if each.applies(provider, model, at.date())), None)
        if own is None:
            return published(provider, model, at, terms)
        return published(own.like, model, at, terms) if own.like else _own_price(own)


def published(provider: str, model: str, at: datetime, terms: Terms = STANDARD) -> Price | None:
    """The price genai-prices has."""
    context = {"service_tier": terms.service_tier, "speed": terms.speed}
    if terms.service_tier == "batch":
        context["processing"] = "batch"
    try:
        found = genai_prices.calc_price(
            genai_prices.Usage(),
            model,
            provider_id=provider,
            genai_request_timestamp=at,
            price_context={name: value for name, value in context.items() if value},
        )
    except LookupError:
        return None
    prices = found.model_price
    if prices.input_mtok is None:
        return None  # priced by the hour, the page or the image, which no usage record counts
    tiered = [price for price in vars(prices).values() if isinstance(price, TieredPrices)]
    starts = {0} | {tier.start for price in tiered for tier in price.tiers}
    return Price(
        steps=tuple((start, _rates(prices, start, terms.region)) for start in sorted(starts, reverse=True)),
        source=SOURCE,
        since=_since(found.model, at),
        request_fee=_fee(prices.requests_kcount),
        search_fee=_fee(prices.web_searches_kcount),
    )


def _own_price(own: Override) -> Price:
    """An operator's own rates are the whole truth: no tier, batch or region changes them."""
    assert own.input is not None
    assert own.output is not None
    dollars = (own.input, own.cache_read, own.cache_write_5m, own.cache_write_1h, own.output)
    rates = Rates(*(_pico(own.input if rate is None else rate) for rate in dollars))
    return Price(steps=((0, rates),), source=OWN, since=own.since)


def _rates(prices: ModelPrice, prompt_above: int, region: str | None) -> Rates:
    """The rates beyond this prompt length. A bucket without a rate of its own costs what the nearest other costs."""

    def rate(price: Decimal | TieredPrices | None, otherwise: Decimal = Decimal(0)) -> Decimal:
        if isinstance(price, TieredPrices):
            return next((tier.price for tier in reversed(price.tiers) if tier.start <= prompt_above), price.base)
        return otherwise if price is None else price

    plain = rate(prices.input_mtok)
    write_5m = rate(prices.cache_write_5m_mtok, rate(prices.cache_write_mtok, plain))
    write_1h = rate(prices.cache_write_1h_mtok, rate(prices.cache_write_mtok, plain))
    found = (plain, rate(prices.cache_read_mtok, plain), write_5m, write_1h, rate(prices.output_mtok))
    factor = _REGIONS.get(region, Decimal(1))
    return Rates(*(_pico(each * factor) for each in found))


def _since(model: ModelInfo, at: datetime) -> date | None:
    """Since when this price holds, where the table says so."""
    if isinstance(model.prices, ModelPrice):
        return None
    started = [
        each.constraint.start_date
        for each in model.prices
        if isinstance(each.constraint, StartDateConstraint) and each.constraint.active(at)
    ]
    return max(started, default=None)


def _pico(dollars_per_million: Decimal) -> int:
    return int((dollars_per_million * 10**6).to_integral_value())


def _fee(dollars_per_thousand: Decimal | TieredPrices | None) -> int:
    return int(dollars_per_thousand * 10**6) if isinstance(dollars_per_thousand, Decimal) else 0


def _nano(tokens: int, rate: int) -> int:
    return (tokens * rate + 500) // 1000
