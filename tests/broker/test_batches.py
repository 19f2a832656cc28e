"""A batch's steps: each is taken once, whoever takes it, and lines, counts and end agree."""

from __future__ import annotations

from dataclasses import replace

import pytest
from redis.asyncio import Redis

from relay.broker.batch import BATCH_ENDED, BATCH_FAILED
from relay.broker.batch_steps import Move
from relay.broker.files import Files
from relay.core.batch.items import Item
from relay.core.batch.lines import Outcome
from relay.core.errors import Conflict, Gone, NotFound
from relay.core.job import DONE, FAILED
from tests.broker.batches import BATCH_ID, FILE, FILE_ID, begin, finish, line, make_batch
from tests.broker.system import REQUEST, TENANT, Broker, Worker, let_lease_lapse


async def output(broker: Broker, name: str, size: int) -> bytes:
    return b"".join([piece async for piece in Files(broker.link, broker.keys).content(name, size)])


async def test_items_wait_in_order_until_they_are_jobs(broker: Broker) -> None:
    batches, steps = await begin(broker.link, broker)
    batch = await batches.get(BATCH_ID, "openai", TENANT)
    assert (batch.fed, batch.collected, batch.total) == (2, 0, 4)
    assert await steps.waiting(batch, 10) == [Item("c", REQUEST * 1000), Item("d", REQUEST)]
    assert await steps.names(batch, range(1, 3)) == ["b", "c"]
    assert await steps.names(batch, [0, 2, 1, 3]) == ["a", "c", "b", "d"]
    assert await steps.ended(batch, 10) == [0]
    assert await steps.not_ended(batch) == [1]
    assert await steps.running(batch) == 1


async def test_lines_counts_and_the_end_are_one(broker: Broker, redis: Redis) -> None:
    begun = await begin(broker.link, broker)
    batches = begun.batches
    await finish(begun)
    batch = await batches.get(BATCH_ID, "openai", TENANT)
    assert batch.state == BATCH_ENDED
    assert (batch.succeeded, batch.canceled, batch.collected) == (1, 3, 4)
    assert (
        await output(broker, batch.output_file, batch.output_bytes) == line("b", Outcome("succeeded", 200, b"{}")).data
    )
    assert (await output(broker, batch.error_file, batch.error_bytes)).count(b"batch_cancelled") == 3
    files = await Files(broker.link, broker.keys).page(TENANT, "batch_output", "", 10, newest_first=True)
    assert [file.bytes for file in files.files] == [batch.error_bytes, batch.output_bytes]
    assert not await redis.keys(f"relay:{{0}}:batch:{BATCH_ID}:[ienb]*s")
    assert (await batches.get(BATCH_ID[:-1] + "2", "openai", TENANT)).state == BATCH_FAILED


async def test_whoever_was_overtaken_changes_nothing(broker: Broker) -> None:
    batches, steps = await begin(broker.link, broker)
    before = make_batch(fed=2)
    assert await steps.move(before, Move([line("a")], taken=1))
    assert not await steps.move(before, Move([line("a")], taken=1))
    assert not await steps.move(make_batch(), Move(fed=1))
    batch = await batches.get(BATCH_ID, "openai", TENANT)
    assert (batch.fed, batch.collected, batch.canceled) == (2, 1, 1)
    assert await batches.store(BATCH_ID, 1, [Item("x", b"{}")], orphan=False) == 4


async def test_lines_are_kept_in_pieces_that_do_not_grow_without_end(broker: Broker, redis: Redis) -> None:
    batches, steps = await begin(broker.link, broker)
    batch, wrote = make_batch(fed=2), b""
    for number in range(2):
        long = line(f"{number}", Outcome("succeeded", 200, b'{"a":"%b"}' % (b"x" * 40_000)))
        assert await steps.move(replace(batch, collected=number), Move([long]))
        wrote += long.data
    stored = await batches.get(BATCH_ID, "openai", TENANT)
    assert await redis.hlen(broker.keys.file_data(batch.output_file)) == 2
    assert await output(broker, batch.output_file, stored.output_bytes) == wrote


@pytest.mark.parametrize("state", [DONE, FAILED])
async def test_a_worker_that_ends_an_items_job_notes_it_once(broker: Broker, worker: Worker, state: str) -> None:
    _, steps = await begin(broker.link, broker)
    outlet = worker.outlet(await worker.start())
    for _ in range(2):
        await worker.finish(outlet, state)
    assert await steps.ended(make_batch(), 10) == [0, 1]


async def test_so_does_whoever_settles_it_for_a_dead_one(broker: Broker, worker: Worker, redis: Redis) -> None:
    _, steps = await begin(broker.link, broker)
    lease = await worker.start()
    await worker.stream(worker.outlet(lease), 1)
    await let_lease_lapse(redis, broker.keys, lease.job)
    await worker.leases.expire()
    assert await steps.ended(make_batch(), 10) == [0, 1]


async def test_a_batch_that_is_deleted_is_not_noted_any_more(broker: Broker, worker: Worker, redis: Redis) -> None:
    await begin(broker.link, broker)
    await redis.delete(broker.keys.batch(BATCH_ID), broker.keys.batch_ended(BATCH_ID))
    await worker.finish(worker.outlet(await worker.start()))
    assert not await redis.exists(broker.keys.batch_ended(BATCH_ID))


async def test_only_what_has_ended_can_be_deleted(broker: Broker) -> None:
    begun = await begin(broker.link, broker)
    batches = begun.batches
    with pytest.raises(Conflict, match="cancel it first"):
        await batches.delete(BATCH_ID, "openai", TENANT)
    await finish(begun)
    await batches.delete(BATCH_ID, "openai", TENANT)
    with pytest.raises(NotFound):
        await batches.get(BATCH_ID, "openai", TENANT)
    assert BATCH_ID not in [batch.id for batch in (await batches.page("openai", TENANT, limit=10)).batches]


async def test_a_batch_is_nobody_elses(broker: Broker) -> None:
    batches, _ = await begin(broker.link, broker)
    for ask in (batches.get, batches.cancel, batches.delete):
        for surface, tenant in (("openai", "another"), ("anthropic", TENANT)):
            with pytest.raises(NotFound):
                await ask(BATCH_ID, surface, tenant)


async def test_a_file_that_lost_a_piece_does_not_pass_for_whole(broker: Broker, redis: Redis) -> None:
    await begin(broker.link, broker)
    assert await output(broker, FILE_ID, FILE.bytes) == b"{}"
    await redis.delete(broker.keys.file_data(FILE_ID))
    with pytest.raises(Gone):
        await output(broker, FILE_ID, FILE.bytes)
