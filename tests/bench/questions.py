"""What is asked of the usage API at a million calls: paths, each a little different every time it is asked."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlencode

from tests.bench.past import HABITS, RARELY, USERS, job_of

HOUR_S = 3600


@dataclass(slots=True)
class Asking:
    """Who asks: dice, the period there are calls of (Unix seconds), and the cursor of the page before."""

    dice: random.Random
    since_s: int
    until_s: int
    calls: int
    cursors: dict[str, str] = field(default_factory=dict)

    @property
    def app(self) -> str:
        return self.dice.choice(HABITS[:-1]).app

    @property
    def tenant(self) -> str:
        return self.dice.choice(HABITS).tenant

    @property
    def number(self) -> int:
        return self.dice.randrange(self.calls)

    def last(self, hours: float) -> dict[str, str]:
        """A period up to some odd second of the last hours."""
        return self.span(self.until_s - self.dice.randrange(HOUR_S), hours)

    def somewhere(self, hours: float) -> dict[str, str]:
        return self.span(self.dice.randrange(self.since_s, self.until_s), hours)

    def span(self, until_s: int, hours: float) -> dict[str, str]:
        return {"since": _moment(until_s - hours * HOUR_S), "until": _moment(until_s)}


Question = Callable[[Asking], str]


def _usage(where: str, **facts: str | int) -> str:
    return f"/v1/usage{where}?{urlencode(facts)}"


def _pages(name: str, **facts: str | int) -> Question:
    """Page after page, as somebody who scrolls."""
    return lambda asking: _usage("", **facts, **({"cursor": asking.cursors[name]} if name in asking.cursors else {}))


QUESTIONS: Mapping[str, Question] = {
    "rows: the newest 50": lambda asking: _usage("", limit=50),
    "rows: page after page": _pages("rows: page after page"),
    "rows: 1,000 a page": _pages("rows: 1,000 a page", limit=1000),
    "rows: of an app": lambda asking: _usage("", app=asking.app),
    "rows: of an app that calls rarely": lambda asking: _usage("", app=RARELY.app),
    "rows: of a tenant, page after page": _pages("rows: of a tenant, page after page", tenant=HABITS[3].tenant),
    "rows: errors of a model": lambda asking: _usage("", model="claude-opus-5-5", outcome="error"),
    "rows: cache writes in some week": lambda asking: _usage("", cache="write", **asking.somewhere(168)),
    "rows: of a job": lambda asking: _usage("", job=job_of(asking.number)),
    "rows: of a user": lambda asking: _usage("", user=f"user{asking.dice.randrange(USERS)}"),
    "rows: of an app nobody has": lambda asking: _usage("", app=f"none {asking.number}"),
    "summary: all time": lambda asking: _usage("/summary"),
    "summary: all time, by model": lambda asking: _usage("/summary", by="model"),
    "summary: a week, by app": lambda asking: _usage("/summary", by="app", **asking.last(168)),
    "summary: a day of a tenant, by key": lambda asking: _usage(
        "/summary", by="key_id", tenant=asking.tenant, **asking.last(24)
    ),
    "summary: 30 days, by day and model": lambda asking: _usage("/summary", **asking.last(720)) + "&by=day&by=model",
    "timeline: a day by the hour": lambda asking: _usage("/timeline", step="hour", **asking.last(24)),
    "timeline: a week by the hour, of an app": lambda asking: _usage(
        "/timeline", step="hour", app=asking.app, **asking.last(168)
    ),
    "timeline: 30 days by the hour": lambda asking: _usage("/timeline", step="hour", **asking.last(720)),
    "timeline: 30 days by the day": lambda asking: _usage("/timeline", step="day", **asking.last(720)),
}


def _moment(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat().replace("+00:00", "Z")
