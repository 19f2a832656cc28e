"""A made-up past: usage records of some days, the same every time, as the stream would have delivered them.

Three applications with habits of their own: one that reads its cache, one that writes what nobody reads, one without
breakpoints; and a model that no price table knows.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

from relay.broker.usage_reader import Entry
from tests.ledger.records import NO_TOKENS, record

HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Habit:
    """How an application calls: prompts of so many tokens, of which so many are marked, and how often they are read."""

    app: str
    key_id: str
    provider: str
    model: str
    weight: int
    prompt: int
    marked: int
    hits: float
    output: int


HABITS = (
    Habit("Support desk", "5d1c0a11", "anthropic", "claude-sonnet-4-6", 46, 9200, 8400, 0.93, 420),
    Habit("Code review", "77aa02f4", "anthropic", "claude-opus-4-6", 14, 31000, 28500, 0.78, 1350),
    Habit("Nightly digest", "c09e3b52", "anthropic", "claude-haiku-4-5", 22, 5200, 4800, 0.0, 240),
    Habit("Search", "c09e3b52", "openai", "gpt-5", 24, 1900, 0, 0.0, 160),
    Habit("Translations", "e4180d6f", "house", "house-70b", 6, 900, 0, 0.0, 600),
)


def history(until_ms: int, hours: int, calls_an_hour: int, tenant: str = "default") -> Iterator[Entry]:
    """Calls up to a moment, oldest first; fewer at night."""
    chance = random.Random(20261122)
    weights = [habit.weight for habit in HABITS]
    number = 0
    for hour in range(hours, 0, -1):
        of_day = (until_ms // HOUR_MS - hour) % 24
        busy = 0.35 + 0.65 * max(0.0, 1 - abs(of_day - 13) / 8)
        began = [until_ms - hour * HOUR_MS + chance.randrange(HOUR_MS) for _ in range(round(calls_an_hour * busy))]
        for started_ms in sorted(began):
            number += 1
            habit = chance.choices(HABITS, weights)[0]
            yield _call(number, started_ms, habit, tenant, chance)


def _call(number: int, started_ms: int, habit: Habit, tenant: str, chance: random.Random) -> Entry:
    first_ms = round(chance.lognormvariate(6.2, 0.45))
    total_ms = first_ms + habit.output * chance.randrange(8, 22)
    job = f"0-{started_ms:012x}{number:020x}"
    facts = {
        **{"call": f"{job}:{started_ms}", "job": job, "generation": started_ms, "started_ms": started_ms},
        **{"tenant": tenant, "app": habit.app, "key_id": habit.key_id},
        **{"provider": habit.provider, "model": habit.model, "target": habit.model},
        **{"surface": "openai" if habit.provider == "openai" else "anthropic", "queue_ms": chance.randrange(2, 30)},
        **{"first_event_ms": first_ms, "total_ms": total_ms, "ended_ms": started_ms + total_ms},
    }
    if habit.marked:
        facts["fingerprint"] = _fingerprint(habit, started_ms)
    if chance.random() < 0.012:
        return Entry(f"{number}-0", record(**facts | NO_TOKENS | {"outcome": "error", "error": "overloaded_error"}))
    return Entry(f"{number}-0", record(**facts | _tokens(habit, chance)))


def _fingerprint(habit: Habit, started_ms: int) -> str:
    """Of a marked system prompt, which has the time in it where nobody reads what was written."""
    said = f"{habit.app} {started_ms if not habit.hits else ''}"
    digest = blake2b(said.encode(), digest_size=8).hexdigest()[:11]
    return f"headers:0:aAbBcCdDeE0 system.0:{4 * habit.marked}:{digest}:5m messages.0:{4 * habit.prompt}:{digest[::-1]}"


def _tokens(habit: Habit, chance: random.Random) -> dict[str, int]:
    marked = round(habit.marked * chance.uniform(0.85, 1.1))
    read = marked if chance.random() < habit.hits else 0
    return {
        "input_tokens": round((habit.prompt - habit.marked) * chance.uniform(0.5, 1.6)),
        "cache_read_tokens": read,
        "cache_write_5m_tokens": marked - read,
        "cache_write_1h_tokens": 0,
        "output_tokens": round(habit.output * chance.uniform(0.4, 1.7)),
    }
