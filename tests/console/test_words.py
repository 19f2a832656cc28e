"""Numbers and times as people read them."""

from __future__ import annotations

import pytest

from relay.console.pages import words
from relay.ledger.reasons import REASONS


@pytest.mark.parametrize(
    ("nano_usd", "text"),
    [
        (None, "unknown"),
        (0, "$0.00"),
        (1, "$0.000000001"),
        (12_345, "$0.000012"),
        (4_200_000, "$0.0042"),
        (42_000_000, "$0.042"),
        (99_999_999, "$0.100"),
        (420_000_000, "$0.42"),
        (12_340_000_000, "$12.34"),
        (1_234_500_000_000, "$1,234"),
        (-4_200_000, "−$0.0042"),
    ],
)
def test_money(nano_usd: int | None, text: str) -> None:
    assert words.money(nano_usd) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        *[(None, "unknown"), (0, "0"), (999, "999"), (1000, "1.00k"), (9994, "9.99k"), (9996, "10.0k")],
        *[(12_345, "12.3k"), (999_400, "999k"), (999_600, "1.00M"), (3_400_000, "3.40M"), (5 * 10**15, "5000T")],
    ],
)
def test_compact(number: int | None, text: str) -> None:
    assert words.compact(number) == text


@pytest.mark.parametrize(
    ("now", "before", "text"),
    [(0, 0, "–"), (3, 0, "new"), (3, 3, "no change"), (150, 100, "+50%"), (50, 100, "−50%"), (0, 7, "−100%")],
)
def test_change(now: int, before: int, text: str) -> None:
    assert words.change(now, before) == text


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        *[(None, "–"), (0, "0 ms"), (999, "999 ms"), (1000, "1.0 s"), (9960, "10 s"), (59_400, "59 s")],
        *[(61_000, "1 min 01 s"), (3_660_000, "1 h 01 min")],
    ],
)
def test_duration(ms: float | None, text: str) -> None:
    assert words.duration(ms) == text


def test_share() -> None:
    assert [words.share(1, 3), words.share(0, 3), words.share(3, 3), words.share(1, 0)] == ["33.3%", "0%", "100%", "–"]


def test_times_are_utc() -> None:
    assert words.moment(1_795_219_200_000) == "2026-11-21 00:00:00"
    assert words.moment(None) == "–"


@pytest.mark.parametrize("code", REASONS)
def test_each_reason_has_words_and_says_what_to_do(code: str) -> None:
    assert "_" not in words.reason(code)
    assert words.advice(code).endswith(".")


def test_a_place_is_named_where_the_prompt_differs() -> None:
    assert words.reason("prefix_changed", "system.0") == "prefix changed at system.0"
    assert words.reason("ttl_expired", "system.0") == "TTL ran out"
    assert (words.reason("of_tomorrow"), words.advice("of_tomorrow")) == ("of tomorrow", "")
