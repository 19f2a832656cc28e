"""Misbehaviour as a row of steps: what is sent, when, and what counts as answer."""

from collections.abc import Sequence

import pytest

from relay.sandbox.anthropic import DIALECT as ANTHROPIC
from relay.sandbox.dialect import Event
from relay.sandbox.faults import Cut, Send, Stall, Step, body_steps, refusal, stream_steps
from relay.sandbox.openai import DIALECT as OPENAI
from relay.sandbox.order import FAULTS, STATUS_FAULTS, Order

EVENTS = [Event(b"<start>"), Event(b"<a>", 1), Event(b"<b>", 1), Event(b"<c>", 1), Event(b"<end>")]
BODY = b'{"answer": 42}'


def play(order: Order, gap_ms: float = 0) -> list[Step]:
    return list(stream_steps(EVENTS, order, ANTHROPIC, gap_ms))


def sent(steps: Sequence[Step]) -> bytes:
    return b"".join(step.data for step in steps if isinstance(step, Send))


def billed(steps: Sequence[Step]) -> int:
    return sum(step.tokens or 0 for step in steps if isinstance(step, Send))


def test_a_good_stream_is_every_event_once() -> None:
    assert sent(play(Order())) == b"".join(event.raw for event in EVENTS)
    assert billed(play(Order())) == 3


def test_the_gap_stands_before_each_piece_and_nowhere_else() -> None:
    waits = [step.wait_s for step in play(Order(first_ms=500), gap_ms=20) if isinstance(step, Send)]
    assert waits == [0.5, 0.02, 0.02, 0.02, 0]


@pytest.mark.parametrize(
    ("fault", "data", "last"),
    [
        ("stall", b"<start><a>", Stall()),
        ("cut", b"<start><a><", Cut()),
        ("truncate", b"<start><a>", Send(b"<a>", 0, 1)),
    ],
)
def test_a_fault_bites_after_so_many_pieces(fault: str, data: bytes, last: Step) -> None:
    steps = play(Order(fault=fault, after=1))
    assert (sent(steps), steps[-1], billed(steps)) == (data, last, 1)


def test_a_fault_that_waits_for_more_pieces_than_there_are_bites_before_the_end() -> None:
    assert sent(play(Order(fault="truncate", after=99))) == b"<start><a><b><c>"


def test_an_error_ends_the_stream() -> None:
    steps = play(Order(fault="error", after=2))
    assert sent(steps).startswith(b"<start><a><b>event: error\n")
    assert b"<c>" not in sent(steps)


def test_an_error_first_is_all_there_is_and_costs_nothing() -> None:
    steps = play(Order(fault="error_first"))
    assert sent(steps).startswith(b"event: error\n")
    assert all(isinstance(step, Send) and step.tokens is None for step in steps)


@pytest.mark.parametrize("fault", ["garbage", "bad_json", "huge"])
def test_bad_bytes_come_between_two_pieces_and_the_answer_goes_on(fault: str) -> None:
    steps = play(Order(fault=fault, after=1))
    assert sent(steps).startswith(b"<start><a>")
    assert sent(steps).endswith(b"<b><c><end>")
    assert len(sent(steps)) > len(b"".join(event.raw for event in EVENTS))
    assert billed(steps) == 3


def test_slow_is_byte_by_byte_and_an_event_counts_with_its_last_byte() -> None:
    steps = play(Order(fault="slow", byte_ms=2))
    assert all(isinstance(step, Send) and len(step.data) == 1 and step.wait_s == 0.002 for step in steps)
    assert (sent(steps), billed(steps)) == (sent(play(Order())), 3)
    assert billed(steps[:-8]) == 2  # all but the last byte of <c>, and <end>


@pytest.mark.parametrize("fault", sorted(set(FAULTS) - {*STATUS_FAULTS, "quota", "502", "json_200", "empty_200"}))
@pytest.mark.parametrize("events", [[Event(b"<start>"), Event(b"<end>")], EVENTS])
def test_every_fault_can_meet_every_stream(fault: str, events: list[Event]) -> None:
    for after in (0, 1, 9):
        for _ in stream_steps(events, Order(fault=fault, after=after), OPENAI, 0):
            pass


def test_a_whole_answer_takes_as_long_as_its_stream() -> None:
    assert list(body_steps(BODY, 3, Order(first_ms=100), 20)) == [Send(BODY, 0.16, 3)]


@pytest.mark.parametrize(
    ("fault", "steps"),
    [
        ("stall", [Stall()]),
        ("cut", [Send(BODY[:7]), Cut()]),
        ("truncate", [Send(BODY[:7])]),
        ("huge", [Send(b" " * (1 << 20)), Send(BODY, 0, 3)]),
    ],
)
def test_a_whole_answer_can_go_wrong_too(fault: str, steps: list[Step]) -> None:
    assert list(body_steps(BODY, 3, Order(fault=fault), 0)) == steps


@pytest.mark.parametrize("fault", STATUS_FAULTS)
def test_a_status_is_refused_with_it(fault: str) -> None:
    found = refusal(Order(fault=fault, retry_after=7), OPENAI)
    assert found is not None
    assert found.status == int(fault)
    assert found.headers == ({"retry-after": "7"} if fault in ("429", "503", "529") else {})


def test_a_used_up_quota_names_no_time_to_come_back() -> None:
    for dialect, code in ((ANTHROPIC, "enforced_spend_limit_reached"), (OPENAI, "insufficient_quota")):
        found = refusal(Order(fault="quota"), dialect)
        assert found is not None
        assert (found.status, found.code, found.headers) == (429, code, {})
