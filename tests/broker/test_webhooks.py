"""Which ends are to be told, when, and by whom: the outbox, as workers use it."""

from __future__ import annotations

import base64
import time
from typing import Any

import pytest
from redis.asyncio import Redis

from relay.broker import webhooks
from relay.broker.timers import Timers
from relay.broker.webhooks import HOST_BUSY_MS, Due, Outbox, Redelivery, WebhookSecrets
from relay.core.job import CANCELLED, DONE, FAILED, QUEUED, Job
from relay.core.webhook import ROTATION_MS, Delivery
from tests.broker.system import TENANT, Broker, Worker, let_lease_lapse
from tests.support.wait import wait_until

URL = "https://hooks.example.com/s3cret"
LEASE_S = 60.0
DAY_MS = 86_400_000


@pytest.fixture
def outbox(broker: Broker) -> Outbox:
    return Outbox(broker.link, broker.keys)


async def ended(broker: Broker, worker: Worker, state: str = DONE, url: str = URL) -> Job:
    job = await broker.submit(webhook=url)
    await worker.finish(worker.outlet(await worker.start()), state)
    return job


async def take(outbox: Outbox, most: int = 20, **hosts: int) -> list[Due]:
    due, _ = await outbox.take(most, LEASE_S, [(f"{name}.example.com", count) for name, count in hosts.items()], 2)
    return due


async def take_one(outbox: Outbox) -> Due:
    [due] = await take(outbox)
    return due


async def delivery(broker: Broker, job: Job) -> Delivery:
    found = (await broker.queue.status(job.id, TENANT)).delivery
    assert found
    return found


async def let_time_pass(redis: Redis, broker: Broker, job: Job) -> None:
    """As if everything planned for this webhook had come due."""
    assert await redis.zadd(broker.keys.webhooks, {job.id: 1}, xx=True, ch=True) == 1


# -- every end is due, once ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [DONE, FAILED, CANCELLED])
async def test_the_end_of_a_job_is_due_at_once(broker: Broker, worker: Worker, outbox: Outbox, state: str) -> None:
    job = await ended(broker, worker, state)
    due = await take_one(outbox)
    assert (due.job, due.state, due.attempts) == (job, state, 0)
    assert abs(due.ended_ms / 1000 - time.time()) < 5
    assert await take(outbox) == []


async def test_a_job_without_a_webhook_is_nobodys_business(broker: Broker, worker: Worker, redis: Redis) -> None:
    await ended(broker, worker, url="")
    assert await redis.zcard(broker.keys.webhooks) == 0


async def test_a_job_is_not_told_of_before_its_end(broker: Broker, worker: Worker, outbox: Outbox) -> None:
    job = await broker.submit(webhook=URL)
    lease = await worker.start()
    assert await take(outbox) == []
    assert await delivery(broker, job) == Delivery("pending", 0, None, None, None)
    await worker.finish(worker.outlet(lease))
    assert (await delivery(broker, job)).next_ms is not None


async def test_a_job_that_is_cancelled_in_the_queue(broker: Broker, outbox: Outbox) -> None:
    job = await broker.submit(webhook=URL)
    await broker.queue.cancel(job.id, TENANT)
    await broker.queue.cancel(job.id, TENANT)
    due = await take_one(outbox)
    assert (due.job.id, due.state) == (job.id, CANCELLED)


async def test_a_job_that_nobody_took_in_time(broker: Broker, worker: Worker, outbox: Outbox) -> None:
    job = await broker.submit(webhook=URL, expires_at_ms=1)
    await Timers(broker.link, broker.keys, broker.limits).settle()
    due = await take_one(outbox)
    assert (due.job.id, due.state) == (job.id, FAILED)


async def test_a_job_whose_worker_was_lost_in_mid_stream(
    broker: Broker, worker: Worker, outbox: Outbox, redis: Redis
) -> None:
    job = await broker.submit(webhook=URL)
    await worker.stream(worker.outlet(await worker.start()), 1)
    await let_lease_lapse(redis, broker.keys, job)
    await worker.leases.expire()
    due = await take_one(outbox)
    assert (due.job.id, due.state) == (job.id, FAILED)


async def test_a_job_that_goes_back_to_the_queue_has_not_ended(
    broker: Broker, worker: Worker, outbox: Outbox, redis: Redis
) -> None:
    job = await broker.submit(webhook=URL)
    await worker.claim()
    await let_lease_lapse(redis, broker.keys, job)
    [settled] = await worker.leases.expire()
    assert settled.outcome == QUEUED
    assert await take(outbox) == []


# -- what becomes of a delivery --------------------------------------------------------------------------------------


async def test_delivered(broker: Broker, worker: Worker, outbox: Outbox, redis: Redis) -> None:
    job = await ended(broker, worker)
    await outbox.note(await take_one(outbox), "delivered", 204, "")
    assert await delivery(broker, job) == Delivery("delivered", 1, 204, None, None)
    assert await redis.zcard(broker.keys.webhooks) == 0


async def test_tried_again_after_a_pause_and_kept_until_then(
    broker: Broker, worker: Worker, outbox: Outbox, redis: Redis
) -> None:
    job = await ended(broker, worker)
    await outbox.note(await take_one(outbox), "pending", 500, "The receiver answered with 500.", DAY_MS / 1000)
    told = await delivery(broker, job)
    assert told == Delivery("pending", 1, 500, "The receiver answered with 500.", told.next_ms)
    assert abs((told.next_ms or 0) / 1000 - time.time() - DAY_MS / 1000) < 5
    assert await take(outbox) == []
    assert await redis.pttl(broker.keys.job(job.id)) > DAY_MS > broker.limits.result_ttl_s * 1000
    await let_time_pass(redis, broker, job)
    assert (await take_one(outbox)).attempts == 1


async def test_given_up(broker: Broker, worker: Worker, outbox: Outbox, redis: Redis) -> None:
    job = await ended(broker, worker)
    await outbox.note(await take_one(outbox), "failed", None, "The receiver's name cannot be resolved.")
    told = await delivery(broker, job)
    assert told == Delivery("failed", 1, None, "The receiver's name cannot be resolved.", None)
    assert await redis.zcard(broker.keys.webhooks) == 0


async def test_whose_lease_is_over_has_no_say(broker: Broker, worker: Worker, outbox: Outbox, redis: Redis) -> None:
    job = await ended(broker, worker)
    lost = await take_one(outbox)
    await let_time_pass(redis, broker, job)
    ours = await take_one(outbox)
    await outbox.note(lost, "failed", 500, "late")
    assert (await delivery(broker, job)).state == "pending"
    await outbox.note(ours, "delivered", 200, "")
    await outbox.note(lost, "failed", 500, "too late")
    assert await delivery(broker, job) == Delivery("delivered", 1, 200, None, None)


async def test_a_job_that_has_expired_leaves_the_list(
    broker: Broker, worker: Worker, outbox: Outbox, redis: Redis
) -> None:
    jobs = [await ended(broker, worker), await ended(broker, worker)]
    lost = (await take(outbox))[0]
    await redis.delete(*[broker.keys.job(job.id) for job in jobs])
    await outbox.note(lost, "delivered", 200, "")
    for job in jobs:
        await let_time_pass(redis, broker, job)
    assert await take(outbox) == []
    assert await redis.zcard(broker.keys.webhooks) == 0
    assert not await redis.exists(*[broker.keys.job(job.id) for job in jobs])


@pytest.mark.parametrize(
    "spoilt", [{"webhook": "x"}, {"ended_ms": "soon"}, {"targets": "{"}, {"webhook_since_ms": ""}, {"model": b"\xff"}]
)
async def test_a_spoilt_record_does_not_keep_others_waiting(
    broker: Broker, worker: Worker, outbox: Outbox, redis: Redis, spoilt: dict[str, Any]
) -> None:
    first, second = await ended(broker, worker), await ended(broker, worker)
    await redis.hset(broker.keys.job(first.id), mapping=spoilt)
    assert [due.job.id for due in await take(outbox)] == [second.id]
    assert await redis.zrange(broker.keys.webhooks, 0, -1) == [second.id]


# -- bounds ----------------------------------------------------------------------------------------------------------


async def test_no_more_are_taken_than_there_is_room_for(broker: Broker, worker: Worker, outbox: Outbox) -> None:
    for number in range(3):
        await ended(broker, worker, url=f"https://{number}.example.com")
    assert [len(await take(outbox, most=2)) for _ in range(2)] == [2, 1]


async def test_a_busy_host_is_left_alone_and_holds_up_nobody(broker: Broker, worker: Worker, outbox: Outbox) -> None:
    slow = [await ended(broker, worker, url="https://Slow.example.com/x") for _ in range(3)]
    fast = await ended(broker, worker, url="https://fast.example.com")
    assert [due.job.id for due in await take(outbox, slow=1)] == [slow[0].id, fast.id]
    due, next_s = await outbox.take(20, LEASE_S, [("slow.example.com", 2)], 2)
    assert not due
    assert LEASE_S - 5 < (next_s or 0) <= LEASE_S
    assert [due.job.id for due in await take(outbox)] == [slow[1].id, slow[2].id]


async def test_a_long_list_for_a_busy_host_is_put_off_for_those_behind_it(
    broker: Broker, worker: Worker, outbox: Outbox, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "LOOKED_AT", 2)
    slow = [await ended(broker, worker, url="https://slow.example.com") for _ in range(4)]
    fast = await ended(broker, worker, url="https://fast.example.com")
    looks = [await outbox.take(20, LEASE_S, [("slow.example.com", 2)], 2) for _ in range(3)]
    assert [([due.job.id for due in found], next_s) for found, next_s in looks[:2]] == [([], 0), ([], 0)]
    assert [due.job.id for due in looks[2][0]] == [fast.id]
    assert 0 < (looks[2][1] or 0) <= HOST_BUSY_MS / 1000
    assert await redis.zcard(broker.keys.webhooks) == len(slow) + 1


# -- once more -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["delivered", "failed", "pending"])
async def test_it_is_delivered_once_more_when_somebody_asks(
    broker: Broker, worker: Worker, outbox: Outbox, state: Any
) -> None:
    job = await ended(broker, worker)
    await outbox.note(await take_one(outbox), state, 500, "no", 1000)
    assert await Redelivery(broker.link, broker.keys).ask_for(job.id)
    told = await delivery(broker, job)
    assert (told.state, told.attempts) == ("pending", 0)
    due = await take_one(outbox)
    assert (due.job.id, due.attempts) == (job.id, 0)
    assert due.elapsed_s < 5


async def test_what_is_under_way_when_somebody_asks_does_not_count(
    broker: Broker, worker: Worker, outbox: Outbox
) -> None:
    job = await ended(broker, worker)
    before = await take_one(outbox)
    await Redelivery(broker.link, broker.keys).ask_for(job.id)
    await outbox.note(before, "delivered", 200, "")
    assert (await take_one(outbox)).job.id == job.id


async def test_what_has_not_ended_or_has_no_webhook_is_not_delivered(broker: Broker, worker: Worker) -> None:
    redelivery = Redelivery(broker.link, broker.keys)
    assert not await redelivery.ask_for((await broker.submit(webhook=URL)).id)
    assert not await redelivery.ask_for((await ended(broker, worker, url="")).id)
    assert not await redelivery.ask_for("0-" + "0" * 32)


# -- secrets ---------------------------------------------------------------------------------------------------------


async def test_a_secret_is_made_when_it_is_first_asked_for(broker: Broker) -> None:
    secrets = WebhookSecrets(broker.link, broker.keys)
    [secret] = await secrets.of(TENANT)
    assert secret.startswith("whsec_")
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    assert await secrets.of(TENANT) == [secret]
    assert await secrets.of("other") != [secret]


async def test_after_a_rotation_those_before_go_on_for_a_day(broker: Broker, redis: Redis) -> None:
    secrets = WebhookSecrets(broker.link, broker.keys)
    [first] = await secrets.of(TENANT)
    second, older = await secrets.of(TENANT, rotate=True)
    assert older == first != second
    third, *rest = await secrets.of(TENANT, rotate=True)
    assert rest == [second, first]
    assert await secrets.of(TENANT) == [third, second, first]
    stored = await redis.hget(broker.keys.webhook_secrets, TENANT)
    ends = [int(part) for part in stored.split()[1::2]]
    assert ends[0] == 0
    assert all(abs(end / 1000 - time.time() - ROTATION_MS / 1000) < 5 for end in ends[1:])
    await redis.hset(broker.keys.webhook_secrets, TENANT, f"{third} 0 {second} 1 {first} 1")
    assert await secrets.of(TENANT) == [third]


async def test_the_next_due_is_told(broker: Broker, worker: Worker, outbox: Outbox) -> None:
    async def next_s() -> float | None:
        return (await outbox.take(20, LEASE_S, (), 2))[1]

    assert await next_s() is None
    job = await ended(broker, worker)
    await outbox.note(await take_one(outbox), "pending", 500, "no", 0.05)
    await wait_until(lambda: take(outbox), what="the pause is over")
    assert job and LEASE_S - 5 < (await next_s() or 0) <= LEASE_S
