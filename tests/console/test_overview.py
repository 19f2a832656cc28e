"""What the overview makes of sums: waste, the chart, periods."""

from __future__ import annotations

import pytest

from relay.console.pages.overview import chart, prompt_tokens, waste
from relay.console.pages.period import HOUR_MS, period
from relay.core.errors import InvalidRequest
from relay.ledger.queries import SUMS, Sums


def sums(**values: int) -> Sums:
    return dict.fromkeys(SUMS, 0) | values


def test_a_premium_is_wasted_where_nothing_was_read() -> None:
    read = sums(cache_write_5m_tokens=100, write_premium=7, cache_read_tokens=1)
    unread = sums(cache_write_1h_tokens=100, write_premium=11)
    assert waste([read, unread, sums(), unread]) == 22


def test_the_prompt_is_all_input_cached_or_not() -> None:
    counted = sums(input_tokens=1, cache_read_tokens=2, cache_write_5m_tokens=4, cache_write_1h_tokens=8)
    assert prompt_tokens(counted | {"output_tokens": 16}) == 15


def test_there_is_a_chart_where_the_cache_was_used() -> None:
    quiet = sums(input_tokens=5) | {"hour": 7_200_000}
    busy = sums(cache_read_tokens=3, cache_write_5m_tokens=2, net_saved=-1_500_000_000) | {"hour": 10_800_000}
    assert chart([quiet]) is None
    assert chart([]) is None
    assert chart([quiet, busy]) == {
        "step": "hour",
        "at": [7200, 10_800],
        "uncached": [5, 0],
        "read": [0, 3],
        "written": [0, 2],
        "saved": [0.0, -1.5],
    }


def test_the_period_before_ends_where_the_period_begins() -> None:
    week = period("7d")
    assert week.span(1000 * HOUR_MS) == (832 * HOUR_MS, 1000 * HOUR_MS)
    assert week.span_before(1000 * HOUR_MS) == (664 * HOUR_MS, 832 * HOUR_MS)
    assert period("") == period("24h")
    with pytest.raises(InvalidRequest, match="'1y'"):
        period("1y")
