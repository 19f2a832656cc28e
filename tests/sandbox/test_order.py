"""What a request can order, and where from."""

import pytest

from relay.sandbox.order import FAULTS, Order, parse, split_model, split_text
from relay.sandbox.refusal import Refusal


def test_nothing_ordered_is_the_default() -> None:
    assert parse("", "") == Order()


def test_a_list_is_read_with_its_types() -> None:
    wanted = parse("fault=stall, after=7, gap_ms=2.5,events=50,mb=3,tool=a+b")
    assert wanted == Order(fault="stall", after=7, gap_ms=2.5, events=50, mb=3, tool=("a", "b"))


def test_the_later_place_wins_option_by_option() -> None:
    assert parse("fault=error,after=1", "after=2") == Order(fault="error", after=2)


def test_a_rate_is_a_gap() -> None:
    assert parse("events_per_s=50").gap_ms == 20


def test_a_model_name_may_carry_an_order_and_an_at_sign_of_its_own() -> None:
    assert split_model("claude-sonnet-4-6@fault=stall,after=2") == ("claude-sonnet-4-6", "fault=stall,after=2")
    assert split_model("claude-opus-4-6@20260205@fault=529") == ("claude-opus-4-6@20260205", "fault=529")
    assert split_model("claude-opus-4-6@20260205") == ("claude-opus-4-6@20260205", "")


def test_markers_are_taken_out_of_the_text() -> None:
    assert split_text("Tell me SANDBOX(events=3) all. SANDBOX(gap_ms=0)") == ("Tell me  all.", "events=3,gap_ms=0")
    assert split_text("no marker (here)") == ("no marker (here)", "")


def test_an_unknown_fault_is_refused_with_the_known_ones() -> None:
    with pytest.raises(Refusal) as refused:
        parse("fault=meteor")
    assert refused.value.status == 400
    assert all(name in refused.value.message for name in FAULTS)


def test_an_unknown_option_is_refused_with_the_known_ones() -> None:
    with pytest.raises(Refusal, match=r"unknown option 'speed'; known: fault, after, .*gap_ms"):
        parse("speed=9")


@pytest.mark.parametrize("item", ["after=-1", "events=x", "gap_ms=nan", "first_ms=1e9", "mb=65", "mb=0", "after"])
def test_a_value_out_of_bounds_is_refused_by_name(item: str) -> None:
    with pytest.raises(Refusal, match=item.partition("=")[0]):
        parse(item)
