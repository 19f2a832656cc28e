"""Where a job's time went, as bars."""

from __future__ import annotations

from typing import Any

from relay.broker.queue import JobStatus
from relay.console.pages.job import Bar, waterfall

JOB = {
    **{"id": "0-1", "tenant": "acme", "key_id": "k", "surface": "anthropic", "endpoint": "messages", "query": ""},
    **{"headers": "{}", "model": "m", "targets": '[["anthropic","anthropic","m"]]', "stream": "1"},
    **{"created_ms": "1000", "body_bytes": "1", "body_pieces": "0", "generation": "1", "sequence": "0"},
}


def status(**facts: Any) -> JobStatus:
    return JobStatus.decode(JOB | {"state": "done"} | {name: str(value) for name, value in facts.items()})


def call(attempt: int, started_ms: int, first_event_ms: int | None, ended_ms: int, **facts: Any) -> dict[str, Any]:
    times = {"started_ms": started_ms, "first_event_ms": first_event_ms, "ended_ms": ended_ms}
    return {"attempt": attempt, "outcome": "completed", "error": None, **times, **facts}


def test_a_job_that_waits_has_one_bar() -> None:
    assert waterfall(status(state="queued"), [], 1500) == [Bar("Waiting in the queue", "wait", 0, 100, 500)]


def test_each_call_has_its_time_to_the_first_event_and_that_of_its_answer() -> None:
    calls = [call(1, 1100, None, 1200, outcome="error", error="overloaded"), call(2, 1300, 100, 2000)]
    bars = waterfall(status(claimed_ms=1100, dispatched_ms=1300, first_ms=1400, ended_ms=2000, calls=2), calls, 9000)
    assert bars == [
        Bar("Waiting in the queue", "wait", 0, 10, 100),
        Bar("Call 1: no event", "provider", 10, 10, 100, "error, overloaded"),
        Bar("Call 2: to the first event", "provider", 30, 10, 100),
        Bar("Call 2: answer", "answer", 40, 60, 600, "completed"),
    ]


def test_a_call_that_runs_is_shown_by_the_jobs_own_times() -> None:
    bars = waterfall(status(state="streaming", claimed_ms=1100, dispatched_ms=1100, first_ms=1600, calls=1), [], 2000)
    assert [(bar.label, bar.ms) for bar in bars[1:]] == [("Call 1: to the first event", 500), ("Call 1: answer", 400)]


def test_every_bar_can_be_seen_and_stays_inside() -> None:
    calls = [call(1, 900, 0, 900), call(2, 10**7, 1, 10**7 + 1)]
    for bar in waterfall(status(claimed_ms=1000, ended_ms=10**6, calls=2), calls, 10**6):
        assert bar.begin >= 0
        assert bar.length >= 0.5
        assert bar.begin + bar.length <= 100
