"""The usage record: flat, complete, and never a 0 for what nobody said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relay.broker.usage_stream import FIELDS, Call, Record
from relay.core.usage import Usage
from tests.broker.system import CLAUDE, make_job

STARTED_MS = make_job().created_ms + 70


def call(**known: object) -> Call:
    return replace(
        Call(make_job(), CLAUDE, generation=1_763_760_000_070, number=1, attempt=2, started_ms=STARTED_MS), **known
    )


def as_dict(record: Record) -> dict[str, str | int]:
    return dict(zip(record[::2], record[1::2], strict=True))


def test_a_record_has_the_documented_fields_in_the_documented_order() -> None:
    for usage in (None, Usage()):
        assert call(usage=usage).record("final", "completed")[::2] == [*FIELDS]


def test_a_draft_is_the_beginning_of_its_record() -> None:
    one = call(status=200)
    assert one.record("partial", "interrupted")[: len(one.draft())] == one.draft()


def test_a_record_tells_whose_call_it_was_and_when() -> None:
    job = make_job(model="fast", stream=True)
    record = as_dict(call(job=job, first_event_ms=STARTED_MS + 300, status=200).record("final", "completed"))
    expected = {
        "v": 1,
        "call": f"{job.id}:1763760000070",
        "job": job.id,
        "generation": 1_763_760_000_070,
        "attempt": 2,
        "tenant": "acme",
        "key_id": "rk_1",
        "surface": "anthropic",
        "endpoint": "messages",
        "provider": "anthropic",
        "model": "fast",
        "target": "claude-sonnet-4-6",
        "stream": 1,
        "started_ms": STARTED_MS,
        "queue_ms": 70,
        "first_event_ms": 300,
        "status": 200,
        "kind": "final",
        "outcome": "completed",
        "error": "",
    }
    assert expected.items() <= record.items()
    assert record["total_ms"] == int(record["ended_ms"]) - job.created_ms


def test_tokens_are_told_by_bucket() -> None:
    usage = Usage(
        input_tokens=10,
        cache_read_tokens=20,
        cache_write_by_ttl={"5m": 30, "1h": 40},
        output_tokens=50,
        reasoning_tokens=5,
        service_tier="standard",
        first_raw={"input_tokens": 10},
        last_raw={"output_tokens": 50},
    )
    record = as_dict(call(usage=usage, stop_reason="end_turn").record("final", "completed"))
    assert {
        "input_tokens": 10,
        "cache_read_tokens": 20,
        "cache_write_5m_tokens": 30,
        "cache_write_1h_tokens": 40,
        "output_tokens": 50,
        "reasoning_tokens": 5,
        "service_tier": "standard",
        "stop_reason": "end_turn",
        "usage_first": '{"input_tokens":10}',
        "usage_last": '{"output_tokens":50}',
    }.items() <= record.items()


def test_what_nobody_reported_is_empty_and_not_0() -> None:
    record = as_dict(call().record("unknown", "worker_lost"))
    silent = [name for name in FIELDS if name.endswith("_tokens") or name.startswith("usage_")]
    assert {record[name] for name in (*silent, "status", "first_event_ms", "stop_reason", "service_tier")} == {""}


def test_a_reported_0_is_a_0() -> None:
    record = as_dict(call(usage=Usage()).record("final", "completed"))
    assert (record["input_tokens"], record["output_tokens"], record["reasoning_tokens"]) == (0, 0, "")


def test_clocks_that_differ_give_no_negative_times() -> None:
    job = make_job(created_ms=2**42)  # the ingress' clock is ahead
    record = as_dict(call(job=job, first_event_ms=STARTED_MS - 5).record("final", "completed"))
    assert (record["queue_ms"], record["first_event_ms"], record["total_ms"]) == (0, 0, 0)


@pytest.mark.parametrize("raw", [{"output_tokens": 2**80}, {"a": [1, {"b": None}]}, {"é": "\ud83d\ude00"}])
def test_a_providers_own_numbers_are_kept_whatever_they_are(raw: dict[str, object]) -> None:
    record = as_dict(call(usage=Usage(first_raw=raw, last_raw=raw)).record("final", "completed"))
    assert record["usage_first"] == record["usage_last"] != ""


def test_a_late_report_is_version_2_of_the_same_call() -> None:
    one = call()
    first, late = (as_dict(one.record("final", "completed", version=version)) for version in (1, 2))
    assert (first["v"], late["v"]) == (1, 2)
    assert first["call"] == late["call"]
