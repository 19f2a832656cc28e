"""Whose turn it is: priorities, fairness between tenants, and limits that pace the queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from relay.broker.lanes import Lane, Lanes
from relay.broker.leases import Lease
from relay.broker.rate_limits import RateLimit, RateLimits
from relay.core.errors import TooManyRequests
from relay.core.job import DONE, FAILED, Job, Priority, Target
from tests.broker.system import TENANT, Broker, Worker, let_lease_lapse, record_of

WINDOW = 64
GPT = (Target("openai", "openai", "gpt-5"),)


@pytest.fixture
def roomy(broker: Broker) -> Broker:
    return broker.with_limits(queue_limit=100_000, tenant_queue_limit=100_000)


@pytest.fixture
def limits(broker: Broker) -> RateLimits:
    return RateLimits(broker.link, broker.keys)


async def line_up(broker: Broker, count: int, tenant: str = "acme", priority: Priority = "normal") -> list[Job]:
    return [await broker.submit(tenant=tenant, priority=priority) for _ in range(count)]


async def take(worker: Worker, count: int) -> list[Lease]:
    await worker.register()
    return await worker.leases.claim([], count)


async def finish(worker: Worker, leases: Iterable[Lease]) -> None:
    for lease in leases:
        await worker.dispatch(lease)
        await worker.finish(worker.outlet(lease))


async def drain(worker: Worker) -> list[Job]:
    """Every job, in the order they come out."""
    jobs: list[Job] = []
    while leases := await take(worker, 16):
        jobs += [lease.job for lease in leases]
        await finish(worker, leases)
    return jobs


async def left_over(redis: Redis, broker: Broker) -> dict[str, object]:
    """What of the lanes is still in Redis when nobody waits."""
    base = broker.keys.waiting.removesuffix("waiting")
    names = [name async for name in redis.scan_iter(f"{base}lane*")]
    waiting = await redis.hgetall(broker.keys.waiting)
    return {"lanes": names, "waiting": waiting, "queue": await redis.llen(broker.rq.queue)}


# --- the queue itself


async def test_a_job_goes_straight_to_the_queue_where_nobody_waits(broker: Broker, redis: Redis) -> None:
    job = await broker.submit()
    assert await redis.lrange(broker.rq.queue, 0, -1) == [job.id]
    assert not await redis.exists(broker.keys.waiting)


async def test_only_a_few_are_called_up_at_a_time(roomy: Broker, worker: Worker, redis: Redis) -> None:
    jobs = await line_up(roomy, WINDOW + 20)
    assert await redis.llen(roomy.rq.queue) == WINDOW
    assert await redis.hgetall(roomy.keys.waiting) == {"": "20", "acme": "20"}
    assert (await roomy.queue.counts())["queued"] == WINDOW + 20
    leases = await take(worker, 16)
    assert await redis.llen(roomy.rq.queue) == WINDOW
    assert [lease.job.id for lease in leases] == [job.id for job in jobs[:16]]


async def test_jobs_of_one_lane_come_out_in_the_order_they_came_in(roomy: Broker, worker: Worker, redis: Redis) -> None:
    jobs = await line_up(roomy, 150)
    assert [job.id for job in await drain(worker)] == [job.id for job in jobs]
    assert await left_over(redis, roomy) == {"lanes": [], "waiting": {}, "queue": 0}


async def test_a_full_queue_counts_those_who_wait(broker: Broker) -> None:
    await line_up(broker, 100, tenant="others")
    with pytest.raises(TooManyRequests, match="100 jobs wait"):
        await broker.submit()


async def test_a_tenant_cannot_fill_the_queue_for_all(broker: Broker, worker: Worker) -> None:
    crowded = broker.with_limits(queue_limit=1000, tenant_queue_limit=10)
    await line_up(crowded, WINDOW + 10)
    with pytest.raises(TooManyRequests, match="10 jobs of yours wait, the limit is 10"):
        await crowded.submit()
    await crowded.submit(tenant="others")
    await finish(worker, await take(worker, 2))
    await crowded.submit()


# --- fairness


async def test_a_tenant_with_thousands_delays_another_by_a_window(roomy: Broker, worker: Worker) -> None:
    await line_up(roomy, 2000)
    single = await roomy.submit(tenant="others")
    order = [lease.job.id for _ in range(6) for lease in await take(worker, 16)]
    assert order.index(single.id) <= WINDOW + 2


async def test_tenants_take_turns(roomy: Broker, worker: Worker) -> None:
    await line_up(roomy, 300, tenant="first")
    await line_up(roomy, 100, tenant="second")
    await line_up(roomy, 100, tenant="third")
    behind = (await drain(worker))[WINDOW : WINDOW + 300]
    shares = Counter(job.tenant for job in behind)
    assert all(99 <= share <= 101 for share in shares.values()), shares


async def test_priorities_share_four_to_one(roomy: Broker, worker: Worker) -> None:
    await line_up(roomy, WINDOW)
    for priority in ("low", "normal", "high"):
        await line_up(roomy, 160, priority=priority)  # type: ignore[arg-type]
    behind = (await drain(worker))[WINDOW : WINDOW + 210]
    shares = Counter(job.priority for job in behind)
    assert shares["high"] == 160
    assert 36 <= shares["normal"] <= 44
    assert 9 <= shares["low"] <= 11


async def test_low_always_comes(roomy: Broker, worker: Worker) -> None:
    """However many of a higher priority keep coming."""
    await line_up(roomy, WINDOW, priority="high")
    low = await roomy.submit(priority="low")
    for _ in range(20):
        await line_up(roomy, 16, priority="high")
        leases = await take(worker, 16)
        await finish(worker, leases)
        if low.id in [lease.job.id for lease in leases]:
            return
    raise AssertionError("320 jobs of high priority went before it")


async def test_who_comes_late_has_no_claim_on_the_past(roomy: Broker, worker: Worker) -> None:
    """A tenant that was idle for long gets its share from now on, and not all it left to others."""
    await line_up(roomy, 500)
    for _ in range(20):
        await finish(worker, await take(worker, 16))
    await line_up(roomy, 100, tenant="late")
    behind = (await drain(worker))[WINDOW : WINDOW + 100]
    shares = Counter(job.tenant for job in behind)
    assert 45 <= shares["late"] <= 55, shares


# --- limits


async def test_a_tenant_at_its_limit_waits_while_others_go(broker: Broker, worker: Worker, limits: RateLimits) -> None:
    await limits.set("tenant:acme", RateLimit(calls=2))
    await line_up(broker, 5)
    other = await broker.submit(tenant="others")
    leases = await take(worker, 16)
    assert Counter(lease.job.tenant for lease in leases) == {"acme": 2, "others": 1}
    assert other.id in {lease.job.id for lease in leases}
    assert await take(worker, 16) == []
    await finish(worker, leases[:1])
    assert [lease.job.tenant for lease in await take(worker, 16)] == ["acme"]


async def test_a_provider_at_its_limit_is_passed_over(broker: Broker, worker: Worker, limits: RateLimits) -> None:
    await limits.set("provider:anthropic", RateLimit(calls=1))
    await line_up(broker, 3)
    await broker.submit(targets=GPT, surface="openai")
    taken = [lease.job.targets[0].provider for lease in await take(worker, 16)]
    assert sorted(taken) == ["anthropic", "openai"]


@pytest.mark.parametrize("how", ["cancelled while it waits", "cancelled when called up", "lost", "failed"])
async def test_a_place_is_free_again_however_a_job_ends(
    broker: Broker, worker: Worker, redis: Redis, limits: RateLimits, how: str
) -> None:
    await limits.set("tenant:acme", RateLimit(calls=1))
    first, second, third = await line_up(broker, 3)
    match how:
        case "cancelled while it waits":
            await broker.queue.cancel(second.id, TENANT)
            await finish(worker, await take(worker, 16))
            second = third
        case "cancelled when called up":
            await broker.queue.cancel(first.id, TENANT)
        case "lost":
            [lease] = await take(worker, 16)
            await worker.dispatch(lease)
            await worker.stream(worker.outlet(lease), 1)
            await let_lease_lapse(redis, broker.keys, first)
            await worker.leases.expire()
        case "failed":
            [lease] = await take(worker, 16)
            await worker.finish(worker.outlet(lease), "failed", [])
    assert [lease.job.id for lease in await take(worker, 16)] == [second.id]


async def test_a_job_whose_worker_died_keeps_its_place(
    broker: Broker, worker: Worker, redis: Redis, limits: RateLimits
) -> None:
    await limits.set("tenant:acme", RateLimit(calls=1))
    first, _ = await line_up(broker, 2)
    await take(worker, 16)
    await let_lease_lapse(redis, broker.keys, first)
    await worker.leases.expire()
    assert [lease.job.id for lease in await take(worker, 16)] == [first.id]
    assert await take(worker, 16) == []


async def test_requests_are_paced(broker: Broker, worker: Worker, redis: Redis, limits: RateLimits) -> None:
    """A tenth of a minute's at once, the others as their time comes."""
    await limits.set("tenant:acme", RateLimit(requests=60))
    await line_up(broker, 20)
    assert len(await take(worker, 16)) == 7
    assert await worker.leases.call_up() == 0
    base = broker.keys.waiting.removesuffix("waiting")
    allowed_until = int(await redis.hget(f"{base}paced", "tenant:acme") or 0)
    await redis.hset(f"{base}paced", "tenant:acme", str(allowed_until - 3000))  # three seconds pass
    assert await worker.leases.call_up() == 3


async def test_tokens_are_paced_by_what_calls_have_cost(
    broker: Broker, worker: Worker, redis: Redis, limits: RateLimits
) -> None:
    await limits.set("tenant:acme", RateLimit(tokens=1000))
    await line_up(broker, 3)
    leases = await take(worker, 2)
    record = record_of(leases[0])
    record[record.index("input_tokens") + 1] = 900
    record[record.index("cache_read_tokens") + 1] = 10**6  # costs nothing of a limit
    record[record.index("output_tokens") + 1] = 200
    await worker.dispatch(leases[0])
    await worker.finish(worker.outlet(leases[0]), usage=record)
    [late] = await line_up(broker, 1)
    assert late.id not in [lease.job.id for lease in await take(worker, 16)]
    base = broker.keys.waiting.removesuffix("waiting")
    owed_until = int(await redis.hget(f"{base}paced", "tenant:acme tokens") or 0)
    await redis.hset(f"{base}paced", "tenant:acme tokens", str(owed_until - 6001))  # six seconds pay for 100
    assert await worker.leases.call_up() == 1


async def test_a_limit_taken_away_lets_everybody_go(broker: Broker, worker: Worker, limits: RateLimits) -> None:
    await limits.set("tenant:acme", RateLimit(calls=1))
    await line_up(broker, 5)
    assert await limits.all() == {"tenant:acme": RateLimit(calls=1)}
    assert await limits.remove("tenant:acme")
    assert await worker.leases.call_up() == 4
    assert not await limits.remove("tenant:acme")


async def test_a_job_that_is_gone_holds_up_nobody(
    broker: Broker, worker: Worker, redis: Redis, limits: RateLimits
) -> None:
    """Its time to wait was over, or somebody deleted it."""
    await limits.set("tenant:acme", RateLimit(calls=1))
    jobs = await line_up(broker, 4)
    for job in jobs[1:3]:
        await redis.delete(broker.keys.job(job.id))
    await finish(worker, await take(worker, 16))
    assert [lease.job.id for lease in await take(worker, 16)] == [jobs[3].id]
    assert (await left_over(redis, broker))["waiting"] == {}


async def test_a_tenant_may_be_called_anything(roomy: Broker, worker: Worker, redis: Redis) -> None:
    for tenant in ("a:b:c", "", " ", "high:anthropic:acme", "ünïcode", "{x}", "*"):
        await line_up(roomy, WINDOW + 2, tenant=tenant)
    assert len(await drain(worker)) == 7 * (WINDOW + 2)
    assert await left_over(redis, roomy) == {"lanes": [], "waiting": {}, "queue": 0}


tenants, priorities = st.sampled_from("abc"), st.sampled_from(["high", "normal", "low"])
steps = st.lists(st.tuples(tenants, priorities, st.integers(0, 40), st.integers(0, 16)), max_size=12)


# Each example leaves the queue as it found it: empty.
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
async def test_every_job_comes_out_once_and_its_lane_in_order(
    roomy: Broker, worker: Worker, steps: list[tuple[str, Priority, int, int]]
) -> None:
    came: list[Job] = []
    went: list[Job] = []
    for tenant, priority, more, fewer in steps:
        came += await line_up(roomy, more, tenant, priority)
        leases = await take(worker, fewer) if fewer else []
        went += [lease.job for lease in leases]
        await finish(worker, leases)
    went += await drain(worker)
    assert {job.id for job in went} == {job.id for job in came}
    assert len(went) == len(came)
    for lane in {job.lane for job in came}:
        ids = [job.id for job in went if job.lane == lane]
        assert all(before < after for before, after in pairwise(ids))


async def test_the_lanes_and_their_lengths_are_told_in_the_order_of_their_turns(broker: Broker) -> None:
    lanes = Lanes(broker.link, broker.keys, broker.limits.queue)
    assert await lanes.all() == []
    await line_up(broker, WINDOW + 3)
    await line_up(broker, 2, "beta", "low")
    assert set(await lanes.all()) == {Lane("normal", "anthropic", "acme", 3), Lane("low", "anthropic", "beta", 2)}


async def test_a_tenant_is_told_of_its_own_jobs_only(broker: Broker, worker: Worker) -> None:
    """Those that wait, called up or not, those that run and those that failed for good."""
    lanes = Lanes(broker.link, broker.keys, broker.limits.queue)
    await line_up(broker, 2, "acme")
    running, failing = await take(worker, 2)
    await worker.finish(worker.outlet(failing), FAILED)
    await line_up(broker, WINDOW - 1, "crowd")
    await line_up(broker, 3, "acme")
    assert await lanes.of_tenant("acme") == (3, 1, 1)
    assert await lanes.of_tenant("crowd") == (WINDOW - 1, 0, 0)
    assert await lanes.of_tenant("nobody") == (0, 0, 0)
    await worker.finish(worker.outlet(running), DONE)
    assert await lanes.of_tenant("acme") == (3, 0, 1)
