"""Batches as the tests of the broker need them: one in the middle of its life, and the rest of its life."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from relay.broker.batch import IN_PROGRESS, VALIDATING, Batch
from relay.broker.batch_steps import BatchSteps, Move
from relay.broker.batches import Batches
from relay.broker.connections import Link
from relay.broker.files import File, Files
from relay.core.batch.items import Item
from relay.core.batch.lines import CANCELED, Line, Outcome, line_of
from tests.broker.system import REQUEST, TENANT, Broker

BATCH_ID, FILE_ID = "msgbatch_0_" + "1" * 32, "file-0_" + "1" * 32
FILE = File(FILE_ID, TENANT, "a.jsonl", "batch", 2, 1_763_760_000_000, 1_763_760_600_000)


class Begun(NamedTuple):
    batches: Batches
    steps: BatchSteps


def make_batch(**facts: Any) -> Batch:
    batch = Batch(
        id=BATCH_ID,
        tenant=TENANT,
        surface="openai",
        key_id="rk_1",
        app="app",
        cache="",
        endpoint="messages",
        query="",
        headers={},
        state=IN_PROGRESS,
        created_ms=1_763_760_000_000,
        expires_ms=1 << 45,
        output_file="file-0_" + "2" * 32,
        error_file="file-0_" + "3" * 32,
        total=4,
    )
    return replace(batch, **facts)


def line(name: str, outcome: Outcome = CANCELED) -> Line:
    return line_of("openai", name, "0-" + "4" * 32, outcome)


async def begin(link: Link, broker: Broker) -> Begun:
    """A batch of four: two are jobs, of which one has ended; one is big and waits, one waits."""
    begun = Begun(Batches(link, broker.keys, broker.limits), BatchSteps(link, broker.keys, broker.limits))
    batches, steps = begun
    items = [Item("a", REQUEST), Item("b", REQUEST), Item("c", REQUEST * 1000), Item("d", REQUEST)]
    await batches.store(BATCH_ID, 0, items[:3], orphan=True)
    await batches.store(BATCH_ID, 3, items[3:], orphan=True)
    await batches.create(make_batch())
    jobs = [await broker.submit(batch=f"{BATCH_ID} {number}") for number in range(2)]
    await steps.move(make_batch(), Move(fed=2))
    await broker.queue.cancel(jobs[0].id, TENANT)
    files = Files(link, broker.keys)
    await files.store(FILE_ID, 0, b"{}")
    await files.create(FILE)
    return begun


async def finish(begun: Begun) -> None:
    """The rest: one after the other gets its line, until it has ended; and another one that fails at once."""
    batches, steps = begun
    await steps.due(10)
    batch = make_batch(fed=2)
    await steps.move(batch, Move([line("a")], taken=1))
    await batches.cancel(BATCH_ID, "openai", TENANT)
    await steps.move(replace(batch, collected=1), Move([line("c"), line("d")], fed=2, numbers=[2, 3]))
    done = line("b", Outcome("succeeded", 200, b"{}"))
    await steps.move(replace(batch, fed=4, collected=3), Move([done], numbers=[1]))
    other = make_batch(id=BATCH_ID[:-1] + "2", state=VALIDATING)
    await batches.create(other)
    await steps.checked(other.id, 0, [{"code": "empty_file", "line": None, "message": "", "param": None}])
