"""Content: kept where it was asked for, byte for byte, and nowhere else; for its time, and not a moment longer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis
from sqlalchemy import Engine, func, select, text, update

from relay.broker.contents import ContentReader
from relay.broker.keys import Keys
from relay.broker.publisher import End
from relay.broker.usage_reader import UsageReader
from relay.core.content import LONGEST_S
from relay.core.job import CANCELLED, DONE, FAILED, Job
from relay.core.pricing import PriceTable
from relay.ledger.contents import AGAIN_MS, AT_ONCE, Contents, Kept, erase, find, now_ms
from relay.ledger.queries import Filter, rows
from relay.ledger.store import Store
from relay.ledger.tables import contents
from tests.broker.system import TENANT, Broker, Worker, call_of, flushed, let_lease_lapse, record_of, usage_records
from tests.ledger.test_main import Start, start
from tests.support import dialects
from tests.support.processes import RedisServer
from tests.support.wait import wait_until

__all__ = ["start"]

KEYS = Keys()
SAY = dialects.Anthropic()
MARK = "canary-of-the-prompt"
# As no JSON library would write it.
REQUEST = b'{ "model":"claude-sonnet-4-6",\n"messages" : [{"role":"user","content":"%b \\u00e9 1e3"}] }' % MARK.encode()
ANSWER = b'{"content": [{"type":"text","text":"%b, too"}], "n": 1.0}' % MARK.encode()
LIMIT = 64 << 10


class Ledger:
    """A ledger that does one thing when it is told to."""

    def __init__(self, engine: Engine, url: str, content_ttl_s: float = LONGEST_S) -> None:
        self.engine = engine
        self._usage = UsageReader(url, KEYS, keep_s=3600)
        self._reader = ContentReader(url, KEYS, LIMIT)
        self._store = Store(engine, PriceTable(), KEYS.usage, content_ttl_s=content_ttl_s)
        self.contents = Contents(engine, self._reader)

    def store(self) -> int:
        """Take what is in the stream; how many jobs want their content kept."""
        entries = self._usage.read(1000, 0.001)
        stored = self._store.put(entries)
        self._usage.stored(entries)
        return stored.contents

    def keep(self) -> int:
        self.store()
        return self.contents.fill()

    def kept(self, job: Job, tenant: str | None = None) -> Kept | None:
        with self.engine.connect() as connection:
            return find(connection, job.id, tenant)

    def state(self, job: Job) -> str | None:
        return kept.state if (kept := self.kept(job)) else None

    def due_again(self) -> None:
        """As if the time in which nobody else takes a row were over."""
        with self.engine.begin() as connection:
            due = contents.c.due_ms
            connection.execute(update(contents).where(due.is_not(None)).values(due_ms=due - AGAIN_MS))

    def close(self) -> None:
        self._usage.close()
        self._reader.close()


@pytest.fixture
def ledger(engine: Engine, redis: Redis, redis_server: RedisServer) -> Iterator[Ledger]:
    ledger = Ledger(engine, redis_server.url)
    yield ledger
    ledger.close()


@pytest.fixture
async def broker(redis: Redis, redis_server: RedisServer) -> AsyncIterator[Broker]:
    broker = Broker(redis_server.url)
    yield broker
    broker.close()


@pytest.fixture
def worker(broker: Broker) -> Worker:
    return broker.worker(flush_s=0)


async def submitted(broker: Broker, request: bytes = REQUEST, **facts: Any) -> Job:
    """A job that asks for its content to be kept, unless told otherwise."""
    return await broker.submit(request, **{"log": "content", "created_ms": now_ms(), **facts})


async def whole(broker: Broker, worker: Worker, request: bytes = REQUEST, answer: bytes = ANSWER, **facts: Any) -> Job:
    """A job that was answered at once."""
    status = facts.pop("status", 200)
    job = await submitted(broker, request, **facts)
    lease = await worker.start()
    head = orjson.dumps({"status": status, "headers": [("content-type", "application/json"), ("x-secret", MARK)]})
    end = End(DONE if status == 200 else FAILED, "" if status == 200 else "invalid_request_error", status=status)
    assert await worker.publisher.finish(worker.outlet(lease), end, record_of(lease), head, answer) == 1
    return job


async def streamed(broker: Broker, worker: Worker, end: End | None = None, **facts: Any) -> Job:
    """A job whose answer streamed, to its end unless another end is named."""
    job = await submitted(broker, **facts)
    lease = await worker.start()
    outlet = worker.outlet(lease)
    outlet.head(200, [("content-type", "text/event-stream")])
    story = [*SAY.opening("c"), SAY.text("c", 1), SAY.text("c", 2)]
    for told in story if end else [*story, *SAY.closing(), SAY.usage("c", SAY.counts(2)), SAY.stop()]:
        outlet.events(told, 1)
        await flushed(outlet)
    assert await worker.publisher.finish(outlet, end or End(DONE, status=200), record_of(lease)) == 1
    return job


def file_of(engine: Engine) -> bytes:
    """All that SQLite has on disk; of PostgreSQL what a dump of the tables would show."""
    if engine.dialect.name == "sqlite":
        path = Path(engine.url.database or "")
        return b"".join(each.read_bytes() for each in sorted(path.parent.glob(f"{path.name}*")))
    with engine.connect() as connection:
        tables = [connection.execute(text(f"SELECT * FROM {name}")).all() for name in ("calls", "contents", "rejected")]
        return repr(tables).encode()


# -- kept, or not ------------------------------------------------------------------------------------------------------


async def test_what_was_asked_and_answered_is_kept_byte_for_byte(
    broker: Broker, worker: Worker, ledger: Ledger
) -> None:
    job = await whole(broker, worker)
    before_ms = now_ms()
    assert ledger.keep() == 1
    kept = ledger.kept(job)
    assert kept
    assert (kept.state, kept.request, kept.status, kept.response) == ("stored", REQUEST, 200, ANSWER)
    assert (kept.request_bytes, kept.response_bytes) == (len(REQUEST), len(ANSWER))
    assert 0 <= before_ms + LONGEST_S * 1000 - kept.expires_ms < 60_000
    assert b"x-secret" not in file_of(ledger.engine)


async def test_nothing_is_kept_of_a_job_that_did_not_ask(
    broker: Broker, worker: Worker, ledger: Ledger, redis: Redis
) -> None:
    job = await whole(broker, worker, log="")
    assert await redis.exists(KEYS.body(job.id)) == 0
    assert ledger.keep() == 0
    assert ledger.kept(job) is None
    written = file_of(ledger.engine)
    assert job.id.encode() in written
    assert MARK.encode() not in written


async def test_an_answer_that_streamed_is_kept_as_it_would_have_come_whole(
    broker: Broker, worker: Worker, ledger: Ledger
) -> None:
    job = await streamed(broker, worker)
    ledger.keep()
    kept = ledger.kept(job)
    assert kept and kept.state == "stored"
    assert orjson.loads(kept.response or b"") == orjson.loads(SAY.message("c", 2))


async def test_the_provider_s_refusal_is_kept_as_it_came(broker: Broker, worker: Worker, ledger: Ledger) -> None:
    job = await whole(broker, worker, answer=b"<h1>Bad Request</h1>", status=400)
    ledger.keep()
    kept = ledger.kept(job)
    assert kept and (kept.state, kept.status, kept.response) == ("stored", 400, b"<h1>Bad Request</h1>")


async def test_of_a_job_that_broke_off_is_kept_what_was_said_until_then(
    broker: Broker, worker: Worker, ledger: Ledger
) -> None:
    job = await streamed(broker, worker, End(FAILED, "interrupted", "so it is", shown=False))
    ledger.keep()
    kept = ledger.kept(job)
    assert kept and kept.state == "stored"
    assert orjson.loads(kept.response or b"")["content"] == [{"type": "text", "text": "c.1 c.2 "}]


async def test_a_job_that_failed_without_an_answer_was_answered_by_the_relay(
    broker: Broker, worker: Worker, ledger: Ledger
) -> None:
    job = await submitted(broker)
    lease = await worker.start()
    end = End(FAILED, "upstream_timeout", "the provider sent no answer for 120 s", shown=False)
    await worker.publisher.finish(worker.outlet(lease), end, record_of(lease))
    ledger.keep()
    kept = ledger.kept(job)
    assert kept and (kept.state, kept.status) == ("stored", 504)
    assert orjson.loads(kept.response or b"")["error"]["message"] == "the provider sent no answer for 120 s"


async def test_a_job_whose_worker_died_is_kept_as_far_as_it_came(
    broker: Broker, worker: Worker, ledger: Ledger, redis: Redis
) -> None:
    job = await submitted(broker)
    outlet = worker.outlet(await worker.start())
    outlet.head(200, [("content-type", "text/event-stream")])
    for told in (*SAY.opening("c"), SAY.text("c", 1)):
        outlet.events(told, 1)
        await flushed(outlet)
    await let_lease_lapse(redis, KEYS, job)
    await broker.worker("reaper-1-000000").leases.expire()
    ledger.keep()
    kept = ledger.kept(job)
    assert kept and (kept.state, kept.request) == ("stored", REQUEST)
    assert orjson.loads(kept.response or b"")["content"] == [{"type": "text", "text": "c.1 "}]


async def test_a_job_cancelled_before_its_provider_spoke_was_answered_nothing(
    broker: Broker, worker: Worker, ledger: Ledger
) -> None:
    job = await submitted(broker)
    lease = await worker.start()
    await worker.finish(worker.outlet(lease), CANCELLED)
    ledger.keep()
    kept = ledger.kept(job)
    assert kept and (kept.state, kept.request, kept.status, kept.response) == ("stored", REQUEST, None, None)


async def test_a_body_that_is_too_big_is_told_by_its_size(broker: Broker, worker: Worker, ledger: Ledger) -> None:
    much = b'"%b"' % (b"x" * LIMIT)
    asked, answered = await whole(broker, worker, much), await whole(broker, worker, answer=much)
    ledger.keep()
    first, second = ledger.kept(asked), ledger.kept(answered)
    assert first and (first.state, first.request, first.response) == ("too_big", None, ANSWER)
    assert second and (second.state, second.request, second.response) == ("too_big", REQUEST, None)
    assert first.request_bytes == second.response_bytes == len(much)


async def test_a_request_of_many_pieces_is_kept_whole(broker: Broker, worker: Worker, ledger: Ledger) -> None:
    request = random.Random(4).randbytes(LIMIT)
    job = await whole(broker, worker, request)
    assert job.body_pieces
    ledger.keep()
    kept = ledger.kept(job)
    assert kept and kept.request == request


# -- from Redis to the ledger ------------------------------------------------------------------------------------------


async def test_redis_lets_go_of_a_request_when_the_ledger_has_it(
    broker: Broker, worker: Worker, ledger: Ledger, redis: Redis
) -> None:
    job, failed = await whole(broker, worker), await whole(broker, worker, status=400)
    assert 0 < await redis.ttl(KEYS.body(job.id)) <= broker.limits.log_ttl_s
    ledger.keep()
    assert await redis.exists(KEYS.body(job.id)) == 0
    assert await redis.exists(KEYS.body(failed.id)) == 1  # for its replay


async def test_a_call_that_is_followed_by_another_waits_for_the_end_of_its_job(
    broker: Broker, worker: Worker, ledger: Ledger
) -> None:
    job = await submitted(broker)
    lease = await worker.start()
    await worker.leases.call_failed(lease, call_of(lease).record("final", "error"))
    assert ledger.keep() == 1
    assert ledger.state(job) == "pending"
    second = replace(call_of(lease), number=2)
    head = orjson.dumps({"status": 200, "headers": []})
    await worker.publisher.finish(
        worker.outlet(lease), End(DONE, status=200), second.record("final", "completed"), head, ANSWER
    )
    assert ledger.keep() == 0  # not yet again
    ledger.due_again()
    assert ledger.keep() == 1
    assert ledger.state(job) == "stored"
    with ledger.engine.connect() as connection:
        found = rows(connection, Filter(job=job.id)).rows
    assert [row["content"] for row in found] == ["stored", "stored"]


@pytest.mark.parametrize("gone", ["job", "body", "log"])
async def test_what_redis_has_no_more_is_lost_and_asked_for_once(
    broker: Broker, worker: Worker, ledger: Ledger, redis: Redis, gone: str
) -> None:
    job = await whole(broker, worker)
    await redis.delete(getattr(KEYS, gone)(job.id))
    assert ledger.keep() == 1
    kept = ledger.kept(job)
    assert kept and kept.state == "lost"
    assert (kept.request, kept.response) == (
        None if gone in ("job", "body") else REQUEST,
        None if gone in ("job", "log") else ANSWER,
    )
    ledger.due_again()
    assert ledger.keep() == 0


async def test_an_answer_that_was_put_together_outlives_its_log(
    broker: Broker, worker: Worker, ledger: Ledger, redis: Redis
) -> None:
    job = await whole(broker, worker)
    await redis.delete(KEYS.log(job.id))
    head = {"status": 200, "headers": [], "bytes": len(ANSWER)}
    await redis.hset(KEYS.result(job.id), mapping={"0": ANSWER, "head": orjson.dumps(head)})
    ledger.keep()
    kept = ledger.kept(job)
    assert kept and (kept.state, kept.response) == ("stored", ANSWER)


@pytest.mark.parametrize(
    ("field", "value"), [("surface", "smoke signals"), ("generation", "x"), ("headers", "[]}"), ("tenant", "zeta")]
)
async def test_a_job_that_somebody_spoilt_is_lost_and_stops_nobody(
    broker: Broker, worker: Worker, ledger: Ledger, redis: Redis, field: str, value: str
) -> None:
    spoilt, sound = await whole(broker, worker), await whole(broker, worker)
    await redis.hset(KEYS.job(spoilt.id), field, value)
    ledger.keep()
    assert (ledger.state(spoilt), ledger.state(sound)) == ("lost", "stored")


async def test_many_are_taken_some_at_a_time_and_each_once(
    broker: Broker, worker: Worker, ledger: Ledger, redis_server: RedisServer
) -> None:
    jobs = [await whole(broker, worker, b'{"n":%d}' % number) for number in range(AT_ONCE + 10)]
    ledger.store()
    others = [Ledger(ledger.engine, redis_server.url) for _ in range(3)]
    counts = await asyncio.gather(*(asyncio.to_thread(other.contents.fill) for other in others))
    assert sorted(counts) == [0, 10, AT_ONCE]
    assert [kept.request for job in jobs if (kept := ledger.kept(job))] == [b'{"n":%d}' % n for n in range(len(jobs))]
    for other in others:
        other.close()


async def test_ledgers_that_are_killed_leave_nothing_out(
    start: Start, broker: Broker, worker: Worker, ledger: Ledger, redis: Redis
) -> None:
    jobs: list[Job] = []

    def any_noted(of: list[Job]) -> bool:
        return any(map(ledger.state, of))

    for _ in range(4):  # killed with some of them noted, some taken, some filled
        dying = start()
        await dying.ready()
        jobs += (fresh := [await whole(broker, worker, b'{"n":%d}' % (len(jobs) + n)) for n in range(80)])
        await wait_until(partial(any_noted, fresh), 30, every_s=0)
        await dying.kill()
    await asyncio.gather(*(start().ready() for _ in range(2)))
    await wait_until(lambda: all(ledger.state(job) == "stored" for job in jobs), 60, every_s=0.2)
    assert [kept.request for job in jobs if (kept := ledger.kept(job))] == [b'{"n":%d}' % n for n in range(len(jobs))]

    # Who was killed before it let go of a request leaves it to its expiry.
    assert not [name async for name in redis.scan_iter(KEYS.body("*")) if await redis.ttl(name) < 0]


# -- its time, and its end ---------------------------------------------------------------------------------------------


async def test_it_goes_when_its_time_is_over(broker: Broker, worker: Worker, ledger: Ledger) -> None:
    short, long = await whole(broker, worker, log="content;ttl=1"), await whole(broker, worker, log="content;ttl=60")
    ledger.keep()
    assert (ledger.state(short), ledger.state(long)) == ("stored", "stored")
    await wait_until(lambda: ledger.kept(short) is None)
    assert ledger.contents.remove() == 1
    with ledger.engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(contents)) == 1
    assert ledger.state(long) == "stored"


async def test_no_call_may_ask_for_longer_than_the_setting(
    broker: Broker, worker: Worker, engine: Engine, redis_server: RedisServer
) -> None:
    job = await whole(broker, worker, log="content;ttl=9999")
    ledger = Ledger(engine, redis_server.url, content_ttl_s=100)
    ledger.keep()
    kept = ledger.kept(job)
    assert kept and kept.expires_ms <= now_ms() + 100_000
    ledger.close()


async def test_a_ledger_that_comes_too_late_does_not_even_look(
    broker: Broker, worker: Worker, engine: Engine, redis_server: RedisServer
) -> None:
    job = await whole(broker, worker)
    ledger = Ledger(engine, redis_server.url, content_ttl_s=0.001)
    assert ledger.store() == 0
    assert ledger.kept(job) is None
    ledger.close()


@pytest.mark.parametrize("how", ["erased", "over"])
async def test_nothing_of_it_is_left_in_the_file(broker: Broker, worker: Worker, ledger: Ledger, how: str) -> None:
    job = await whole(broker, worker, REQUEST + b" " * 9000 + MARK.encode(), log="content;ttl=1")
    ledger.keep()
    if ledger.engine.dialect.name == "sqlite":
        assert MARK.encode() in file_of(ledger.engine)
    if how == "erased":
        assert erase(ledger.engine, job.id, TENANT)
    else:
        await wait_until(lambda: ledger.contents.remove() == 1)
    assert ledger.kept(job) is None
    assert MARK.encode() not in file_of(ledger.engine)


async def test_what_was_erased_does_not_come_back(broker: Broker, worker: Worker, ledger: Ledger) -> None:
    job = await submitted(broker)
    lease = await worker.start()
    await worker.leases.call_failed(lease, call_of(lease).record("final", "error"))
    ledger.keep()
    assert erase(ledger.engine, job.id, None)
    second = replace(call_of(lease), number=2).record("final", "completed")
    await worker.publisher.finish(
        worker.outlet(lease), End(DONE, status=200), second, b'{"status":200,"headers":[]}', ANSWER
    )
    body = broker.keys.body(job.id)
    assert await broker.link.execute("EXISTS", body)
    ledger.due_again()
    assert ledger.keep() == 1  # looked at once more, to let Redis forget the request
    assert not await broker.link.execute("EXISTS", body)
    assert ledger.keep() == 0
    assert ledger.kept(job) is None
    assert not erase(ledger.engine, job.id, None)


async def test_it_is_its_tenant_s(broker: Broker, worker: Worker, ledger: Ledger) -> None:
    job = await whole(broker, worker)
    ledger.keep()
    assert ledger.kept(job, "zeta") is None
    assert not erase(ledger.engine, job.id, "zeta")
    assert ledger.kept(job, TENANT)


async def test_a_record_that_somebody_made_up_shows_no_other_tenant_s_job(
    broker: Broker, worker: Worker, ledger: Ledger, redis: Redis
) -> None:
    job = await whole(broker, worker, log="")
    [record] = await usage_records(redis, KEYS)
    made_up: dict[Any, Any] = record | {"call": f"{job.id}:1", "tenant": "zeta", "log": "content"}
    await redis.xadd(KEYS.usage, made_up)
    ledger.keep()
    kept = ledger.kept(job, "zeta")
    assert kept and (kept.state, kept.request, kept.response) == ("lost", None, None)
