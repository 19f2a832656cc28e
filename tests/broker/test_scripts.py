"""What holds for every script: said twice is said once, and under another lease it writes nothing."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from importlib import resources

import pytest
from redis.asyncio import Redis

from relay.broker import scripts
from relay.broker.connections import Link
from relay.broker.leases import Lease
from relay.broker.listing import Filter, Listing
from relay.broker.queue import Queue
from relay.broker.results import Keeper
from relay.broker.scripts import NOT_OURS, UNKNOWN, Script
from relay.broker.timers import Timers
from relay.broker.webhooks import Outbox, Redelivery, WebhookSecrets
from relay.core.idempotency import Once
from relay.core.job import CANCELLED, CLAIMED, DISPATCHED, DONE, FAILED, STREAMING
from tests.broker.batches import begin, finish
from tests.broker.system import (
    REQUEST,
    TENANT,
    Broker,
    EchoingLink,
    Worker,
    call_of,
    dump,
    event,
    flushed,
    let_lease_lapse,
    make_job,
    record_of,
)

ALL = {script.name: script for script in vars(scripts).values() if isinstance(script, Script)}


# --- the files


def test_every_file_is_a_script_of_that_name() -> None:
    files = {path.name.removesuffix(".lua") for path in resources.files("relay.broker").joinpath("lua").iterdir()}
    assert {*ALL} == files - {"lanes", "batch_ended", "budgets", "outbox"}  # which stands before others


@pytest.mark.parametrize("script", ALL.values(), ids=lambda script: script.name)
async def test_a_script_is_known_to_redis_by_the_hash_we_call_it_by(redis: Redis, script: Script) -> None:
    assert await redis.script_load(script.source) == script.sha


@pytest.mark.parametrize("script", ALL.values(), ids=lambda script: script.name)
def test_a_script_opens_with_what_it_does_and_takes(script: Script) -> None:
    head = script.source[: script.source.index("\nlocal")]
    # Everything but taking new work goes on when memory is full.
    takes_work = script in (scripts.SUBMIT, scripts.BATCH_STORE, scripts.BATCH_CREATE)
    assert head.startswith("#!lua\n" if takes_work else ("#!lua flags=allow-oom\n", "#!lua flags=no-writes\n"))
    assert re.search(r"^-- KEYS  (1|the job)", head, re.MULTILINE)
    assert re.search(r"^-- ARGV  1", head, re.MULTILINE)
    assert "-- Returns " in head


# --- said twice


@pytest.fixture
async def echo(broker: Broker, redis: Redis) -> AsyncIterator[EchoingLink]:
    link = EchoingLink(broker.url, redis, broker.keys)
    yield link
    link.close()


async def tell(link: Link, broker: Broker) -> None:
    """The end of a job, which takes two attempts and is told once more."""
    outbox, secrets = Outbox(link, broker.keys), WebhookSecrets(link, broker.keys)
    [due], _ = await outbox.take(1, 60, (), 1)
    await outbox.note(due, "pending", 500, "no", 60)
    await Redelivery(link, broker.keys).ask_for(due.job.id)
    [due], _ = await outbox.take(1, 60, (), 1)
    await outbox.note(due, "delivered", 200, "")
    await secrets.of(TENANT)
    await secrets.of(TENANT, rotate=True)


async def test_whatever_is_said_twice_is_said_once(broker: Broker, redis: Redis, echo: EchoingLink) -> None:
    queue = Queue(echo, broker.keys, broker.limits)
    worker = broker.worker(link=echo)
    await worker.register()

    async def job_in(state: str) -> Lease:
        job = make_job()
        await queue.submit(job, REQUEST)
        [lease] = await worker.leases.claim([], 1)
        if state != CLAIMED:
            await worker.dispatch(lease)
        if state not in (CLAIMED, DISPATCHED):
            await worker.stream(worker.outlet(lease), 2)
        return lease

    # A life without trouble, popped by BLMOVE.
    await queue.submit(make_job(webhook="https://example.com/"), REQUEST)
    popped = await worker.leases.pop(1)
    [lease] = await worker.leases.claim([popped or ""], 3)
    await worker.dispatch(lease)
    await worker.leases.call_failed(lease, record_of(lease))
    await worker.dispatch(lease)
    outlet = worker.outlet(lease)
    await worker.stream(outlet, 2)
    outlet.usage(record_of(lease))
    outlet.events(event(3), 1)
    await flushed(outlet)
    await worker.leases.heartbeat([lease])
    outlet.events(event(4), 1)
    await worker.finish(outlet)
    await tell(echo, broker)
    await finish(await begin(echo, broker))
    # The other ends.
    for state in (DONE, FAILED, CANCELLED):
        await worker.finish(worker.outlet(await job_in(CLAIMED)), state)
    # Lost in every state, by name and by time; cancelled in every state.
    for state in (CLAIMED, DISPATCHED, STREAMING):
        for cancelled in (False, True):
            for named in (False, True):
                lease = await job_in(state)
                if cancelled:
                    await queue.cancel(lease.job.id, TENANT)
                if named:
                    await worker.leases.release([lease])
                else:
                    await let_lease_lapse(redis, broker.keys, lease.job)
                    await worker.leases.expire()
                await worker.leases.late_usage(call_of(lease), record_of(lease, version=2))
                await queue.cancel(lease.job.id, TENANT)
    # Popped and forgotten.
    await queue.submit(make_job(), REQUEST)
    await worker.leases.pop(1)
    await worker.leases.unstick()
    await worker.leases.call_up()
    # For later, too late, listed, and put together afterwards.
    await queue.submit(make_job(run_at_ms=1 << 45), REQUEST, Once("a", "f"))
    await queue.submit(make_job(), REQUEST, Once("a", "f"))
    await queue.submit(make_job(expires_at_ms=1), REQUEST)
    await worker.leases.claim([], 1)
    await Timers(echo, broker.keys, broker.limits).settle()
    await Listing(echo, broker.keys).page(TENANT, Filter(), "", 1)
    await redis.zadd(broker.keys.due_results, {lease.job.id: 1})
    await Keeper(echo, broker.keys, broker.limits).keep()

    # Those of the ledger are run in its own tests.
    assert {name for name, _, _ in echo.heard} | {"usage_lag", "usage_trim"} == {*ALL}
    answers = {(name, str(first), str(again)) for name, first, again in echo.heard}
    assert {
        ("submit", "[1, 0]", "[0, 0]"),
        ("dispatch", "1", "1"),
        ("call_failed", "1", "1"),
        ("heartbeat", "[0]", "[0]"),
        ("finish", "1", "0"),
        ("late_usage", "1", "0"),
        ("cancel", "[b'cancelled', b'']", "[b'cancelled', b'']"),
    } <= answers
    assert all(
        first == again
        for name, first, again in echo.heard
        if name in ("claim", "append", "dispatch", "call_failed", "cancel")
    )


# --- said under another lease

Act = Callable[[Worker, Lease], Awaitable[object]]


async def _append(worker: Worker, lease: Lease) -> object:
    outlet = worker.outlet(lease)
    outlet.events(event(1), 1)
    await flushed(outlet)
    return outlet.lost


async def _head(worker: Worker, lease: Lease) -> object:
    outlet = worker.outlet(lease)
    outlet.head(200, [])
    await flushed(outlet)
    return outlet.lost


async def _finish(worker: Worker, lease: Lease) -> object:
    return await worker.finish(worker.outlet(lease))


async def _heartbeat(worker: Worker, lease: Lease) -> object:
    [code] = await worker.leases.heartbeat([lease])
    return code


ACTS: dict[str, Act] = {
    "dispatch": lambda worker, lease: worker.dispatch(lease),
    "call_failed": lambda worker, lease: worker.leases.call_failed(lease, record_of(lease)),
    "head": _head,
    "append": _append,
    "finish": _finish,
    "heartbeat": _heartbeat,
}

FOREIGN: dict[str, Callable[[Lease], Lease]] = {
    "another token": lambda lease: replace(lease, id=f"{lease.generation}-{'0' * 32}"),
    "an earlier generation": lambda lease: _of_generation(lease, lease.generation - 1),
    "a later generation": lambda lease: _of_generation(lease, lease.generation + 1),
    "no lease": lambda lease: replace(lease, id=""),
}


def _of_generation(lease: Lease, generation: int) -> Lease:
    return replace(lease, generation=generation, id=f"{generation}-{lease.id.partition('-')[2]}")


@pytest.mark.parametrize("state", [CLAIMED, DISPATCHED, STREAMING])
@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize("act", ACTS)
async def test_under_a_foreign_lease_nothing_is_written(
    broker: Broker, worker: Worker, redis: Redis, state: str, foreign: str, act: str
) -> None:
    _, lease = await broker.in_state(state, worker)
    assert lease
    before = await dump(redis)
    assert await ACTS[act](worker, FOREIGN[foreign](lease)) == NOT_OURS
    assert await dump(redis) == before


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("state", [CLAIMED, DISPATCHED, STREAMING])
async def test_under_a_lease_that_was_given_away_nothing_is_written(
    broker: Broker, worker: Worker, redis: Redis, state: str, act: str
) -> None:
    job, lease = await broker.in_state(state, worker)
    assert lease
    await let_lease_lapse(redis, broker.keys, job)
    [settled] = await worker.leases.expire()
    if settled.outcome == "queued":
        await worker.claim()
    before = await dump(redis)
    assert await ACTS[act](worker, lease) == NOT_OURS
    assert await dump(redis) == before


@pytest.mark.parametrize("act", [act for act in ACTS if act != "finish"])
@pytest.mark.parametrize("state", [DONE, FAILED])
async def test_nothing_is_written_to_a_job_that_has_ended(
    broker: Broker, worker: Worker, redis: Redis, state: str, act: str
) -> None:
    _, lease = await broker.in_state(state, worker)
    assert lease
    before = await dump(redis)
    assert await ACTS[act](worker, lease) == NOT_OURS
    assert await dump(redis) == before


@pytest.mark.parametrize("act", ACTS)
async def test_a_forgotten_job_is_not_brought_back_by_half(
    broker: Broker, worker: Worker, redis: Redis, act: str
) -> None:
    job, lease = await broker.in_state(DISPATCHED, worker)
    assert lease
    await redis.delete(broker.keys.job(job.id))
    before = await dump(redis)
    assert await ACTS[act](worker, lease) == UNKNOWN
    assert await dump(redis) == before
