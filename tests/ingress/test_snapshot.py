"""A reader who comes late gets the message so far in a few events, then the rest as it comes, and nothing twice."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from relay.core.assembly.assembly import Assembly
from tests.broker.system import Broker
from tests.ingress.hand import HandWorker, Work
from tests.support import dialects, http
from tests.support.relay import Relay
from tests.support.sse import SseEvent, SseReader

TEXTS = 12
SAID = [
    *(say := dialects.Anthropic()).opening("c"),
    *[say.text("c", number) for number in range(1, TEXTS + 1)],
    *say.closing(),
    say.usage("c", say.counts(TEXTS)),
    say.stop(),
]


async def begun(broker: Broker, hand: HandWorker, *events: bytes) -> Work:
    """A job that has streamed these events."""
    await broker.submit(tenant="default")
    work = await hand.take()
    await work.head()
    for event in events:
        await work.events(event)
    return work


async def late(door: Relay, work: Work, after: str = "") -> SseReader:
    path = f"/v1/jobs/{work.job.id}/stream?snapshot=1"
    return await SseReader.open(door.port, path, door.auth, last_event_id=after)


def message_in(events: bytes) -> bytes | None:
    assembly = Assembly("anthropic")
    assembly.feed(events)
    return assembly.body()


async def test_from_every_position_the_message_is_the_same(door: Relay, broker: Broker, hand: HandWorker) -> None:
    await broker.submit(tenant="default")
    work = await hand.take()
    await work.head()
    readers = []
    for event in SAID:
        await work.events(event)
        readers.append(await late(door, work))
    await work.end()
    for reader in readers:
        await reader.rest()
        await reader.close()
        assert message_in(reader.received) == message_in(b"".join(SAID))


async def test_what_was_said_so_far_is_few_events(door: Relay, broker: Broker, hand: HandWorker) -> None:
    work = await begun(broker, hand, *SAID[:10])
    async with await late(door, work) as reader:
        start, block, text = await reader.take(3)
        assert [start.name, block.name] == ["message_start", "content_block_start"]
        assert text.json["delta"]["text"] == dialects.words("c", 8)
        for event in SAID[10:]:
            await work.events(event)
        await work.end()
        rest = await reader.rest()
    assert [event.id for event in (start, block, text)] == ["", "", work.cursor(10)]
    assert [event.id for event in rest] == [work.cursor(number) for number in range(11, len(SAID) + 1)]


async def test_a_reader_who_was_cut_off_behind_it_goes_on_from_there(
    door: Relay, broker: Broker, hand: HandWorker
) -> None:
    work = await begun(broker, hand, *SAID[:10])
    async with await late(door, work) as reader:
        snapshot = await reader.take(3)
    await work.events(*SAID[10:])
    await work.end()
    async with await late(door, work, after=snapshot[-1].id) as reader:
        assert numbers(await reader.rest(), work) == list(range(11, len(SAID) + 1))


async def test_of_a_job_that_has_ended_it_is_all_there_is(door: Relay, broker: Broker, hand: HandWorker) -> None:
    work = await begun(broker, hand, *SAID)
    await work.end()
    async with await late(door, work) as reader:
        events = await reader.rest()
    assert (len(events), events[-1].name) == (6, "message_stop")
    assert message_in(reader.received) == message_in(b"".join(SAID))
    async with await late(door, work, after=events[-1].id) as reader:
        assert reader.status == 204


async def test_an_error_at_the_end_comes_behind_it(door: Relay, broker: Broker, hand: HandWorker) -> None:
    work = await begun(broker, hand, *SAID[:4])
    await work.fail("interrupted", "the worker was lost")
    async with await late(door, work) as reader:
        *_, text, error = await reader.rest()
    assert (text.id, text.json["delta"]["text"]) == (work.cursor(4), dialects.words("c", 2))
    assert (error.id, error.name) == (work.cursor(5), "error")


async def test_before_anything_was_said_it_is_nothing(door: Relay, broker: Broker, hand: HandWorker) -> None:
    work = await begun(broker, hand)
    async with await late(door, work) as reader:
        await work.events(*SAID)
        await work.end()
        assert numbers(await reader.rest(), work) == list(range(1, len(SAID) + 1))


async def test_an_answer_that_was_no_stream_is_one_event(door: Relay, broker: Broker, hand: HandWorker) -> None:
    await broker.submit(tenant="default", stream=False)
    work = await hand.take()
    await work.answer(200, b'{"id": "msg_1"}')
    async with await late(door, work) as reader:
        assert [event.json for event in await reader.rest()] == [{"id": "msg_1"}]


async def test_what_cannot_be_put_together_comes_as_it_is(door: Relay, broker: Broker, hand: HandWorker) -> None:
    await broker.submit(tenant="default", surface="openai")
    work = await hand.take()
    await work.head()
    deep = b'data: {"choices":[],"deep":%b1%b}\n\n' % (b"[" * 300, b"]" * 300)
    await work.events(deep, b"data: [DONE]\n\n")
    await work.end()
    async with await late(door, work) as reader:
        assert numbers(await reader.rest(), work) == [1, 2]
    assert deep in reader.received


async def test_it_expires_with_the_events(door: Relay, broker: Broker, hand: HandWorker, redis: Redis) -> None:
    work = await begun(broker, hand, *SAID)
    await work.end()
    await redis.delete(broker.keys.log(work.job.id))
    answer = await http.request(door.port, "GET", f"/v1/jobs/{work.job.id}/stream?snapshot=1", door.auth)
    assert (answer.status, answer.json["code"]) == (410, "gone")


@pytest.mark.parametrize("wish", ["x", "2", ""])
async def test_a_wish_that_makes_no_sense(door: Relay, broker: Broker, wish: str) -> None:
    job = await broker.submit(tenant="default")
    answer = await http.request(door.port, "GET", f"/v1/jobs/{job.id}/stream?snapshot={wish}", door.auth)
    assert (answer.status, answer.json["param"]) == (400, "snapshot")


def numbers(events: list[SseEvent], work: Work) -> list[int]:
    """The numbers in the events' ids, all of one generation."""
    assert all(event.id.startswith(f"{work.lease.generation}-") for event in events)
    return [int(event.id.partition("-")[2]) for event in events]
