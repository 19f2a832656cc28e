"""Budgets over a running relay: two ingresses that must agree, SDKs that must give up, workers that die."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anthropic
import openai
import orjson
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from redis.asyncio import Redis

from relay.broker.api_keys import ApiKeys
from relay.broker.budgets import Budgets
from relay.broker.connections import Link, address
from relay.core.budget import parse
from tests.support import http
from tests.support.badprovider import BadProvider
from tests.support.oracles import KEYS
from tests.support.processes import Process, RedisServer
from tests.support.relay import Relay, message
from tests.support.sse import SseReader
from tests.support.wait import wait_until

CLAUDE, GPT = "claude-sonnet-4-6", "gpt-4o-mini"
TEXTS = 20
# What the double says of a call: 11 fresh, 7 written, 5 read, and one token out per text event.
TOKENS = 11 + 7 + 5 + TEXTS
COST = 11 * 3_000 + 7 * 3_750 + 5 * 300 + TEXTS * 15_000

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Customer:
    """A tenant with a key of its own, and its budgets."""

    relay: Relay
    budgets: Budgets
    tenant: str
    key: str
    key_id: str

    @property
    def holder(self) -> str:
        return f"tenant:{self.tenant}"

    @property
    def headers(self) -> list[tuple[str, str]]:
        return [("x-api-key", self.key), ("content-type", "application/json")]

    async def may_spend(self, *bounds: str, holder: str = "") -> None:
        await self.budgets.set(holder or self.holder, parse(bounds))

    async def call(
        self, path: str = "/v1/messages", body: Any = None, *, ingress: Process | None = None, **headers: str
    ) -> http.Response:
        port = self.relay.at(ingress) if ingress else self.relay.port
        lines = [*self.headers, *headers.items()]
        body = body or message(CLAUDE, max_tokens=TEXTS)
        return await http.request(port, "POST", path, lines, orjson.dumps(body))

    async def spent(self) -> list[int]:
        [account] = [each for each in await self.budgets.accounts() if each.holder == self.holder]
        return [standing.spent for standing in account.standings]


@asynccontextmanager
async def customer_of(relay: Relay, redis: Redis, url: str) -> AsyncIterator[Customer]:
    """A new one, whose budgets go with it."""
    link = Link(address(url), "test-budgets")
    tenant = f"customer-{next(_numbers)}"
    record, key = await ApiKeys(redis).create("made by a test", tenant)
    customer = Customer(relay, Budgets(link, KEYS), tenant, key, record.id)
    try:
        yield customer
    finally:
        for holder in (customer.holder, f"key:{record.id}"):
            await customer.budgets.remove(holder)
        link.close()


@pytest.fixture
async def customer(relay: Relay, redis: Redis, redis_server: RedisServer) -> AsyncIterator[Customer]:
    async with customer_of(relay, redis, redis_server.url) as customer:
        yield customer


# --- right within one window


async def test_after_the_bound_nobody_is_let_in_and_what_is_beyond_was_in_flight(
    relay: Relay, customer: Customer, upstream: BadProvider
) -> None:
    callers, allowed = 24, 100
    await customer.may_spend(f"{allowed * TOKENS} tokens a day")

    async def call_until_refused(ingress: Process) -> int:
        for served in itertools.count():
            answer = await customer.call(ingress=ingress)
            if answer.status == 429:
                return served
            assert answer.status == 200, answer
        raise AssertionError

    ingresses = itertools.cycle(relay.ingresses)
    served = sum(await asyncio.gather(*[call_until_refused(next(ingresses)) for _ in range(callers)]))
    assert allowed <= served < allowed + callers
    assert len(upstream.calls) == served
    assert await customer.spent() == [served * TOKENS]
    for ingress in relay.ingresses:
        assert (await customer.call(ingress=ingress)).status == 429


async def test_what_was_spent_in_money_is_what_the_calls_cost(customer: Customer) -> None:
    await customer.may_spend("1 USD a day", "1M tokens a month")
    for _ in range(3):
        await customer.call()
    assert await customer.spent() == [3 * COST, 3 * TOKENS]


async def test_without_a_budget_the_record_says_nothing_of_the_cost(
    customer: Customer, redis: Redis, relay: Relay
) -> None:
    async def cost_of(answer: http.Response) -> str:
        entries: Any = await redis.xrange(KEYS.usage)
        job_id = answer.headers.get("x-relay-job-id")
        return next(record["cost"] for _, record in entries if record["job"] == job_id)

    assert await cost_of(await customer.call()) == ""
    await customer.may_spend("1 USD a day")
    assert await cost_of(await customer.call()) == str(COST)


async def test_a_key_and_its_tenant_have_budgets_of_their_own(customer: Customer, redis: Redis) -> None:
    await customer.may_spend("1 token a day", holder=f"key:{customer.key_id}")
    assert (await customer.call()).status == 200
    refused = await customer.call()
    assert (refused.status, f"API key {customer.key_id}" in refused.json["error"]["message"]) == (429, True)
    _, other_key = await ApiKeys(redis).create("another key", customer.tenant)
    other = replace(customer, key=other_key)
    assert (await other.call()).status == 200
    await customer.may_spend("1 token a month")
    assert (await other.call()).status == 200
    refused = await other.call()
    assert (refused.status, f"tenant {customer.tenant}" in refused.json["error"]["message"]) == (429, True)


# --- what clients are told


@pytest.fixture
async def spent_up(customer: Customer) -> Customer:
    await customer.may_spend("1 token a day")
    assert (await customer.call()).status == 200
    return customer


async def test_a_refusal_says_until_when_and_that_to_try_again_is_no_use(spent_up: Customer) -> None:
    refused = await spent_up.call()
    assert refused.headers.get("x-should-retry") == "false"
    assert 0 < int(refused.headers.get("retry-after") or 0) <= 86_400
    message = refused.json["error"]["message"]
    assert f"tenant {spent_up.tenant} has spent {TOKENS} tokens of 1 tokens a day" in message
    assert "begins anew at" in message


async def test_the_anthropic_sdk_gives_up_at_once(spent_up: Customer) -> None:
    statuses, hooks = noting_statuses()
    async with anthropic.DefaultAsyncHttpxClient(event_hooks=hooks) as transport:
        client = AsyncAnthropic(base_url=spent_up.relay.url, api_key=spent_up.key, http_client=transport)
        with pytest.raises(anthropic.RateLimitError) as refused:
            await client.messages.create(**message(CLAUDE))
    body: Any = refused.value.body
    assert body["error"]["type"] == "rate_limit_error"
    assert body["error"]["details"]["error_code"] == "enforced_spend_limit_reached"
    assert statuses == [429]


async def test_the_openai_sdk_gives_up_at_once(spent_up: Customer) -> None:
    statuses, hooks = noting_statuses()
    async with openai.DefaultAsyncHttpxClient(event_hooks=hooks) as transport:
        client = AsyncOpenAI(base_url=f"{spent_up.relay.url}/v1", api_key=spent_up.key, http_client=transport)
        with pytest.raises(openai.RateLimitError) as refused:
            await client.chat.completions.create(model=GPT, messages=[{"role": "user", "content": "Hello"}])
    assert (refused.value.type, refused.value.code) == ("insufficient_quota", "insufficient_quota")
    assert statuses == [429]


def noting_statuses() -> tuple[list[int], dict[str, Any]]:
    """The status of each answer an SDK gets, and the hooks of its HTTP client that note them."""
    statuses: list[int] = []

    async def note(response: Any) -> None:
        statuses.append(response.status_code)

    return statuses, {"response": [note]}


async def test_jobs_are_refused_as_calls_are(spent_up: Customer) -> None:
    refused = await spent_up.call("/v1/jobs", {"endpoint": "/v1/messages", "body": message(CLAUDE)})
    assert (refused.status, refused.json["code"]) == (429, "budget_exceeded")
    assert refused.headers.get("x-should-retry") == "false"
    refused = await spent_up.call(prefer="respond-async")
    assert (refused.status, refused.json["error"]["type"]) == (429, "rate_limit_error")


async def test_an_item_of_a_batch_gets_the_error_as_its_line(spent_up: Customer) -> None:
    requests: Any = [{"custom_id": name, "params": message(CLAUDE)} for name in ("one", "two")]
    async with AsyncAnthropic(base_url=spent_up.relay.url, api_key=spent_up.key) as client:
        batch = await client.messages.batches.create(requests=requests)

        async def has_ended() -> bool:
            return (await client.messages.batches.retrieve(batch.id)).processing_status == "ended"

        await wait_until(has_ended, 30, what="the batch has ended", every_s=0.05)
        results: Any = [each.result async for each in await client.messages.batches.results(batch.id)]
    assert [result.error.error.type for result in results] == ["rate_limit_error"] * 2


async def test_past_a_soft_bound_answers_say_so(customer: Customer) -> None:
    await customer.may_spend("soft 1 token a day", "1M tokens a day")
    assert (await customer.call()).headers.get("x-relay-budget") is None
    job = {"endpoint": "/v1/messages", "body": message(CLAUDE)}
    for calls, (path, body) in enumerate(
        [
            ("/v1/messages", message(CLAUDE, max_tokens=TEXTS)),
            ("/v1/messages", message(CLAUDE, max_tokens=TEXTS, stream=True)),
            ("/v1/jobs", job),
        ],
        1,
    ):
        answer = await customer.call(path, body)
        assert answer.status in (200, 202), answer
        told = f"tenant;period=day;unit=tokens;spent={calls * TOKENS};soft=1;hard=1000000;reset="
        assert (answer.headers.get("x-relay-budget") or "").startswith(told), answer


async def test_figures_tell_how_much_is_spent(customer: Customer) -> None:
    await customer.may_spend("soft 5 tokens a month", f"{4 * TOKENS} tokens a day")
    await customer.call()
    admin = customer.relay.auth
    assert "relay_budget_spent_ratio{" not in (await http.request(customer.relay.port, "GET", "/metrics")).body.decode()
    figures = (await http.request(customer.relay.port, "GET", "/metrics", admin)).body.decode()
    labels = f'holder="{customer.holder}",period="%s",unit="tokens"'
    assert f"relay_budget_spent_ratio{{{labels % 'day'}}} 0.25\n" in figures
    assert f"relay_budget_spent_ratio{{{labels % 'month'}}} {TOKENS / 5}\n" in figures


# --- workers that die


async def test_a_call_whose_worker_is_killed_counts_once_with_what_was_known(
    mortal: Relay, own: Redis, own_redis: RedisServer, upstream: BadProvider, tmp_path: Path
) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text("[[price]]\ninput = 1\noutput = 2\n")
    async with customer_of(mortal, own, own_redis.url) as customer:
        await customer.may_spend("1 USD a day", "1M tokens a day")
        first = await mortal.add_worker(RELAY_PRICES=str(prices))
        assert (await customer.call()).status == 200  # by now the worker has its prices
        whole = [23 * 1000 + TEXTS * 2000, TOKENS]
        assert await customer.spent() == whole
        body = orjson.dumps(message(f"{CLAUDE}@gate:3", stream=True))
        async with await SseReader.open(mortal.port, "/v1/messages", customer.headers, body) as reader:
            await reader.take(3)
            await first.kill()
            await mortal.add_worker()
            assert (await reader.rest())[-1].name == "error"
        begun = [23 * 1000 + 2000, 24]  # the double begins with one token out
        assert await customer.spent() == [sum(counts) for counts in zip(whole, begun, strict=True)]
        assert len(upstream.calls) == 2
