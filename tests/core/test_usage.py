"""The usage record adds up, and no number a provider may write can spoil it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.anthropic import AnthropicMeter, Totals
from relay.core.openai import OpenAIMeter, openai_usage
from relay.core.usage import LARGEST_COUNT, RawUsage, Usage, share_out, ttl_of_markers

NONSENSE = [-5, "many", 2**63, LARGEST_COUNT + 1, True, 1.5, 5.0, [1], {"n": 1}]

counts = st.integers(0, 10**6)
ttls = st.sampled_from(["5m", "1h", "30m", "12h"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("ab", max_size=3) | counts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=3), inner, max_size=3),
    max_leaves=6,
)
# Every member a meter looks at, holding anything.
MEMBERS = [
    *("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation"),
    *("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens", "output_tokens_details", "thinking_tokens"),
    *("server_tool_use", "service_tier", "iterations", "type", "prompt_tokens", "completion_tokens"),
    *("prompt_tokens_details", "completion_tokens_details", "cached_tokens", "cache_write_tokens"),
    *("cache_write_tokens_details", "ttl_30m_tokens", "reasoning_tokens", "prompt_cache_hit_tokens"),
]
raw_usages = st.dictionaries(
    st.sampled_from(MEMBERS),
    json_values | counts | st.dictionaries(st.sampled_from(MEMBERS), json_values | counts, max_size=4),
    max_size=8,
)


def is_sound(usage: Usage) -> bool:
    assert all(type(count) is int and count >= 0 for count in usage.buckets)
    assert all(count > 0 for count in usage.cache_write_by_ttl.values())
    assert sum(usage.buckets) == usage.total_tokens == usage.prompt_tokens + usage.output_tokens
    assert usage.prompt_tokens == usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
    return True


@given(st.lists(raw_usages, min_size=1, max_size=3), st.lists(ttls, max_size=3), st.booleans())
def test_no_anthropic_usage_raises_or_spoils_the_sums(raws: list[dict[str, Any]], marks: list[str], incl: bool) -> None:
    totals = Totals()
    for raw in raws:
        totals = totals.merge(raw, closing=False)

    assert is_sound(totals.usage(marks, "inclusive" if incl else "exclusive"))


@given(st.lists(raw_usages, min_size=1, max_size=3), st.none() | ttls)
def test_no_openai_usage_raises_or_spoils_the_sums(raws: list[dict[str, Any]], write_ttl: str | None) -> None:
    usage = None
    for raw in raws:
        usage = openai_usage(raw, usage, final=False, write_ttl=write_ttl)
        assert is_sound(usage)


@given(st.lists(raw_usages.filter(bool), min_size=1, max_size=3), st.booleans())
def test_seeing_the_same_usage_twice_changes_nothing(raws: list[dict[str, Any]], closing: bool) -> None:
    """Usage objects are running totals: adding them would bill twice."""
    once = twice = Totals()
    for raw in raws:
        once = once.merge(raw, closing=closing)
        twice = twice.merge(raw, closing=closing).merge(raw, closing=closing)

    assert twice.usage((), "exclusive") == once.usage((), "exclusive")


@pytest.mark.parametrize("value", NONSENSE, ids=repr)
def test_what_is_no_count_is_left_out_and_marked(value: object) -> None:
    start = {"input_tokens": 11, "cache_read_input_tokens": 5, "output_tokens": 1}

    usage = Totals().merge(start, closing=False).merge({"output_tokens": value}, closing=True).usage(())

    assert (usage.input_tokens, usage.cache_read_tokens, usage.output_tokens) == (11, 5, 1)
    assert usage.suspect


def test_good_numbers_do_not_take_a_doubt_back() -> None:
    start = Totals().merge({"input_tokens": -1, "output_tokens": 1}, closing=False)

    assert start.merge({"input_tokens": 11, "output_tokens": 2}, closing=True).usage(()).suspect


@pytest.mark.parametrize("value", NONSENSE, ids=repr)
def test_what_is_no_count_does_not_replace_good_numbers(value: object) -> None:
    good = {"prompt_tokens": 23, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}}

    before = openai_usage(good, None, final=False)
    usage = openai_usage({"prompt_tokens": 23, "completion_tokens": value}, before, final=True)

    assert usage.as_dict() == before.as_dict() | {"final": True}
    assert usage.suspect
    assert not before.suspect


def test_an_explicit_zero_stays_zero_and_is_not_suspect() -> None:
    start = {"input_tokens": 11, "output_tokens": 1}

    anthropic = Totals().merge(start, closing=False).merge({"output_tokens": 0}, closing=True).usage(())
    openai = openai_usage({"prompt_tokens": 0, "completion_tokens": 0}, None, final=True)

    assert (anthropic.output_tokens, anthropic.suspect) == (0, False)
    assert (openai.total_tokens, openai.suspect) == (0, False)


def test_a_number_that_was_never_said_makes_the_record_suspect() -> None:
    assert Totals().merge({"output_tokens": 3}, closing=True).usage(()).suspect
    assert openai_usage({"completion_tokens": 3}, None, final=True).suspect


def test_an_empty_usage_object_reports_nothing() -> None:
    anthropic, openai = AnthropicMeter(), OpenAIMeter()
    anthropic.see_body(b'{"type":"message","content":[],"usage":{}}')
    openai.see_body(b'{"choices":[{"index":0,"finish_reason":"stop"}],"usage":{}}')

    assert (anthropic.outcome, anthropic.usage) == ("completed", None)
    assert (openai.outcome, openai.usage) == ("completed", None)


def test_the_providers_own_objects_are_kept() -> None:
    first, last = {"input_tokens": 1, "output_tokens": 1, "quantum_tokens": 3}, {"output_tokens": 2}

    usage = Totals().merge(first, closing=False).merge({"output_tokens": 1}, closing=False).merge(last, closing=True)

    assert (usage.first_raw, usage.last_raw) == (first, last)


# --- cache writes by time


@given(st.none() | counts, st.dictionaries(ttls, counts), ttls)
def test_writes_by_time_add_up_to_the_total(total: int | None, split: dict[str, int], rest_ttl: str) -> None:
    by_ttl, agrees = share_out(total, split, rest_ttl)

    assert sum(by_ttl.values()) == (sum(split.values()) if total is None else total)
    assert agrees == (total is None or sum(split.values()) <= total)


@pytest.mark.parametrize(
    ("marker_ttls", "ttl"), [((), "5m"), (("5m",), "5m"), (("1h",), "1h"), (("1h", "1h"), "1h"), (("1h", "5m"), "5m")]
)
def test_an_unsplit_write_has_the_time_that_every_marker_asked_for(marker_ttls: tuple[str, ...], ttl: str) -> None:
    assert ttl_of_markers(marker_ttls) == ttl


def test_a_split_larger_than_the_total_is_cut_and_marked() -> None:
    split = {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 50}
    start = {"input_tokens": 1, "output_tokens": 1, "cache_creation_input_tokens": 150, "cache_creation": split}

    usage = Totals().merge(start, closing=False).merge({"cache_creation_input_tokens": 90}, closing=True).usage(())

    assert usage.cache_write_by_ttl == {"5m": 40, "1h": 50}
    assert usage.suspect


def test_a_fallback_forgets_the_split_of_the_attempt_it_took_over_from() -> None:
    start = {"input_tokens": 1, "output_tokens": 1, "cache_creation": {"ephemeral_1h_input_tokens": 5120}}
    served = {"type": "fallback_message", "model": "other", "cache_creation": {"ephemeral_5m_input_tokens": 300}}
    end = {"cache_creation_input_tokens": 300, "output_tokens": 9, "iterations": [{"type": "message"}, served]}

    usage = Totals().merge(start, closing=False).merge(end, closing=True).usage(["1h"])

    assert usage.cache_write_by_ttl == {"5m": 300}


def test_the_times_of_openai_join_the_bucket_with_the_nearer_price() -> None:
    written = {"5m": 1, "30m": 10, "1h": 100, "12h": 1000}

    buckets = Usage(input_tokens=7, cache_read_tokens=8, cache_write_by_ttl=written, output_tokens=9).buckets

    assert buckets == (7, 8, 11, 1100, 9)


def test_a_gateway_in_front_of_anthropic_writes_for_the_time_of_the_markers() -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 1, "prompt_tokens_details": {"cache_write_tokens": 90}}
    body = json.dumps({"choices": [{"index": 0, "finish_reason": "stop"}], "usage": usage}).encode()
    by_default, by_markers = OpenAIMeter(["1h"]), OpenAIMeter(["1h"], writes_follow_markers=True)
    for meter in (by_default, by_markers):
        meter.see_body(body)

    assert by_default.usage and by_default.usage.cache_write_by_ttl == {"30m": 90}
    assert by_markers.usage and by_markers.usage.cache_write_by_ttl == {"1h": 90}


# --- reading


def test_the_first_member_that_holds_a_count_wins_and_zero_is_a_count() -> None:
    said = RawUsage({"a": None, "b": 0, "c": 7, "d": "x"})

    assert said.count("a", "b", "c") == 0
    assert said.count("d", "c") == 7
    assert said.doubts == ["d"]


def test_an_object_shares_its_doubts_with_its_members() -> None:
    said = RawUsage({"details": {"n": -1}})

    assert said.members("none", "details").count("n") is None
    assert said.doubts == ["n"]
