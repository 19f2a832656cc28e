"""The list of jobs: newest first, each once over all pages, and only those that were asked for."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from relay.broker import listing
from relay.broker.listing import Filter, Listing, Page
from relay.core.job import DONE, made_ms, new_id
from tests.broker.system import TENANT, Broker, Worker

ALL = Filter()


@pytest.fixture
def jobs(broker: Broker) -> Listing:
    return Listing(broker.link, broker.keys)


async def submit(broker: Broker, **facts: Any) -> str:
    job_id = facts.pop("id", None) or new_id("0")
    return (await broker.submit(id=job_id, created_ms=made_ms(job_id), **facts)).id


def ids(page: Page) -> list[str]:
    return [found.job.id for found in page.jobs]


async def test_pages_of_any_size_hold_every_job_once_newest_first(broker: Broker, jobs: Listing) -> None:
    made = [await submit(broker) for _ in range(7)]
    for limit in range(1, 9):
        found, after, more = [], "", True
        while more:
            page = await jobs.page(TENANT, ALL, after, limit)
            assert len(page.jobs) <= limit
            found += ids(page)
            after, more = page.last, page.more
        assert found == made[::-1]


async def test_a_job_that_comes_between_two_pages_moves_nothing(broker: Broker, jobs: Listing) -> None:
    made = [await submit(broker) for _ in range(4)]
    first = await jobs.page(TENANT, ALL, "", 2)
    await submit(broker)
    assert ids(await jobs.page(TENANT, ALL, first.last, 2)) == made[1::-1]


async def test_nobody_sees_the_jobs_of_another_tenant(broker: Broker, jobs: Listing) -> None:
    await submit(broker)
    assert await jobs.page("other", ALL, "", 10) == Page([], "", False)


async def test_jobs_are_found_by_status_model_and_metadata(broker: Broker, worker: Worker, jobs: Listing) -> None:
    done = await submit(broker, metadata={"run": "1", "env": "prod"})
    await worker.finish(worker.outlet(await worker.start()), DONE)
    running = await submit(broker, model="claude-haiku-4-5", metadata={"run": "1"})
    await worker.start()
    queued = await submit(broker, metadata={"run": "2", "env": "prod"})
    for wanted, found in (
        (Filter(status="completed"), [done]),
        (Filter(status="in_progress"), [running]),
        (Filter(status="queued"), [queued]),
        (Filter(status="failed"), []),
        (Filter(model="claude-haiku-4-5"), [running]),
        (Filter(metadata={"run": "1"}), [running, done]),
        (Filter(metadata={"run": "1", "env": "prod"}), [done]),
        (Filter(metadata={"env": ""}), []),
        (Filter(status="queued", metadata={"run": "1"}), []),
    ):
        assert ids(await jobs.page(TENANT, wanted, "", 10)) == found, wanted


async def test_jobs_are_found_by_the_time_they_were_made(broker: Broker, jobs: Listing) -> None:
    times = [1_763_760_000_000, 1_763_760_000_001, 1_763_760_000_002]
    made = [await submit(broker, id=f"0-{at:012x}{'8' * 20}") for at in times]
    for wanted, found in (
        (Filter(from_ms=times[1]), made[:0:-1]),
        (Filter(before_ms=times[1]), made[:1]),
        (Filter(from_ms=times[1], before_ms=times[2]), [made[1]]),
        (Filter(from_ms=times[2] + 1), []),
        (Filter(before_ms=-1), []),
        (Filter(from_ms=-(2**60), before_ms=2**60), made[::-1]),
    ):
        assert ids(await jobs.page(TENANT, wanted, "", 10)) == found, wanted
    assert ids(await jobs.page(TENANT, Filter(before_ms=times[2]), made[1], 10)) == [made[0]]
    assert ids(await jobs.page(TENANT, Filter(before_ms=times[1]), made[2], 10)) == [made[0]]


async def test_what_has_expired_is_not_listed(broker: Broker, jobs: Listing, redis: Redis) -> None:
    made = [await submit(broker) for _ in range(3)]
    await redis.delete(broker.keys.job(made[1]))
    assert ids(await jobs.page(TENANT, ALL, "", 2)) == [made[2], made[0]]


async def test_a_search_that_finds_little_pauses_and_goes_on_where_it_was(
    broker: Broker, jobs: Listing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "LOOKS_AT_ONCE", 2)
    monkeypatch.setattr(listing, "CALLS_MAX", 2)
    rare = await submit(broker, model="rare")
    common = [await submit(broker) for _ in range(7)]
    first = await jobs.page(TENANT, Filter(model="rare"), "", 10)
    assert first == Page([], common[3], True)
    assert ids(await jobs.page(TENANT, Filter(model="rare"), first.last, 10)) == [rare]
