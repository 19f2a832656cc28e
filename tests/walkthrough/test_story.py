"""The relay's story, in the order a newcomer meets it.  Read it from the top; each test is one thing it can do.

``make up`` has been typed: a Redis, an ingress, a worker and the sandbox run. ``SANDBOX(…)`` in a prompt tells the
sandbox how to answer; real providers ignore it.
"""

from __future__ import annotations

import os
import re
import signal
from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic
from redis.asyncio import Redis

from tests.support.oracles import end_of, usage_of
from tests.support.wait import wait_until
from tests.walkthrough.conftest import Up

MODEL = "claude-sonnet-4-6"
LONG_PROMPT = "You are a careful reader. " * 500  # the sandbox, like its models, caches from 1,024 tokens on


def asking(text: str) -> Any:
    return {"model": MODEL, "max_tokens": 200, "messages": [{"role": "user", "content": text}]}


async def test_1_one_command_starts_it_all(up: Up) -> None:
    assert up.url in up.process.output
    assert up.key in up.process.output
    assert (await up.get("/readyz")).status == 200


async def test_2_an_application_changes_nothing_but_the_base_url(client: AsyncAnthropic) -> None:
    answer = await client.messages.create(**asking("Say hello."))
    assert answer.content[0].type == "text"
    assert answer.usage.input_tokens > 0


async def test_3_a_stream_goes_through_the_queue_and_arrives_as_it_is_written(client: AsyncAnthropic) -> None:
    async with client.messages.stream(**asking("SANDBOX(events=30) Say hello.")) as stream:
        words = [word async for word in stream.text_stream]
    assert len(words) == 30


async def test_4_the_second_call_reads_what_the_first_wrote_into_the_prompt_cache(client: AsyncAnthropic) -> None:
    system: Any = [{"type": "text", "text": LONG_PROMPT, "cache_control": {"type": "ephemeral"}}]
    first = await client.messages.create(system=system, **asking("What is this about?"))
    second = await client.messages.create(system=system, **asking("What is this about?"))
    assert first.usage.cache_creation_input_tokens
    assert second.usage.cache_read_input_tokens == first.usage.cache_creation_input_tokens


async def test_5_every_call_is_a_job_that_can_be_looked_at(up: Up, client: AsyncAnthropic) -> None:
    raw = await client.messages.with_raw_response.create(**asking("Say hello."))
    job = (await up.get(f"/v1/jobs/{raw.headers['x-relay-job-id']}")).json
    assert (job["status"], job["attempt"], job["http_status"]) == ("completed", 1, 200)
    assert job["timings"]["created_ms"] <= job["timings"]["ended_ms"]


async def begin(client: AsyncAnthropic, events: int, gap_ms: int) -> tuple[str, Any]:
    """Start a stream that takes a while; its job, and the open answer."""
    body = asking(f"SANDBOX(events={events},gap_ms={gap_ms}) Tell me a story.")
    answer = await client.messages.create(stream=True, **body)
    return answer.response.headers["x-relay-job-id"], answer


async def test_6_a_second_reader_joins_late_and_misses_nothing(up: Up, client: AsyncAnthropic) -> None:
    job_id, answer = await begin(client, events=30, gap_ms=20)
    async with await up.events(job_id) as second:
        seen_by_second = await second.rest()
    seen_by_first = [event async for event in answer]
    assert [event.name for event in seen_by_second if event.name != "ping"] == [event.type for event in seen_by_first]


async def test_7_a_reader_that_reloads_goes_on_where_it_was(up: Up, client: AsyncAnthropic) -> None:
    job_id, answer = await begin(client, events=30, gap_ms=20)
    async with await up.events(job_id) as page:
        before = await page.take(10)
    async with await up.events(job_id, after=before[-1].id) as reloaded:
        after = await reloaded.rest()
    async with await up.events(job_id) as whole:
        assert before + after == await whole.rest()
    await answer.close()


async def test_8_a_job_is_cancelled_and_says_so(up: Up, client: AsyncAnthropic) -> None:
    job_id, answer = await begin(client, events=1000, gap_ms=20)
    await anext(answer)
    await up.post(f"/v1/jobs/{job_id}/cancel")
    with pytest.raises(anthropic.APIStatusError, match="cancel"):
        [event async for event in answer]
    assert (await up.get(f"/v1/jobs/{job_id}")).json["status"] == "cancelled"


async def test_9_a_killed_worker_ends_its_streams_honestly_and_another_takes_over(
    up: Up, client: AsyncAnthropic
) -> None:
    job_id, answer = await begin(client, events=1000, gap_ms=20)
    await anext(answer)
    job = (await up.get(f"/v1/jobs/{job_id}")).json
    os.kill(job["worker"]["pid"], signal.SIGKILL)
    async with await up.events(job_id) as reader:
        assert end_of(await reader.rest()) == "interrupted"
    with pytest.raises(anthropic.APIStatusError):
        [event async for event in answer]
    assert (await client.messages.create(**asking("Are you there?"))).content


async def test_10_every_call_leaves_one_record_of_what_it_cost(up: Up, client: AsyncAnthropic, redis: Redis) -> None:
    raw = await client.messages.with_raw_response.create(**asking("Say hello."))
    answer = await raw.parse()
    [record] = await wait_until(lambda: usage_of(redis, raw.headers["x-relay-job-id"]))
    assert (record["kind"], record["outcome"], record["model"]) == ("final", "completed", MODEL)
    assert int(record["input_tokens"]) == answer.usage.input_tokens
    assert int(record["output_tokens"]) == answer.usage.output_tokens


async def test_11_keys_are_made_listed_and_revoked(up: Up) -> None:
    made = await up.command("keys", "create", "--name", "shop", "--tenant", "shop")
    key = re.search(r"rk_[0-9a-f_]+", made)
    assert key
    async with AsyncAnthropic(base_url=up.url, api_key=key[0], max_retries=0) as shop:
        assert (await shop.messages.create(**asking("Hello."))).content
        assert "shop" in await up.command("keys", "list")
        await up.command("keys", "revoke", key[0].split("_")[1])

        async def is_out() -> bool:
            try:
                await shop.messages.create(**asking("Hello."))
            except anthropic.AuthenticationError:
                return True
            return False

        await wait_until(is_out, 10, what="the revoked key is out", every_s=0.2)
