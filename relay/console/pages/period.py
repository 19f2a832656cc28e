"""The periods a page can be about, and which of them somebody chose."""

from __future__ import annotations

import time
from typing import Final, NamedTuple

from relay.core.errors import InvalidRequest
from relay.ledger.queries import Step

HOUR_MS: Final = 3_600_000


class Period(NamedTuple):
    name: str
    words: str
    hours: int
    step: Step

    def span(self, now_ms: int) -> tuple[int, int]:
        return now_ms - self.hours * HOUR_MS, now_ms

    def span_before(self, now_ms: int) -> tuple[int, int]:
        return self.span(now_ms - self.hours * HOUR_MS)


PERIODS: Final = (
    Period("24h", "24 hours", 24, "hour"),
    Period("7d", "7 days", 7 * 24, "hour"),
    Period("30d", "30 days", 30 * 24, "day"),
    Period("90d", "90 days", 90 * 24, "day"),
)


def period(name: str) -> Period:
    """Raises ``InvalidRequest``."""
    for each in PERIODS:
        if each.name == (name or PERIODS[0].name):
            return each
    raise InvalidRequest(f"period: {name[:40]!r} is none of {', '.join(each.name for each in PERIODS)}", param="period")


def now_ms() -> int:
    return time.time_ns() // 1_000_000
