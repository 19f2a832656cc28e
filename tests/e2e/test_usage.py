"""One usage record for every provider call, however it ended, with the numbers the provider gave."""

from __future__ import annotations

import json
from typing import Any

import pytest
from redis.asyncio import Redis

from relay.broker.usage_stream import FIELDS
from tests.support.badprovider import BadProvider
from tests.support.fixtures import Transcript, response, transcripts
from tests.support.oracles import usage_of
from tests.support.relay import Relay, message
from tests.support.upstream import answer, replay
from tests.support.wait import wait_until

MODEL = "claude-sonnet-4-6"


async def record_of(redis: Redis, job_id: str | None) -> dict[str, str]:
    [record] = await wait_until(lambda: usage_of(redis, job_id or ""))
    return record  # type: ignore[no-any-return]


def buckets(usage: dict[str, Any] | None) -> dict[str, str]:
    """The five buckets of a record, from a fixture's expectation; nothing reported is the empty string."""
    if usage is None:
        return dict.fromkeys(BUCKETS, "")
    by_ttl = usage["cache_write_by_ttl"]
    written_5m = by_ttl.get("5m", 0) if by_ttl else usage["cache_write_tokens"]
    values = (
        usage["input_tokens"],
        usage["cache_read_tokens"],
        written_5m,
        by_ttl.get("1h", 0),
        usage["output_tokens"],
    )
    return dict(zip(BUCKETS, map(str, values), strict=True))


BUCKETS = ("input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "output_tokens")


@pytest.mark.parametrize("recorded", transcripts("anthropic"), ids=lambda each: each.name)
async def test_the_record_of_a_recorded_stream(
    recorded: Transcript, relay: Relay, upstream: BadProvider, redis: Redis
) -> None:
    upstream.script = replay(recorded.stream)
    body = message(MODEL, stream=True)
    for ttl in recorded.expected.get("request_context", {}).get("marker_ttls", []):
        mark = {"type": "ephemeral", "ttl": ttl}
        body["system"] = [{"type": "text", "text": "x", "cache_control": mark}]
    async with await relay.stream(body) as reader:
        await reader.rest()
    record = await record_of(redis, reader.job_id)
    expected = recorded.expected["usage"]
    assert {name: record[name] for name in BUCKETS} == buckets(expected)
    assert record["kind"] == ("final" if expected and expected["final"] else "partial")
    assert record["outcome"] == recorded.expected["outcome"]


async def test_a_record_says_who_asked_what_for_and_how_long_it_took(
    relay: Relay, upstream: BadProvider, redis: Redis
) -> None:
    upstream.script = answer(response("anthropic", "cache-mixed-ttl"))
    answered = await relay.post("/v1/messages", message(f"anthropic/{MODEL}"))
    record = await record_of(redis, answered.headers.get("x-relay-job-id"))
    assert set(record) == set(FIELDS)
    assert record["call"] == upstream.calls[0].id == f"{record['job']}:{record['generation']}"
    said = {"v": "1", "attempt": "1", "surface": "anthropic", "endpoint": "messages", "provider": "anthropic"}
    said |= {"model": f"anthropic/{MODEL}", "target": MODEL, "stream": "0", "status": "200"}
    said |= {"kind": "final", "outcome": "completed", "error": "", "tenant": "default"}
    assert said.items() <= record.items()
    assert record["key_id"]
    assert int(record["queue_ms"]) + int(record["first_event_ms"]) <= int(record["total_ms"]) + 1
    assert int(record["started_ms"]) <= int(record["ended_ms"])
    assert json.loads(record["usage_last"]) == json.loads(response("anthropic", "cache-mixed-ttl"))["usage"]


@pytest.mark.parametrize(
    ("mode", "kind", "outcome"),
    [
        ("", "final", "completed"),
        ("529", "final", "error"),
        ("cut_clean:3", "partial", "truncated"),
        ("error_mid:3", "partial", "error"),
        ("rst_accept", "unknown", "error"),
        ("usage_missing", "partial", "completed"),
    ],
)
async def test_every_way_to_end_leaves_one_record(
    mode: str, kind: str, outcome: str, relay: Relay, upstream: BadProvider, redis: Redis
) -> None:
    answered = await relay.post("/v1/messages", message(f"claude-x@{mode}", stream=True))
    record = await record_of(redis, answered.headers.get("x-relay-job-id"))
    assert (record["kind"], record["outcome"]) == (kind, outcome)


async def test_a_client_that_leaves_is_billed_for_what_was_generated(
    relay: Relay, upstream: BadProvider, redis: Redis
) -> None:
    async with await relay.stream(message("claude-x@gate:3", stream=True)) as reader:
        await reader.take(5)
    record = await record_of(redis, reader.job_id)
    assert (record["kind"], record["outcome"]) == ("partial", "cancelled")
    await wait_until(lambda: upstream.ends_of(reader.job_id))
    assert upstream.ends_of(reader.job_id)[0]["how"] == "client_gone"
