"""Results: the whole answer, from the log while there is one, and kept when it cannot be had from there any more."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from relay.broker import scripts
from relay.broker.asking import PIECE_BYTES
from relay.broker.publisher import End
from relay.broker.results import DUE_AGAIN_MS, DUE_AT_ONCE, Keeper, Results
from relay.core.errors import Gone, UpstreamProtocolError
from relay.core.job import DONE, FAILED, Job
from tests.broker.system import Broker, Worker, event, flushed, record_of
from tests.support import dialects

STREAM = [("content-type", "text/event-stream"), ("request-id", "req_1")]
JSON = [("content-type", "application/json"), ("request-id", "req_1")]
SAY = dialects.Anthropic()


@pytest.fixture
def results(broker: Broker) -> Results:
    return Results(broker.link, broker.keys, broker.limits)


@pytest.fixture
def keeper(broker: Broker) -> Keeper:
    return Keeper(broker.link, broker.keys, broker.limits)


async def streamed(broker: Broker, worker: Worker, texts: int = 3, **facts: Any) -> Job:
    """A job that has streamed an answer, an event to a frame."""
    job = await broker.submit(**{"on_disconnect": "finish", **facts})
    outlet = worker.outlet(await worker.start())
    outlet.head(200, STREAM)
    story = [*SAY.opening("c"), *[SAY.text("c", i + 1) for i in range(texts)], *SAY.closing()]
    for told in [*story, SAY.usage("c", SAY.counts(texts)), SAY.stop()]:
        outlet.events(told, 1)
        await flushed(outlet)
    assert await worker.finish(outlet) == 1
    return job


async def answered(broker: Broker, worker: Worker, status: int, body: bytes, **facts: Any) -> Job:
    """A job whose answer came whole."""
    job = await broker.submit(**{"on_disconnect": "finish", **facts})
    lease = await worker.start()
    head = orjson.dumps({"status": status, "headers": JSON})
    end = End(DONE if status == 200 else FAILED, "" if status == 200 else "overloaded_error", status=status)
    assert await worker.publisher.finish(worker.outlet(lease), end, record_of(lease), head, body) == 1
    return job


async def test_an_answer_that_streamed_is_what_the_provider_would_have_said_unstreamed(
    broker: Broker, worker: Worker, results: Results
) -> None:
    job = await streamed(broker, worker, 40)
    answer = await results.of(job)
    assert answer.status == 200
    assert dict(answer.headers) == {"request-id": "req_1", "content-type": "application/json"}
    assert orjson.loads(answer.body) == orjson.loads(SAY.message("c", 40))


async def test_an_answer_that_came_whole_is_given_byte_for_byte(
    broker: Broker, worker: Worker, results: Results
) -> None:
    body = bytes(range(256)) * (3 << 12)
    job = await answered(broker, worker, 200, body)
    answer = await results.of(job)
    assert (answer.status, answer.headers, answer.body) == (200, JSON, body)


async def test_what_was_asked_for_once_outlives_the_log(
    broker: Broker, worker: Worker, results: Results, redis: Redis
) -> None:
    job = await streamed(broker, worker)
    first = await results.of(job)
    await redis.delete(broker.keys.log(job.id))
    assert await results.of(job) == first
    assert 0 < await redis.ttl(broker.keys.result(job.id)) <= broker.limits.result_ttl_s


async def test_an_answer_of_many_pieces_is_kept_whole(
    broker: Broker, worker: Worker, results: Results, redis: Redis
) -> None:
    job = await broker.submit(on_disconnect="finish")
    outlet = worker.outlet(await worker.start())
    outlet.head(200, STREAM)
    text = "x" * PIECE_BYTES
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
    for told in [*SAY.opening("c"), *[b"data: %b\n\n" % orjson.dumps(delta)] * 3, *SAY.closing(), SAY.stop()]:
        outlet.events(told, 1)
        await flushed(outlet)
    await worker.finish(outlet)
    first = await results.of(job)
    assert orjson.loads(first.body)["content"][0]["text"] == text * 3
    await redis.delete(broker.keys.log(job.id))
    assert await results.of(job) == first
    await redis.hdel(broker.keys.result(job.id), "1")  # a part must not pass for the whole
    with pytest.raises(Gone):
        await results.of(job)


async def test_a_worker_keeps_what_streamed_before_its_log_expires(
    broker: Broker, worker: Worker, results: Results, keeper: Keeper, redis: Redis
) -> None:
    jobs = [await streamed(broker, worker) for _ in range(3)]
    assert await keeper.keep() == 0  # not yet
    await it_is_time(broker, redis)
    assert await keeper.keep() == 3
    assert await redis.zcard(broker.keys.due_results) == 0
    await redis.delete(*[broker.keys.log(job.id) for job in jobs])
    for job in jobs:
        assert orjson.loads((await results.of(job)).body)["content"]


async def test_what_a_worker_died_with_is_handed_out_again(
    broker: Broker, worker: Worker, keeper: Keeper, redis: Redis
) -> None:
    job = await streamed(broker, worker)
    await it_is_time(broker, redis)
    taken = await broker.link.run(scripts.DUE_RESULTS, [broker.keys.due_results], [10, DUE_AGAIN_MS])
    assert [item.decode() for item in taken] == [job.id]
    assert await keeper.keep() == 0  # somebody is at it
    await it_is_time(broker, redis)
    assert await keeper.keep() == 1


async def test_what_cannot_be_put_together_is_tried_once(
    broker: Broker, worker: Worker, results: Results, keeper: Keeper, redis: Redis
) -> None:
    job = await broker.submit(on_disconnect="finish")
    outlet = worker.outlet(await worker.start())
    outlet.head(200, STREAM)
    outlet.events(event(1), 1)  # a delta of nothing
    await worker.finish(outlet)
    with pytest.raises(UpstreamProtocolError):
        await results.of(job)
    await it_is_time(broker, redis)
    assert await keeper.keep() == 1
    assert await keeper.keep() == 0


async def test_only_so_many_are_taken_at_a_time(broker: Broker, keeper: Keeper, redis: Redis) -> None:
    await redis.zadd(broker.keys.due_results, {f"0-{n:032x}": 1 for n in range(DUE_AT_ONCE + 1)})
    assert [await keeper.keep(), await keeper.keep()] == [DUE_AT_ONCE, 1]


@pytest.mark.parametrize("ends", ["streamed", "whole"])
async def test_a_call_whose_client_stayed_is_not_kept_beyond_its_log(
    broker: Broker, worker: Worker, results: Results, redis: Redis, ends: str
) -> None:
    if ends == "streamed":
        job = await streamed(broker, worker, on_disconnect="cancel")
    else:
        job = await answered(broker, worker, 200, b"{}", on_disconnect="cancel")
    assert await redis.zcard(broker.keys.due_results) == 0
    assert await redis.ttl(broker.keys.log(job.id)) <= broker.limits.log_ttl_s
    await redis.delete(broker.keys.log(job.id))
    with pytest.raises(Gone):
        await results.of(job)


async def test_a_refusal_is_the_providers_own_answer(broker: Broker, worker: Worker, results: Results) -> None:
    job = await answered(broker, worker, 529, b'{"type":"error"}')
    refusal = await results.refusal(job)
    assert refusal
    assert (refusal.status, refusal.body) == (529, b'{"type":"error"}')


async def test_a_stream_that_failed_has_no_answer_of_its_own(
    broker: Broker, worker: Worker, results: Results, redis: Redis
) -> None:
    job = await broker.submit()
    outlet = worker.outlet(await worker.start())
    await worker.stream(outlet, 3)
    await worker.finish(outlet, FAILED)
    assert await results.refusal(job) is None
    await redis.delete(broker.keys.log(job.id))
    assert await results.refusal(job) is None


async def it_is_time(broker: Broker, redis: Redis) -> None:
    for job_id in await redis.zrange(broker.keys.due_results, 0, -1):
        await redis.zadd(broker.keys.due_results, {job_id: 1})
