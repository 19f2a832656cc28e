"""Jobs: where they stand, their events from any point on, their end, and whose they are."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from relay.broker.api_keys import ApiKeys
from relay.core.job import Job
from tests.broker.system import Broker, event
from tests.ingress.hand import HandWorker, Work
from tests.support import http
from tests.support.processes import RedisServer
from tests.support.relay import Relay
from tests.support.sse import SseEvent, SseReader
from tests.support.wait import wait_until

EVENTS = 40
UNKNOWN = "0-" + "0" * 32


async def submit(broker: Broker, **facts: Any) -> Job:
    """A job of the tenant whose key the tests have."""
    return await broker.submit(tenant="default", **facts)


async def ended(broker: Broker, hand: HandWorker) -> Work:
    """A job that has streamed its events, three to a frame, and is done."""
    await submit(broker)
    work = await hand.take()
    await work.head()
    for first in range(1, EVENTS + 1, 3):
        await work.events(*map(event, range(first, min(first + 3, EVENTS + 1))))
    await work.end()
    return work


def numbers(events: list[SseEvent]) -> list[int]:
    return [event.json["n"] for event in events]


# -- where it stands -----------------------------------------------------------------------------------------------


async def test_a_job_is_shown_as_it_goes_through_its_life(door: Relay, broker: Broker, hand: HandWorker) -> None:
    job = await submit(broker)
    queued = await door.job(job.id)
    assert queued["object"] == "job"
    assert (queued["status"], queued["state"], queued["attempt"], queued["last_event"]) == ("queued", "queued", 0, None)
    assert (queued["worker"], queued["usage_kind"], queued["error"]) == (None, None, None)
    assert (queued["model"], queued["provider"], queued["stream"]) == ("claude-sonnet-4-6", "anthropic", True)
    assert queued["timings"]["created_ms"] == job.created_ms

    work = await hand.take()
    taken = await door.job(job.id)
    assert (taken["status"], taken["state"], taken["attempt"]) == ("in_progress", "dispatched", 1)
    assert taken["worker"] == {"name": "host-4711-ab12cd", "pid": 4711}
    assert taken["generation"] == work.lease.generation

    await work.head()
    await work.count_to(2)
    streaming = await door.job(job.id)
    assert (streaming["state"], streaming["last_event"]) == ("streaming", work.cursor(2))

    await work.end()
    done = await door.job(job.id)
    assert (done["status"], done["state"], done["usage_kind"], done["worker"]) == ("completed", "done", "final", None)
    assert done["last_event"] == work.cursor(3)
    timings = [done["timings"][name] for name in ("claimed_ms", "dispatched_ms", "first_event_ms", "ended_ms")]
    assert timings == sorted(timings)


async def test_a_failed_job_says_why(door: Relay, broker: Broker, hand: HandWorker) -> None:
    job = await submit(broker)
    work = await hand.take()
    await work.fail("upstream_timeout", "the provider sent no answer")
    shown = await door.job(job.id)
    assert (shown["status"], shown["state"]) == ("failed", "failed")
    assert shown["error"] == {"code": "upstream_timeout", "message": "the provider sent no answer"}


# -- its events ----------------------------------------------------------------------------------------------------


async def test_a_reader_may_come_back_at_every_position_of_a_job_that_has_ended(
    door: Relay, broker: Broker, hand: HandWorker
) -> None:
    work = await ended(broker, hand)
    for seen in range(EVENTS):
        async with await door.events(work.job.id, after=work.cursor(seen) if seen else "") as reader:
            events = await reader.rest()
        assert numbers(events) == list(range(seen + 1, EVENTS + 1)), f"behind event {seen}"
        assert [event.id for event in events] == [work.cursor(n) for n in range(seen + 1, EVENTS + 1)]


async def test_a_reader_may_come_back_at_every_position_of_a_job_that_runs(
    door: Relay, broker: Broker, hand: HandWorker
) -> None:
    await submit(broker)
    work = await hand.take()
    await work.head()
    await work.count_to(EVENTS // 2)
    cursors = [work.cursor(seen) if seen else "" for seen in range(EVENTS // 2 + 1)]
    readers = await asyncio.gather(*[door.events(work.job.id, after=cursor) for cursor in cursors])
    await work.events(*map(event, range(EVENTS // 2 + 1, EVENTS + 1)))
    await work.end()
    for seen, reader in enumerate(readers):
        assert numbers(await reader.rest()) == list(range(seen + 1, EVENTS + 1)), f"behind event {seen}"
        await reader.close()


async def test_nothing_is_left_when_all_was_seen(door: Relay, broker: Broker, hand: HandWorker) -> None:
    work = await ended(broker, hand)
    for seen in (EVENTS, EVENTS + 1):
        answer = await stream(door, work.job.id, work.cursor(seen))
        assert (answer.status, answer.body) == (204, b"")


async def test_the_events_are_the_native_bytes_behind_their_ids(door: Relay, broker: Broker, hand: HandWorker) -> None:
    work = await ended(broker, hand)
    answer = await stream(door, work.job.id)
    retry, _, events = answer.body.partition(b"\n\n")
    assert 1000 <= int(retry.removeprefix(b"retry: ")) <= 5000
    assert re.sub(rb"id: \d+-\d+\n", b"", events) == b"".join(map(event, range(1, EVENTS + 1)))
    assert answer.headers.get("content-type") == "text/event-stream; charset=utf-8"
    assert answer.headers.get("cache-control") == "no-cache, no-transform"
    assert answer.headers.get("x-relay-job-id") == work.job.id


async def test_readers_do_not_all_come_back_at_once(door: Relay, broker: Broker, hand: HandWorker) -> None:
    work = await ended(broker, hand)
    retries = {(await stream(door, work.job.id)).body.partition(b"\n")[0] for _ in range(8)}
    assert len(retries) > 1


async def test_a_job_that_waits_has_a_stream_already(door: Relay, broker: Broker, hand: HandWorker) -> None:
    job = await submit(broker)
    async with await door.events(job.id) as reader:
        reading = asyncio.create_task(reader.next())
        await wait_until(lambda: reader.comments, what="a comment while the job waits")
        work = await hand.take()
        await work.head()
        await work.count_to(1)
        await work.end()
        assert (await reading).id == work.cursor(1)
        assert await reader.rest() == []


async def test_an_error_has_an_id_and_is_told_once(door: Relay, broker: Broker, hand: HandWorker) -> None:
    job = await submit(broker)
    work = await hand.take()
    await work.head()
    await work.count_to(2)
    await work.fail("interrupted", "the worker was lost")
    async with await door.events(job.id, after=work.cursor(2)) as reader:
        [error] = await reader.rest()
    assert (error.id, error.name) == (work.cursor(3), "error")
    assert error.json["error"]["details"]["error_code"] == "interrupted"
    assert (await stream(door, job.id, error.id)).status == 204


async def test_a_cancelled_job_says_so_in_its_stream(door: Relay, broker: Broker) -> None:
    job = await submit(broker)
    async with await door.events(job.id) as reader:
        await cancel(door, job.id)
        [error] = await reader.rest()
    assert error.json["error"]["details"]["error_code"] == "cancelled"


async def test_an_answer_that_was_no_stream_is_one_event(door: Relay, broker: Broker, hand: HandWorker) -> None:
    job = await submit(broker, stream=False)
    work = await hand.take()
    async with await door.events(job.id) as live:
        await work.answer(200, b'{\n "id": "msg_1"\r\n}')
        [said] = await live.rest()
    assert said.json == {"id": "msg_1"}
    assert said.id == work.cursor(2)
    async with await door.events(job.id) as replayed:
        assert await replayed.rest() == [said]


async def test_an_error_answer_is_an_error_event(door: Relay, broker: Broker, hand: HandWorker) -> None:
    job = await submit(broker, surface="openai")
    work = await hand.take()
    await work.answer(401, b'{"error": {"message": "no", "code": "invalid_api_key"}}')
    async with await door.events(job.id) as reader:
        [error] = await reader.rest()
    assert (error.name, error.json["error"]["code"]) == ("", "invalid_api_key")


async def test_the_cursor_may_stand_in_the_query_and_the_header_is_newer(
    door: Relay, broker: Broker, hand: HandWorker
) -> None:
    work = await ended(broker, hand)
    path = f"/v1/jobs/{work.job.id}/stream?last_event_id={work.cursor(38)}"
    async with await SseReader.open(door.port, path, door.auth) as reader:
        assert numbers(await reader.rest()) == [39, 40]
    async with await SseReader.open(door.port, path, door.auth, last_event_id=work.cursor(39)) as reader:
        assert numbers(await reader.rest()) == [40]


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "1",
        "1-",
        "-1",
        "1-2-3",
        "1_2",
        "0x1-1",
        "١-٢",
        "1-2 or 1",
        "9" * 21 + "-1",
        f"{2**64 - 1}-{2**64 - 1}",
        "ä",
    ],
)
async def test_a_cursor_that_is_none(door: Relay, broker: Broker, hand: HandWorker, cursor: str) -> None:
    work = await ended(broker, hand)
    header = cursor.encode().decode("latin-1")
    answer = await stream(door, work.job.id, header)
    check_problem(answer, 400, "invalid_request")
    assert "Last-Event-ID" in answer.json["detail"]


async def test_a_cursor_ahead_of_a_running_job_ends_with_the_job(door: Relay, broker: Broker, hand: HandWorker) -> None:
    job = await submit(broker)
    work = await hand.take()
    await work.head()
    await work.count_to(1)
    async with await door.events(job.id, after=work.cursor(1000)) as reader:
        await work.end()
        assert await reader.rest() == []


async def test_head_of_a_stream_has_no_end_to_wait_for(door: Relay, broker: Broker) -> None:
    job = await submit(broker)
    for job_id, status in ((job.id, 200), (UNKNOWN, 404)):
        raw = http.render("HEAD", f"/v1/jobs/{job_id}/stream", [*door.auth, ("connection", "close")])
        exchange = await http.Exchange.open(door.port, raw)
        assert exchange.status == status
        assert await exchange.reader.read() == b""
        await exchange.close()


async def test_events_that_have_expired_are_gone(door: Relay, broker: Broker, hand: HandWorker, redis: Redis) -> None:
    work = await ended(broker, hand)
    await redis.delete(broker.keys.log(work.job.id))
    check_problem(await stream(door, work.job.id), 410, "gone")
    assert (await door.job(work.job.id))["status"] == "completed"


async def test_a_slow_reader_gets_everything_and_costs_little_memory(
    door: Relay, broker: Broker, hand: HandWorker
) -> None:
    job = await submit(broker)
    work = await hand.take()
    await work.head()
    await work.count_to(1)
    async with await _slow(door, job.id) as reader:
        await reader.next()
        before_kb = resident_kb(door)
        for number in range(2, 66):
            await work.events(b'data: {"n":%d,"pad":"%b"}\n\n' % (number, b"x" * (128 << 10)))
        after_kb = resident_kb(door)
        await work.end()
        assert numbers(await reader.rest()) == list(range(2, 66))
    # 8 MiB were sent; the reader's own queue, a page of its log and the sockets' buffers are well below that.
    assert after_kb - before_kb < 4096


async def _slow(door: Relay, job_id: str) -> SseReader:
    """A reader that has one event and a very small window."""
    path = f"/v1/jobs/{job_id}/stream"
    return await SseReader.open(door.port, path, door.auth, receive_buffer=4096)


def resident_kb(door: Relay) -> int:
    with Path(f"/proc/{door.ingresses[0].pid}/status").open() as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


# -- cancelling ----------------------------------------------------------------------------------------------------


async def test_a_waiting_job_is_cancelled_at_once_and_once(door: Relay, broker: Broker) -> None:
    job = await submit(broker)
    first, second = await cancel(door, job.id), await cancel(door, job.id)
    assert (first.status, first.json["status"], first.json["state"]) == (200, "cancelled", "cancelled")
    assert second.json == first.json


async def test_a_running_job_is_cancelled_by_its_worker(door: Relay, broker: Broker, hand: HandWorker) -> None:
    job = await submit(broker)
    work = await hand.take()
    answer = await cancel(door, job.id)
    assert (answer.status, answer.json["status"]) == (200, "in_progress")
    await work.head()
    assert work.cancel_wanted
    await work.end()


async def test_an_ended_job_stays_as_it_is(door: Relay, broker: Broker, hand: HandWorker) -> None:
    work = await ended(broker, hand)
    answer = await cancel(door, work.job.id)
    assert (answer.status, answer.json["status"]) == (200, "completed")


# -- whose they are ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "/stream"), ("POST", "/cancel")])
async def test_somebody_elses_job_is_as_unknown_as_one_that_is_none(
    door: Relay, broker: Broker, stranger: list[tuple[str, str]], method: str, path: str
) -> None:
    job = await submit(broker)
    foreign = await http.request(door.port, method, f"/v1/jobs/{job.id}{path}", stranger)
    none = await http.request(door.port, method, f"/v1/jobs/{UNKNOWN}{path}", stranger)
    check_problem(foreign, 404, "not_found")
    assert without_ids(foreign, job.id) == without_ids(none, UNKNOWN)
    assert [name for name, _ in foreign.headers] == [name for name, _ in none.headers]
    assert (await door.job(job.id))["status"] == "queued"


def without_ids(answer: http.Response, job_id: str) -> dict[str, Any]:
    shown: dict[str, Any] = answer.json
    del shown["request_id"]
    return {name: str(value).replace(job_id, "…") for name, value in shown.items()}


@pytest.mark.parametrize(
    "job_id",
    [
        "x",
        "0-1",
        UNKNOWN + "0",
        UNKNOWN.replace("0", "A"),
        "1-" + "0" * 32,
        f"{UNKNOWN}:log",
        "%7B0%7D:x",
        "ä" * 32,
        "a" * 9000,
    ],
)
async def test_an_id_that_is_none_is_not_found(door: Relay, job_id: str) -> None:
    for path in ("", "/stream", "/cancel"):
        method = "POST" if path == "/cancel" else "GET"
        raw_id = job_id.encode().decode("latin-1") if job_id.isascii() else "%C3%A4" * 32
        answer = await http.request(door.port, method, f"/v1/jobs/{raw_id}{path}", door.auth)
        check_problem(answer, 404, "not_found")


async def test_jobs_want_a_key(door: Relay) -> None:
    for lines in ([], [("x-api-key", "no")], [("authorization", "Bearer no")]):
        check_problem(await http.request(door.port, "GET", f"/v1/jobs/{UNKNOWN}", lines), 401, "unauthenticated")
    bearer = [("authorization", f"Bearer {door.key}")]
    check_problem(await http.request(door.port, "GET", f"/v1/jobs/{UNKNOWN}", bearer), 404, "not_found")


async def test_a_key_may_be_for_other_things(door: Relay, redis_server: RedisServer, redis: Redis) -> None:
    keys = ApiKeys(redis_server.client(decode_responses=False))
    _, key = await keys.create("usage only", "default", scopes=("usage:read",))
    await keys._client.aclose()
    answer = await http.request(door.port, "GET", f"/v1/jobs/{UNKNOWN}", [("x-api-key", key)])
    check_problem(answer, 403, "forbidden")
    assert "jobs:read" in answer.json["detail"]


async def cancel(door: Relay, job_id: str) -> http.Response:
    return await http.request(door.port, "POST", f"/v1/jobs/{job_id}/cancel", door.auth)


async def stream(door: Relay, job_id: str, cursor: str = "") -> http.Response:
    """A job's stream, read to its end."""
    lines = [*door.auth, *([("last-event-id", cursor)] if cursor else [])]
    return await http.request(door.port, "GET", f"/v1/jobs/{job_id}/stream", lines)


def check_problem(answer: http.Response, status: int, code: str) -> None:
    """RFC 9457."""
    assert answer.status == status, answer
    assert answer.headers.get("content-type") == "application/problem+json"
    assert (answer.json["status"], answer.json["code"]) == (status, code)
    assert answer.json["detail"]
