"""Trying again: what is worth it, for how long, and where next."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.errors import (
    Cancelled,
    Internal,
    InvalidRequest,
    JobLost,
    RelayError,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamTruncated,
    UpstreamUnreachable,
)
from relay.core.job import Target
from relay.core.meter import ProviderError
from relay.core.retry import BREAKER_FAILURES, BREAKER_S, Advice, Course, Failover, Failure, failure_in, failure_of

FIRST, SECOND, THIRD = (Target(name, "anthropic", "m") for name in ("first", "second", "third"))
AGAIN = Failure("same")


def failover(retries: int = 2, retry_s: float = 60, dice: float = 1.0) -> Failover:
    return Failover(retries, retry_s, lambda: dice)


def fail_for_good(course: Course, now: float = 0.0, failure: Failure = AGAIN) -> list[tuple[Target, float]]:
    """Every target that is called after a first failure, and the wait before it."""
    calls = []
    while (wait_s := course.failed(failure, now)) is not None:
        now += wait_s
        calls.append((course.target, wait_s))
    return calls


# --- what is worth it


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        *[(status, "same") for status in (408, 409, 429, 500, 502, 503, 504, 529, 599)],
        *[(status, "next") for status in (401, 402, 403, 404)],
        *[(status, "none") for status in (400, 405, 410, 413, 415, 422, 499)],
    ],
)
def test_a_status_says_whether_another_call_can_help(status: int, advice: Advice) -> None:
    assert failure_in(status, None, []).advice == advice


@pytest.mark.parametrize(
    ("kind", "code", "advice"),
    [
        ("overloaded_error", None, "same"),
        ("rate_limit_error", None, "same"),
        ("api_error", None, "same"),
        ("server_error", None, "same"),
        (None, None, "same"),
        ("invalid_request_error", None, "none"),
        ("invalid_request_error", "context_length_exceeded", "none"),
        ("authentication_error", None, "next"),
        ("insufficient_quota", "insufficient_quota", "next"),
    ],
)
def test_an_error_inside_a_200_counts_by_its_name(kind: str | None, code: str | None, advice: Advice) -> None:
    assert failure_in(200, ProviderError(type=kind, message="", code=code), []).advice == advice


@pytest.mark.parametrize("word", ["insufficient_quota", "enforced_spend_limit_reached", "contract_spend_limit_reached"])
def test_an_empty_purse_is_not_asked_twice(word: str) -> None:
    for error in (
        ProviderError(type=word, message="", code=None),
        ProviderError(type="rate_limit_error", message="", code=word),
    ):
        assert failure_in(429, error, []).advice == "next"


@pytest.mark.parametrize(
    ("status", "said", "advice"),
    [
        (503, "false", "next"),
        (429, "false", "next"),
        (400, "true", "same"),
        (503, "true", "same"),
        (400, "false", "none"),
    ],
)
def test_the_provider_may_say_so_itself(status: int, said: str, advice: Advice) -> None:
    assert failure_in(status, None, [("x-should-retry", said)]).advice == advice


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([("retry-after", "17")], 17.0),
        ([("retry-after-ms", "250"), ("retry-after", "1")], 0.25),
        ([("retry-after-ms", "soon"), ("retry-after", "2")], 2.0),
        ([("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT")], None),
        ([("retry-after", "-1")], None),
        ([("retry-after", "inf")], None),
        ([("retry-after", "nan")], None),
        ([], None),
    ],
)
def test_when_the_provider_wants_to_be_asked_again(headers: list[tuple[str, str]], seconds: float | None) -> None:
    assert failure_in(429, None, headers).retry_after_s == seconds


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UpstreamUnreachable(""), Failure("same")),
        (UpstreamTimeout(""), Failure("same")),
        (UpstreamTruncated(""), Failure("same")),
        (UpstreamProtocolError(""), Failure("next")),
        (InvalidRequest(""), Failure("next", was_called=False)),
        (Internal(""), Failure("none", was_called=False)),
        (JobLost(""), Failure("none", was_called=False)),
        (Cancelled(""), Failure("none", was_called=False)),
    ],
)
def test_an_error_of_ours_says_so_by_its_class(error: RelayError, expected: Failure) -> None:
    assert failure_of(error) == expected


# --- one job's way


def test_waits_double_and_then_the_next_target_is_called_at_once() -> None:
    course = failover(retries=2).course([FIRST, SECOND], 0)
    assert course.target == FIRST
    assert fail_for_good(course) == [(FIRST, 0.5), (FIRST, 1.0), (SECOND, 0.0), (SECOND, 0.5), (SECOND, 1.0)]


def test_waits_stop_doubling_and_are_shortened_by_the_dice() -> None:
    waits = [wait_s for _, wait_s in fail_for_good(failover(retries=6, retry_s=600).course([FIRST], 0))]
    assert waits == [0.5, 1, 2, 4, 8, 8]
    assert fail_for_good(failover(retries=2, dice=0.0).course([FIRST], 0)) == [(FIRST, 0.0), (FIRST, 0.0)]


def test_no_retries_still_leave_the_other_targets() -> None:
    assert fail_for_good(failover(retries=0).course([FIRST, SECOND, THIRD], 0)) == [(SECOND, 0.0), (THIRD, 0.0)]


def test_a_failure_that_is_the_requests_own_ends_the_way() -> None:
    assert failover().course([FIRST, SECOND], 0).failed(Failure("none"), 0) is None


def test_a_target_that_cannot_do_better_is_left_at_once() -> None:
    course = failover().course([FIRST, SECOND], 0)
    assert course.failed(Failure("next"), 0) == 0.0
    assert course.target == SECOND


def test_a_wait_the_provider_asks_for_is_kept_and_the_dice_come_on_top() -> None:
    course = failover().course([FIRST], 0)
    assert course.failed(Failure("same", retry_after_s=17), 0) == 17.5


def test_a_long_wait_is_not_for_who_has_another_target() -> None:
    course = failover().course([FIRST, SECOND], 0)
    assert (course.failed(Failure("same", retry_after_s=8), 0), course.target) == (0.0, SECOND)
    assert course.failed(Failure("same", retry_after_s=8), 0) == 8.5


def test_retries_begin_within_their_time() -> None:
    course = failover(retries=9, retry_s=10).course([FIRST], 100)
    assert course.failed(AGAIN, 109.5) == 0.5
    assert course.failed(AGAIN, 109.5) is None


def test_the_next_target_has_its_own_time() -> None:
    course = failover(retries=1, retry_s=10).course([FIRST, SECOND], 0)
    assert (course.failed(AGAIN, 120), course.target) == (0.0, SECOND)
    assert course.failed(AGAIN, 129) == 0.5


# --- the budget


def test_a_provider_that_is_down_is_spared() -> None:
    """100 calls that want one retry each become 119: the first one finds the reserve full, and earns nothing."""
    office = failover(retries=1)
    retried = sum(len(fail_for_good(office.course([FIRST], 0))) for _ in range(100))
    assert retried == 19


def test_the_budget_is_the_providers() -> None:
    office = failover(retries=100, retry_s=1e9)
    assert len(fail_for_good(office.course([FIRST], 0))) == 10
    assert len(fail_for_good(office.course([SECOND], 0))) == 10
    assert len(fail_for_good(office.course([Target("first", "anthropic", "other")], 0))) == 0


def test_a_budget_fills_up_again_and_not_beyond_its_reserve() -> None:
    office = failover(retries=100, retry_s=1e9)
    fail_for_good(office.course([FIRST], 0))
    for _ in range(1000):
        office.course([FIRST], 0).succeeded()
    assert len(fail_for_good(office.course([FIRST], 0))) == 10


# --- the breaker


def broken(now: float = 0.0) -> Failover:
    """The first target has failed too often."""
    office = failover(retries=0)
    for _ in range(BREAKER_FAILURES):
        office.course([FIRST], now).failed(AGAIN, now)
    return office


def test_a_target_that_keeps_failing_is_left_out_while_another_can_serve() -> None:
    office = broken()
    assert office.course([FIRST, SECOND], 1).target == SECOND
    assert len(office.out(1)) == 1


def test_one_failure_less_does_not_break() -> None:
    office = failover(retries=0)
    for _ in range(BREAKER_FAILURES - 1):
        office.course([FIRST], 0).failed(AGAIN, 0)
    assert office.course([FIRST, SECOND], 0).target == FIRST


def test_a_success_in_between_counts_anew() -> None:
    office = failover(retries=0)
    for _ in range(BREAKER_FAILURES - 1):
        office.course([FIRST], 0).failed(AGAIN, 0)
    office.course([FIRST], 0).succeeded()
    office.course([FIRST], 0).failed(AGAIN, 0)
    assert office.course([FIRST, SECOND], 0).target == FIRST


def test_an_answer_the_client_must_judge_is_a_success() -> None:
    office = broken()
    office.course([FIRST], 1).failed(Failure("none"), 1)
    assert office.course([FIRST, SECOND], 1).target == FIRST


def test_a_failure_before_any_call_says_nothing_of_the_target() -> None:
    office = broken()
    office.course([FIRST], 1).failed(Failure("none", was_called=False), 1)
    assert office.course([FIRST, SECOND], 1).target == SECOND


def test_a_broken_target_is_tried_by_one_call_at_a_time() -> None:
    office = broken()
    later = BREAKER_S + 1
    probe = office.course([FIRST, SECOND], later)
    assert probe.target == FIRST
    assert office.course([FIRST, SECOND], later).target == SECOND
    probe.succeeded()
    assert office.course([FIRST, SECOND], later).target == FIRST


def test_a_probe_that_fails_leaves_it_out_for_another_while() -> None:
    office = broken()
    later = BREAKER_S + 1
    office.course([FIRST, SECOND], later).failed(AGAIN, later)
    assert office.course([FIRST, SECOND], later + BREAKER_S - 1).target == SECOND


def test_where_all_are_out_the_one_that_is_back_first_is_called() -> None:
    office = broken(now=0)
    for _ in range(BREAKER_FAILURES):
        office.course([SECOND], 5).failed(AGAIN, 5)
    assert office.course([SECOND, FIRST], 6).target == FIRST


def test_no_way_leads_on_to_a_target_that_is_out() -> None:
    office = broken()
    course = office.course([SECOND, FIRST, THIRD], 1)
    assert [target for target, _ in fail_for_good(course, 1)] == [THIRD]


def test_a_provider_that_asks_for_a_pause_gets_it_where_another_can_serve() -> None:
    office = failover(retries=0)
    office.course([FIRST], 0).failed(Failure("same", retry_after_s=20), 0)
    assert office.course([FIRST, SECOND], 19).target == SECOND
    assert office.course([FIRST, SECOND], 20).target == FIRST


def test_but_not_for_ever() -> None:
    office = failover(retries=0)
    office.course([FIRST], 0).failed(Failure("same", retry_after_s=1e9), 0)
    assert office.course([FIRST, SECOND], 61).target == FIRST


def test_a_request_that_cannot_be_translated_is_not_the_targets_failure() -> None:
    office = failover(retries=0)
    for _ in range(BREAKER_FAILURES):
        office.course([FIRST, SECOND], 0).failed(Failure("next", was_called=False), 0)
    assert office.course([FIRST, SECOND], 0).target == FIRST


def test_only_so_many_failing_targets_are_remembered() -> None:
    """Clients choose the names of models."""
    office = broken()
    for number in range(1000):
        office.course([Target("first", "anthropic", f"m-{number}")], 0).failed(AGAIN, 0)
    assert office.course([FIRST, SECOND], 1).target == FIRST


failures = st.builds(
    Failure, st.sampled_from(["same", "next", "none"]), st.none() | st.floats(0, 1e4), was_called=st.booleans()
)


@given(st.lists(failures, max_size=40), st.integers(0, 5), st.integers(1, 4), st.floats(0, 1))
def test_a_way_ends_whatever_happens(what: list[Failure], retries: int, targets: int, dice: float) -> None:
    """In its number of calls, in the order of the targets, and never with a wait below the one asked for."""
    names = [Target(str(number), "anthropic", "m") for number in range(targets)]
    course = failover(retries, 60, dice).course(names, 0)
    now, called = 0.0, [course.target]
    for failure, _ in zip([*what, *[AGAIN] * 100], count(), strict=False):
        before = course.target
        wait_s = course.failed(failure, now)
        if wait_s is None:
            break
        if course.target == before:
            assert wait_s >= (failure.retry_after_s or 0)
        now += wait_s
        called.append(course.target)
    assert len(called) <= targets * (retries + 1)
    assert called == sorted(called, key=names.index)
    assert now <= targets * 60
