"""How long what is left of a job lives: decided by how it ended, how it answered and who may come back."""

from __future__ import annotations

import pytest

from relay.broker.retention import Retention
from relay.core.job import CANCELLED, DONE, FAILED, OnDisconnect
from tests.broker.system import Limits, make_job

LIMITS = Limits(log_ttl_s=60, result_ttl_s=120, dead_ttl_s=240)
LOG, RESULT, DEAD = 60_000, 120_000, 240_000


@pytest.mark.parametrize(
    ("on_disconnect", "state", "came_whole", "expected"),
    [
        ("finish", DONE, True, Retention(log_ms=RESULT, job_s=120, body_s=0, due_ms=0)),
        ("finish", DONE, False, Retention(log_ms=LOG, job_s=120, body_s=0, due_ms=LOG // 2)),
        ("finish", FAILED, True, Retention(log_ms=DEAD, job_s=240, body_s=240, due_ms=0)),
        ("finish", FAILED, False, Retention(log_ms=LOG, job_s=240, body_s=240, due_ms=0)),
        ("finish", CANCELLED, False, Retention(log_ms=LOG, job_s=120, body_s=0, due_ms=0)),
        ("cancel", DONE, True, Retention(log_ms=LOG, job_s=120, body_s=0, due_ms=0)),
        ("cancel", DONE, False, Retention(log_ms=LOG, job_s=120, body_s=0, due_ms=0)),
    ],
)
def test_what_lives_how_long(on_disconnect: OnDisconnect, state: str, came_whole: bool, expected: Retention) -> None:
    job = make_job(on_disconnect=on_disconnect)
    assert Retention.of(LIMITS, job, state, came_whole=came_whole) == expected


@pytest.mark.parametrize(("state", "body_s"), [(DONE, 60), (CANCELLED, 60), (FAILED, 240)])
def test_a_request_whose_content_is_kept_lives_as_long_as_its_log(state: str, body_s: int) -> None:
    job = make_job(on_disconnect="finish", log="content")
    expected = Retention.of(LIMITS, make_job(on_disconnect="finish"), state, came_whole=True)._replace(body_s=body_s)
    assert Retention.of(LIMITS, job, state, came_whole=True) == expected


def test_a_log_that_lives_as_long_as_its_job_needs_no_result_beside_it() -> None:
    limits = Limits(log_ttl_s=120, result_ttl_s=120)
    assert Retention.of(limits, make_job(on_disconnect="finish"), DONE, came_whole=False).due_ms == 0
