"""A provider that takes its time: the answer begins without it, comments fill the silence, and errors still arrive."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import orjson
import pytest
from openai import AsyncOpenAI

from tests.broker.system import event
from tests.ingress.hand import JSON, HandWorker
from tests.support.relay import Relay, message
from tests.support.sse import SseReader
from tests.support.wait import wait_until

MODEL = "claude-sonnet-4-6"
CHAT = {"model": "gpt-5", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
OVERLOADED = b'{"type": "error",\n "error": {"type": "overloaded_error", "message": "later"}}'


async def silent_stream(door: Relay, *, openai: bool = False) -> SseReader:
    """A stream that began because nobody answered in time."""
    if openai:
        return await door.stream(CHAT, path="/v1/chat/completions")
    return await door.stream(message(MODEL, stream=True))


async def test_a_late_answer_joins_the_stream_that_began_without_it(door: Relay, hand: HandWorker) -> None:
    async with await silent_stream(door) as reader:
        work = await hand.take()
        await work.head()
        await work.count_to(2)
        await work.end()
        events = await reader.rest()
    assert reader.status == 200
    assert reader.headers.get("content-type") == "text/event-stream; charset=utf-8"
    assert reader.job_id == work.job.id
    assert reader.comments[0] == "keep-alive"
    assert [event.json["n"] for event in events] == [1, 2]


async def test_comments_come_while_nothing_else_does(door: Relay, hand: HandWorker) -> None:
    asking = asyncio.create_task(door.stream(message(MODEL, stream=True)))
    work = await hand.take()
    await work.head()
    await work.count_to(1)
    async with await asking as reader:
        reading = asyncio.create_task(reader.take(2))
        await wait_until(lambda: len(reader.comments) == 2)
        await work.count_to(2)
        await work.end()
        await reading
        await reader.rest()
    assert reader.received.startswith(event(1) + b": keep-alive\n\n" * 2)
    assert reader.received.replace(b": keep-alive\n\n", b"") == event(1) + event(2)


async def test_a_busy_stream_has_no_comments(door: Relay, hand: HandWorker) -> None:
    asking = asyncio.create_task(door.stream(message(MODEL, stream=True)))
    work = await hand.take()
    await work.head()
    async with await asking as reader:
        clock, count = asyncio.get_running_loop().time, 0
        begun = clock()
        while clock() < begun + 0.7:  # more than two heartbeats
            count += 1
            await work.count_to(count)
            await reader.next()
        await work.end()
        await reader.rest()
    gaps = [after - before for before, after in pairwise(reader.arrivals)]
    # None at all, unless this machine itself was too busy to send an event in time.
    assert len(reader.comments) <= sum(int(gap / 0.2) for gap in gaps)
    assert count > 1


async def test_on_the_openai_surface_a_comment_belongs_to_the_event_behind_it(door: Relay, hand: HandWorker) -> None:
    async with await silent_stream(door, openai=True) as reader:
        work = await hand.take()
        await work.head()
        await work.events(b'data: {"n":1}\n\n')
        await work.end()
        await reader.rest()
    assert reader.received.endswith(b': ping\ndata: {"n":1}\n\n')
    assert reader.received.replace(b": ping\n", b"") == b'data: {"n":1}\n\n'


async def test_the_openai_sdk_reads_through_comments(door: Relay, hand: HandWorker) -> None:
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-5"}

    def said(text: str) -> bytes:
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
        return b"data: " + orjson.dumps({**chunk, "choices": [choice]}) + b"\n\n"

    async with AsyncOpenAI(base_url=f"{door.url}/v1", api_key=door.key, max_retries=0) as sdk:
        stream = await sdk.chat.completions.create(
            model="gpt-5", messages=[{"role": "user", "content": "Hi"}], stream=True
        )
        work = await hand.take()
        await work.head()
        await work.events(said("Hel"))
        first = await anext(stream)
        reading = asyncio.create_task(anext(stream))
        done, _ = await asyncio.wait({reading}, timeout=0.5)  # a silence, for a comment to come in
        assert not done
        await work.events(said("lo"), b"data: [DONE]\n\n")
        await work.end()
        texts = [each.choices[0].delta.content for each in (first, await reading)]
        await stream.close()
    assert texts == ["Hel", "lo"]


async def test_a_late_error_is_the_providers_own(door: Relay, hand: HandWorker) -> None:
    for openai, name in ((False, "error"), (True, "")):
        async with await silent_stream(door, openai=openai) as reader:
            work = await hand.take()
            await work.answer(529, OVERLOADED)
            [last] = await reader.rest()
        assert last.name == name
        assert last.json == orjson.loads(OVERLOADED)


@pytest.mark.parametrize("body", [b"<html>bad gateway</html>", b"", b'"no object"'])
async def test_a_late_error_that_is_no_object_is_put_into_one(door: Relay, hand: HandWorker, body: bytes) -> None:
    async with await silent_stream(door) as reader:
        work = await hand.take()
        await work.answer(502, body, [("content-type", "text/html")])
        [last] = await reader.rest()
    assert last.name == "error"
    assert last.json["error"]["details"]["error_code"] == "upstream_protocol_error"
    assert "502" in last.json["error"]["message"]


async def test_a_late_answer_that_is_no_stream_is_an_error(door: Relay, hand: HandWorker) -> None:
    async with await silent_stream(door) as reader:
        work = await hand.take()
        await work.answer(200, b'{"id": "msg_1"}', JSON)
        [last] = await reader.rest()
    assert last.json["error"]["details"]["error_code"] == "upstream_protocol_error"


async def test_a_job_that_fails_late_ends_with_an_error_event(door: Relay, hand: HandWorker) -> None:
    async with await silent_stream(door) as reader:
        work = await hand.take()
        await work.fail("worker_lost", "every worker was lost")
        [last] = await reader.rest()
    assert last.json["error"]["details"]["error_code"] == "worker_lost"


async def test_an_answer_that_is_no_stream_is_waited_for(door: Relay, hand: HandWorker) -> None:
    asking = asyncio.create_task(door.post("/v1/messages", message(MODEL)))
    work = await hand.take()
    done, _ = await asyncio.wait({asking}, timeout=1.0)  # longer than any patience a stream has here
    assert not done
    await work.answer(200, b'{"late": true}')
    answer = await asking
    assert (answer.status, answer.body) == (200, b'{"late": true}')
