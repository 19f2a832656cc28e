"""Usage records as the stream delivers them, and what a database made of them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, Table, select

from relay.broker.usage_reader import Entry
from relay.ledger.tables import DIMENSIONS, HOUR_MS, MEASURES, calls, daily, rollups

STARTED_MS = 1_795_219_200_000  # 2026-11-21 00:00 UTC

# Every documented field, of a call that read 1800 tokens from the cache and wrote 148 and 100.
RECORD: dict[str, str | int] = {
    "v": 1,
    "call": "0-job1:7",
    "job": "0-job1",
    "generation": 7,
    "attempt": 1,
    "tenant": "acme",
    "key_id": "rk_1",
    "app": "chat",
    "user": "u1",
    "metadata": '{"a":1}',
    "log": "",
    "surface": "anthropic",
    "endpoint": "messages",
    "provider": "anthropic",
    "model": "fast",
    "target": "claude-opus-5-5",
    "stream": 1,
    "started_ms": STARTED_MS,
    "queue_ms": 12,
    "first_event_ms": 340,
    "status": 200,
    "input_tokens": 2048,
    "cache_read_tokens": 1800,
    "cache_write_5m_tokens": 148,
    "cache_write_1h_tokens": 100,
    "output_tokens": 503,
    "reasoning_tokens": "",
    "service_tier": "standard",
    "cache_control": "",
    "usage_first": '{"input_tokens":2048}',
    "usage_last": '{"output_tokens":503}',
    "stop_reason": "end_turn",
    "cost": "",
    "cache_note": "",
    "fingerprint": "",
    "kind": "final",
    "outcome": "completed",
    "error": "",
    "total_ms": 2900,
    "ended_ms": STARTED_MS + 2888,
}
NO_TOKENS = dict.fromkeys([name for name in RECORD if name.endswith("_tokens") or name.startswith("usage_")], "")


def record(**facts: Any) -> dict[str, str]:
    return {name: str(value) for name, value in (RECORD | facts).items()}


def entry(number: int = 1, **facts: Any) -> Entry:
    """The call of that number, in a batch of the stream."""
    job = f"0-job{number}"
    return Entry(f"{number}-0", record(**{"call": f"{job}:7", "job": job} | facts))


def stored_calls(engine: Engine) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(select(calls).order_by(calls.c.call)).mappings()]


Summed = dict[tuple[Any, ...], dict[str, int]]


def stored_sums(engine: Engine, table: Table = rollups, period: str = "hour") -> Summed:
    """The sums of rollups or days, by period and dimensions; those of nothing are left out."""
    with engine.connect() as connection:
        found = connection.execute(select(table)).mappings().all()
    return {
        (row[period], *(row[name] for name in DIMENSIONS)): {name: row[name] for name in MEASURES}
        for row in found
        if any(row[name] for name in MEASURES)
    }


def check_sums(engine: Engine) -> None:
    """Rollups and days are what the rows add up to."""
    rows = stored_calls(engine)
    assert stored_sums(engine) == summed(rows, HOUR_MS)
    assert stored_sums(engine, daily, "day") == summed(rows, 24 * HOUR_MS)


def summed(rows: list[dict[str, Any]], size_ms: int) -> Summed:
    """What the sums have to be, added up in the plainest way."""
    sums: Summed = {}
    for row in rows:
        group = (row["started_ms"] // size_ms, *(row[name] for name in DIMENSIONS))
        counts = {
            "calls": 1,
            "unreported": int(row["input_tokens"] is None),
            "unpriced": int(row["input_tokens"] is not None and row["cost"] is None),
            "first_events": int(row["first_event_ms"] is not None),
        }
        into = sums.setdefault(group, dict.fromkeys(MEASURES, 0))
        for name in MEASURES:
            into[name] += counts[name] if name in counts else row[name] or 0
    return sums
