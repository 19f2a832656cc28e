"""Budgets in Redis: who is let in, what is counted, once, and in which day and month."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import resources

import pytest
from redis.asyncio import Redis

from relay.broker.budgets import Budgets
from relay.broker.leases import Lease
from relay.broker.usage_stream import Call, Record, now_ms
from relay.core.budget import end_ms, name_of, parse
from relay.core.errors import BudgetExceeded
from relay.core.idempotency import Once
from relay.core.job import FAILED
from relay.core.usage import Usage
from tests.broker.system import (
    REQUEST,
    TENANT,
    Broker,
    EchoingLink,
    Worker,
    call_of,
    let_lease_lapse,
    make_job,
)

USAGE = Usage(input_tokens=10, cache_read_tokens=20, cache_write_by_ttl={"5m": 30, "1h": 40}, output_tokens=50)
TOKENS = 150  # all five buckets of it
COST = 7_000_000
KEY_ID = make_job().key_id
ACME = f"tenant:{TENANT}"
PRELUDE = resources.files("relay.broker").joinpath("lua/budgets.lua").read_text()


@pytest.fixture
def budgets(broker: Broker) -> Budgets:
    return Budgets(broker.link, broker.keys)


def call(lease: Lease, usage: Usage | None = USAGE, cost: int | None = COST, started_ms: int = 0) -> Call:
    """A call that has begun just now."""
    made = call_of(lease)
    made.started_ms = started_ms or now_ms()
    made.usage, made.price = usage, lambda _: cost
    return made


def record(lease: Lease, kind: str = "final", version: int = 1, **facts: int | Usage | None) -> Record:
    return call(lease, **facts).record(kind, "completed", version=version)  # type: ignore[arg-type]


async def spend(broker: Broker, worker: Worker, **facts: int | Usage | None) -> None:
    """A job from its beginning to its end."""
    await broker.submit()
    lease = await worker.start()
    await worker.finish(worker.outlet(lease), usage=record(lease, **facts))


async def spent(budgets: Budgets, holder: str = ACME) -> dict[tuple[str, str], int]:
    [account] = [account for account in await budgets.accounts() if account.holder == holder]
    return {(each.bound.period, each.bound.unit): each.spent for each in account.standings}


async def counters(redis: Redis, broker: Broker, holder: str = ACME) -> Mapping[str, str]:
    found: dict[str, str] = await redis.hgetall(broker.keys.spent(name_of("day", now_ms()), holder))
    return found


async def test_a_budget_is_kept_shown_and_removed(budgets: Budgets) -> None:
    first, second = parse(["20 USD a day"]), parse(["soft 5k tokens a month"])
    await budgets.set(ACME, parse(["1 USD a day"]))
    await budgets.set(ACME, first)
    await budgets.set("key:3fa9", second)
    assert await budgets.all() == {"key:3fa9": second, ACME: first}
    assert await budgets.remove(ACME)
    assert not await budgets.remove(ACME)
    assert [account.holder for account in await budgets.accounts()] == ["key:3fa9"]


@pytest.mark.parametrize("holder", [ACME, f"key:{KEY_ID}"])
async def test_what_a_call_cost_is_counted_and_at_the_bound_the_door_is_shut(
    broker: Broker, worker: Worker, budgets: Budgets, holder: str
) -> None:
    await budgets.set(holder, parse(["0.014 USD a day", "1M tokens a month"]))
    await spend(broker, worker)
    assert await spent(budgets, holder) == {("day", "money"): COST, ("month", "tokens"): TOKENS}
    await spend(broker, worker)
    with pytest.raises(BudgetExceeded, match=r"has spent 0\.014 USD of 0\.014 USD a day") as refused:
        await broker.submit()
    left_s = (end_ms("day", now_ms()) - now_ms()) / 1000
    assert left_s - 5 < (refused.value.retry_after_s or 0) < left_s + 5
    await broker.submit(tenant="another", key_id="rk_2")


async def test_tokens_of_all_buckets_count(broker: Broker, worker: Worker, budgets: Budgets) -> None:
    await budgets.set(ACME, parse([f"{TOKENS} tokens a day", f"{TOKENS + 1} tokens a month"]))
    await spend(broker, worker, cost=None)
    with pytest.raises(BudgetExceeded, match="150 tokens of 150 tokens a day"):
        await broker.submit()


async def test_of_two_bounds_that_are_reached_the_one_that_lasts_longest_is_told(
    broker: Broker, worker: Worker, budgets: Budgets
) -> None:
    await budgets.set(ACME, parse(["1 token a day", "2 tokens a month"]))
    await budgets.set(f"key:{KEY_ID}", parse(["3 tokens a day"]))
    await spend(broker, worker)
    with pytest.raises(BudgetExceeded, match="2 tokens a month") as refused:
        await broker.submit()
    assert (refused.value.retry_after_s or 0) * 1000 >= end_ms("month", now_ms()) - now_ms()


async def test_past_a_soft_bound_calls_go_on_and_are_told(broker: Broker, worker: Worker, budgets: Budgets) -> None:
    await budgets.set(ACME, parse(["soft 100 tokens a day", "1000 tokens a day"]))
    assert (await broker.queue.submit(make_job(), REQUEST)).past == ()
    lease = await worker.start()
    await worker.finish(worker.outlet(lease), usage=record(lease))
    [past] = (await broker.queue.submit(make_job(), REQUEST)).past
    assert (past.holder, past.spent, past.ratio, past.is_over) == (ACME, TOKENS, 0.15, False)


async def test_the_log_tells_of_each_bound_once(
    broker: Broker, worker: Worker, budgets: Budgets, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "relay.budgets")
    await budgets.set(ACME, parse(["soft 100 tokens a day", "300 tokens a day"]))
    for _ in range(2):
        await spend(broker, worker)
    for _ in range(3):
        with pytest.raises(BudgetExceeded):
            await broker.submit()
    assert [line.getMessage() for line in caplog.records] == [
        "budget: tenant acme has spent 150 tokens of its soft 100 tokens a day",
        "budget: tenant acme has spent 300 tokens of 300 tokens a day, and gets no more calls",
    ]


async def test_a_job_that_was_let_in_goes_on(broker: Broker, worker: Worker, budgets: Budgets) -> None:
    await budgets.set(ACME, parse(["1 token a day"]))
    for _ in range(3):
        await broker.submit()
    for _ in range(3):
        lease = await worker.start()
        assert await worker.finish(worker.outlet(lease), usage=record(lease)) == 1
    assert await spent(budgets) == {("day", "tokens"): 3 * TOKENS}


async def test_a_request_that_was_let_in_before_is_answered_with_its_job(
    broker: Broker, worker: Worker, budgets: Budgets
) -> None:
    once = Once("a" * 64, "f" * 64)
    await budgets.set(ACME, parse(["1 token a day"]))
    first = await broker.queue.submit(make_job(), REQUEST, once)
    lease = await worker.start()
    await worker.finish(worker.outlet(lease), usage=record(lease))
    assert (await broker.queue.submit(make_job(), REQUEST, once)).job_id == first.job_id


async def test_without_a_budget_nothing_is_marked_and_nothing_counted(
    broker: Broker, worker: Worker, redis: Redis, budgets: Budgets
) -> None:
    await budgets.set("tenant:another", parse(["1 token a day"]))
    job = await broker.submit()
    lease = await worker.start()
    assert (lease.budget, await redis.hexists(broker.keys.job(job.id), "budget")) == ("", 0)
    await worker.finish(worker.outlet(lease), usage=record(lease))
    assert not [key async for key in redis.scan_iter(match="*spent*")]


@pytest.mark.parametrize(("bound", "mark"), [("1 USD a month", "money"), ("1M tokens a day", "tokens")])
async def test_a_job_under_a_budget_is_marked_by_what_has_to_be_known(
    broker: Broker, worker: Worker, budgets: Budgets, bound: str, mark: str
) -> None:
    await budgets.set(ACME, parse([bound]))
    await budgets.set(f"key:{KEY_ID}", parse(["1M tokens a day"]))
    await broker.submit()
    assert (await worker.claim()).budget == mark


async def test_a_call_without_a_price_costs_nothing_and_is_counted_as_such(
    broker: Broker, worker: Worker, budgets: Budgets
) -> None:
    await budgets.set(ACME, parse(["1 USD a day"]))
    await spend(broker, worker, cost=None)
    await spend(broker, worker, cost=None, usage=None)  # such as an error of the provider: nothing was to be priced
    [account] = await budgets.accounts()
    assert (account.standings[0].spent, account.unpriced) == (0, 1)


@pytest.mark.parametrize("text", ["x", "7", "[7]", '[["week","money",0,1]]', '[["day","money","x",[]]]', "[[]]"])
async def test_what_somebody_spoilt_by_hand_is_no_budget(
    broker: Broker, worker: Worker, redis: Redis, budgets: Budgets, text: str
) -> None:
    await redis.hset(broker.keys.budgets, ACME, text)
    await spend(broker, worker)
    await redis.hset(broker.keys.spent(name_of("day", now_ms()), ACME), "money", "x")
    await budgets.set(ACME, parse(["1 USD a day"]))
    await spend(broker, worker)
    await redis.delete(broker.keys.spent(name_of("day", now_ms()), ACME))


async def test_a_provider_that_counts_nonsense_cannot_keep_a_job_from_ending(
    broker: Broker, worker: Worker, redis: Redis, budgets: Budgets
) -> None:
    await budgets.set(ACME, parse(["1 token a day"]))
    await redis.hset(broker.keys.spent(name_of("day", now_ms()), ACME), "tokens", str(2**63 - 1 - TOKENS))
    for _ in range(2):
        await redis.hset(broker.keys.budgets, ACME, "[]")
        await broker.submit()
    await budgets.set(ACME, parse(["1 token a day"]))
    for _ in range(2):
        lease = await worker.start()
        assert await worker.finish(worker.outlet(lease), usage=record(lease)) == 1
    with pytest.raises(BudgetExceeded):
        await broker.submit()


# --- counted once


async def test_a_call_of_a_dead_worker_counts_what_its_draft_says(
    broker: Broker, worker: Worker, redis: Redis, budgets: Budgets
) -> None:
    await budgets.set(ACME, parse(["1 USD a day", "1M tokens a day"]))
    job = await broker.submit()
    lease = await worker.claim()
    assert await worker.leases.dispatch(lease, call(lease).draft()) == 1
    await worker.stream(worker.outlet(lease), 2)
    await let_lease_lapse(redis, broker.keys, job)
    await worker.leases.expire()
    assert await spent(budgets) == {("day", "money"): COST, ("day", "tokens"): TOKENS}


async def test_a_late_report_counts_what_it_says_more(
    broker: Broker, worker: Worker, redis: Redis, budgets: Budgets
) -> None:
    await budgets.set(ACME, parse(["1 USD a day", "1M tokens a month"]))
    job = await broker.submit()
    lease = await worker.claim()
    await worker.leases.dispatch(lease, call(lease, Usage(input_tokens=10), None).draft())
    await worker.stream(worker.outlet(lease), 2)
    await let_lease_lapse(redis, broker.keys, job)
    await worker.leases.expire()
    assert await counters(redis, broker) == {"tokens": "10", "unpriced": "1"}
    for _ in range(2):
        await worker.leases.late_usage(call(lease), record(lease, version=2))
    assert await spent(budgets) == {("day", "money"): COST, ("month", "tokens"): TOKENS}
    assert (await counters(redis, broker))["unpriced"] == "0"


async def test_a_failed_call_and_the_one_after_it_both_count(broker: Broker, worker: Worker, budgets: Budgets) -> None:
    await budgets.set(ACME, parse(["1 USD a day"]))
    await broker.submit()
    lease = await worker.start()
    assert await worker.leases.call_failed(lease, record(lease)) == 1
    second = call(lease)
    second.number = 2
    await worker.leases.dispatch(lease, second.draft())
    await worker.finish(worker.outlet(lease), FAILED, usage=second.record("final", "error"))
    assert await spent(budgets) == {("day", "money"): 2 * COST}


async def test_every_way_to_count_said_twice_counts_once(broker: Broker, redis: Redis, budgets: Budgets) -> None:
    await budgets.set(ACME, parse(["soft 1 token a day", "1 USD a day"]))
    echo = EchoingLink(broker.url, redis, broker.keys)
    worker = broker.worker(link=echo)
    await broker.submit()
    lease = await worker.claim()
    await worker.leases.dispatch(lease, call(lease).draft())
    await worker.leases.call_failed(lease, record(lease))
    await worker.leases.dispatch(lease, call(lease).draft())
    await worker.leases.release([lease])
    lease = await worker.claim()
    await worker.leases.dispatch(lease, call(lease, None).draft())
    await worker.leases.release([lease])
    await worker.leases.late_usage(call(lease), record(lease, version=2))
    await broker.submit()
    lease = await worker.claim()
    await worker.finish(worker.outlet(lease), usage=record(lease))
    echo.close()
    assert await spent(budgets) == {("day", "tokens"): 3 * TOKENS, ("day", "money"): 3 * COST}


# --- the calendar


async def test_the_scripts_have_the_calendar_of_the_core(redis: Redis) -> None:
    asked = (
        "local found = {}\n"
        "for i, at in ipairs(ARGV) do\n"
        "  local periods = budgets().periods(tonumber(at))\n"
        "  local day, month = periods.day, periods.month\n"
        "  found[i] = string.format('%s %.0f %s %.0f', day.name, day.ends, month.name, month.ends)\n"
        "end\n"
        "return found"
    )
    dice = random.Random(20261122)
    century_ms = end_ms("day", int(datetime(2099, 12, 31, tzinfo=UTC).timestamp() * 1000))
    times = [dice.randrange(century_ms) for _ in range(2000)]
    dates = itertools.product((2000, 2026, 2028), (1, 2, 3, 12), (1, 28))
    days = [datetime(*date, tzinfo=UTC) for date in dates]
    times += [int(day.timestamp() * 1000) + by for day in days for by in (-1, 0, 86_400_000 - 1)]
    found = await redis.eval(PRELUDE + asked, 0, *times)
    assert found == [
        f"{name_of('day', at)} {end_ms('day', at)} {name_of('month', at)} {end_ms('month', at)}" for at in times
    ]


async def test_a_call_counts_in_the_day_it_began_in(
    broker: Broker, worker: Worker, redis: Redis, budgets: Budgets
) -> None:
    """So does the ledger. A clock that is off by more than a call may last is not believed."""
    await budgets.set(ACME, parse(["1M tokens a day"]))
    now = now_ms()
    for began in (now - 3_600_000, now + 3_600_000, now - 86_400_000 * 40):
        await spend(broker, worker, started_ms=began)
    days = {name_of("day", at) for at in (now - 3_600_000, now, now - 7_200_000)}
    counted = [int(await redis.hget(broker.keys.spent(day, ACME), "tokens") or 0) for day in days]
    assert sum(counted) == 3 * TOKENS


async def test_what_was_spent_goes_when_its_period_is_over(
    broker: Broker, worker: Worker, redis: Redis, budgets: Budgets
) -> None:
    await budgets.set(ACME, parse(["1M tokens a day"]))
    await spend(broker, worker)
    for period in ("day", "month"):
        expires_ms = await redis.pexpiretime(broker.keys.spent(name_of(period, now_ms()), ACME))
        assert expires_ms == end_ms(period, now_ms()) + 2 * 86_400_000


async def test_yesterdays_spending_does_not_count_today(broker: Broker, redis: Redis, budgets: Budgets) -> None:
    await budgets.set(ACME, parse(["1 token a day"]))
    yesterday = broker.keys.spent(name_of("day", now_ms() - 86_400_000), ACME)
    await redis.hset(yesterday, "tokens", "1000")
    await broker.submit()
    await redis.delete(yesterday)
