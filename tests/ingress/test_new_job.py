"""What may stand beside a request in its envelope, and what is said of everything else."""

from __future__ import annotations

from typing import Any

import pytest

from relay.core.errors import InvalidRequest
from relay.ingress.jobs.new_job import RUN_AT_MAX_S, NewJob
from relay.ingress.submission import Terms

NOW_MS = 1_763_760_000_000  # 2025-11-21T21:20:00Z
DAY_S = 86_400.0


def terms(**options: Any) -> Terms:
    return NewJob.of({"endpoint": "/v1/messages", **options}).terms(NOW_MS, DAY_S)


def test_a_job_is_finished_at_normal_priority_unless_it_says_otherwise() -> None:
    assert terms() == Terms("finish")


def test_all_a_job_may_say() -> None:
    assert terms(
        metadata={"run": "1"},
        priority="low",
        run_at="2025-11-21T22:20:00+00:30",
        expires_in=60,
        on_disconnect="cancel",
        webhook="https://example.com:8443/hook?x=1",
    ) == Terms("cancel", {"run": "1"}, "low", NOW_MS + 1_800_000, 60, "https://example.com:8443/hook?x=1")


@pytest.mark.parametrize("text", ["2025-11-21T21:20:00.000Z", "2025-11-21t21:19:59.999999999z", "1970-01-01T00:00:00Z"])
def test_a_time_that_has_passed_means_now(text: str) -> None:
    assert terms(run_at=text).run_at_ms == 0


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("endpoint", "/v1/responses"),
        ("endpoint", None),
        ("metadata", {str(n): "" for n in range(17)}),
        ("metadata", {"": "no key"}),
        ("metadata", {"k" * 65: ""}),
        ("metadata", {"k": "v" * 513}),
        ("metadata", {"k": 1}),
        ("metadata", [["k", "v"]]),
        ("metadata", None),
        ("priority", "urgent"),
        ("run_at", 1763760000),
        ("run_at", "1763760000"),
        ("run_at", "tomorrow"),
        ("run_at", "2025-11-21"),
        ("run_at", "2025-11-21T21:20:00"),
        ("run_at", "2025-13-21T21:20:00Z"),
        ("run_at", "2025-11-21T21:20:00+99:00"),
        ("run_at", "9999-12-31T23:59:59-23:59"),
        ("run_at", "2025-11-28T21:20:01Z"),
        ("expires_in", 0),
        ("expires_in", -5),
        ("expires_in", "60"),
        ("expires_in", 1.5),
        ("expires_in", True),
        ("expires_in", 86_401),
        ("on_disconnect", "wait"),
        ("webhook", "http://example.com/"),
        ("webhook", "https://"),
        ("webhook", "https://user:secret@example.com/"),
        ("webhook", "https://example.com/#part"),
        ("webhook", "https://example.com:99999/"),
        ("webhook", "https://[::1/"),
        ("webhook", "https://exämple.com/"),
        ("webhook", "https://example.com/a b"),
        ("webhook", "https://example.com/" + "x" * 2048),
        ("cache", "always"),
    ],
)
def test_what_is_wrong_is_named(member: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        terms(**{member: value})
    assert refused.value.message.startswith(member)
    assert (refused.value.param or "").split(".")[0] == member
    assert "secret" not in refused.value.message


def test_a_job_may_wait_a_week_for_its_time() -> None:
    assert terms(run_at="2025-11-28T21:20:00Z").run_at_ms == NOW_MS + RUN_AT_MAX_S * 1000
