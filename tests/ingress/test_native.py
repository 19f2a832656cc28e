"""A native surface answers as the provider did: status, headers, bytes."""

from __future__ import annotations

import asyncio

import pytest

from relay.core.job import Job, Target
from tests.broker.system import Broker, event
from tests.ingress.hand import JSON, HandWorker
from tests.support import http
from tests.support.relay import Relay, message
from tests.support.wait import wait_until

MODEL = "claude-sonnet-4-6"
CHAT = {"model": "gpt-5", "messages": [{"role": "user", "content": "Hello"}]}


async def test_a_stream_carries_the_providers_bytes_alone(door: Relay, hand: HandWorker) -> None:
    asking = asyncio.create_task(door.stream(message(MODEL, stream=True)))
    work = await hand.take()
    await work.head()
    await work.count_to(3)
    await work.events(event(4), event(5))
    await work.end()
    async with await asking as reader:
        await reader.rest()
    assert reader.status == 200
    assert reader.received == b"".join(map(event, range(1, 6)))


async def test_a_stream_is_neither_buffered_nor_compressed_on_its_way(door: Relay, hand: HandWorker) -> None:
    asking = asyncio.create_task(door.stream(message(MODEL, stream=True)))
    work = await hand.take()
    await work.head()
    await work.end()
    async with await asking as reader:
        await reader.rest()
    assert reader.headers.all("content-type") == ["text/event-stream; charset=utf-8"]
    assert reader.headers.all("cache-control") == ["no-cache, no-transform"]
    assert reader.headers.all("x-accel-buffering") == ["no"]
    assert reader.headers.get("request-id") == "req_up_1"
    assert reader.job_id


@pytest.mark.parametrize("path", ["/v1/messages", "/messages", "/v1/messages/count_tokens", "/messages/count_tokens"])
async def test_an_answer_that_is_no_stream_comes_whole(door: Relay, hand: HandWorker, path: str) -> None:
    answer, work = await _exchange(door, hand, path, message(MODEL), b'{"input_tokens": 1.0}')
    assert (answer.status, answer.body) == (200, b'{"input_tokens": 1.0}')
    assert answer.headers.get("content-length") == "21"
    assert answer.headers.get("x-relay-job-id") == work.id
    assert work.endpoint == ("count_tokens" if "count" in path else "messages")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions"])
async def test_the_openai_surface_reaches_an_openai_provider(door: Relay, hand: HandWorker, path: str) -> None:
    answer, job = await _exchange(door, hand, path, CHAT, b"{}")
    assert answer.status == 200
    assert (job.surface, job.endpoint, job.targets) == (
        "openai",
        "chat_completions",
        (Target("openai", "openai", "gpt-5"),),
    )


async def _exchange(
    door: Relay, hand: HandWorker, path: str, body: object, answer: bytes, headers: list[tuple[str, str]] | None = None
) -> tuple[http.Response, Job]:
    asking = asyncio.create_task(door.post(path, body, headers or []))
    work = await hand.take()
    await work.answer(200, answer)
    return await asking, work.job


async def test_a_provider_error_arrives_as_it_was_sent(door: Relay, hand: HandWorker) -> None:
    asking = asyncio.create_task(door.post("/v1/messages", message(MODEL, stream=True)))
    work = await hand.take()
    limits = ("anthropic-ratelimit-requests-remaining", "0")
    await work.answer(429, b"<slow down>", [("content-type", "text/html"), ("retry-after", "7"), limits])
    answer = await asking
    assert (answer.status, answer.body) == (429, b"<slow down>")
    assert answer.headers.get("content-type") == "text/html"
    assert answer.headers.get("retry-after") == "7"
    assert answer.headers.get(limits[0]) == "0"


async def test_a_provider_cannot_break_the_answer_with_its_headers(door: Relay, hand: HandWorker) -> None:
    asking = asyncio.create_task(door.post("/v1/messages", message(MODEL)))
    work = await hand.take()
    bad = [
        ("x-split", "a\r\nset-cookie: b"),
        ("x-nul", "a\0b"),
        ("x-umlaut", "ä"),
        ("bad name", "a"),
        ("x-good", "a b"),
    ]
    hop = [("content-length", "9"), ("transfer-encoding", "chunked"), ("connection", "close"), ("x-relay-job-id", "no")]
    await work.answer(200, b"{}", [*JSON, *bad, *hop])
    answer = await asking
    assert (answer.status, answer.body) == (200, b"{}")
    assert answer.headers.get("x-good") == "a b"
    assert not [name for name, _ in bad[:4] if name in answer.headers]
    assert "set-cookie" not in answer.headers
    assert answer.headers.all("content-length") == ["2"]
    assert answer.headers.all("x-relay-job-id") == [work.job.id]


async def test_what_a_client_says_to_the_provider_travels_and_its_key_does_not(door: Relay, hand: HandWorker) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    said = [("anthropic-beta", "a,b"), ("traceparent", trace), ("cookie", "c=d"), ("anthropic-workspace-id", "w")]
    _, job = await _exchange(door, hand, "/v1/messages?beta=true", message(MODEL), b"{}", said)
    assert job.headers == {"anthropic-version": "2023-06-01", "anthropic-beta": "a,b"}
    assert job.trace == {"traceparent": trace}
    assert job.query == "beta=true"
    assert door.key not in repr(job)


async def test_a_bearer_token_is_a_key_as_well(door: Relay, hand: HandWorker) -> None:
    lines = [("authorization", f"bearer {door.key}"), ("content-type", "application/json; charset=utf-8")]
    asking = asyncio.create_task(
        http.request(door.port, "POST", "/v1/messages", lines, b'{"model":"claude-x","messages":[]}')
    )
    work = await hand.take()
    await work.answer()
    assert (await asking).status == 200


async def test_the_body_is_queued_as_it_came(door: Relay, hand: HandWorker) -> None:
    body = (
        b' {"model" : "claude-\\u0078", "messages":[], "n": 1.10, "n": 1e3, "big": 123456789012345678901234567890 }\n'
    )
    asking = asyncio.create_task(door.post("/v1/messages", body))
    work = await hand.take()
    await work.answer()
    await asking
    assert work.body == body
    assert work.job.model == "claude-x"


async def test_digests_of_the_prompt_come_on_request(door: Relay, hand: HandWorker) -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    body = message(MODEL, system=[{"type": "text", "text": "Be brief.", **mark}])
    asking = asyncio.create_task(door.post("/v1/messages", body, [("x-relay-prompt-digests", "1")]))
    work = await hand.take()
    await work.answer(200, b"{}", [*JSON, ("x-relay-prompt-sha256-sent", "system.0=ab")])
    answer = await asking
    received = answer.headers.get("x-relay-prompt-sha256-received") or ""
    assert [prefix.path for prefix in work.job.prefixes] == ["system.0"]
    assert received.startswith("system.0=")
    assert len(received) == len("system.0=") + 64
    assert answer.headers.get("x-relay-prompt-sha256-sent") == "system.0=ab"


@pytest.mark.parametrize("padding", [b"", b" " * (2 << 20)], ids=["looked at here", "looked at elsewhere"])
async def test_a_renamed_model_is_found_for_the_worker(door: Relay, hand: HandWorker, padding: bytes) -> None:
    body = rb'{"messages":[{"role":"user","content":"\"model\""}],"model": "anthropic/claude-x"%b}' % padding
    asking = asyncio.create_task(door.post("/v1/messages", body))
    work = await hand.take()
    await work.answer()
    assert (await asking).status == 200
    assert work.job.targets[0].model == "claude-x"
    assert [body[start:end] for start, end in work.job.model_spans] == [b'"anthropic/claude-x"']


async def test_a_model_that_keeps_its_name_needs_no_place(door: Relay, hand: HandWorker) -> None:
    _, job = await _exchange(door, hand, "/v1/messages", message(MODEL), b"{}")
    assert job.model_spans == ()


async def test_nobody_asks_no_digests(door: Relay, hand: HandWorker) -> None:
    answer, job = await _exchange(door, hand, "/v1/messages", message(MODEL), b"{}")
    assert not job.prefixes
    assert "x-relay-prompt-sha256-received" not in answer.headers


async def test_a_job_that_fails_before_anything_was_sent_is_an_http_error(door: Relay, hand: HandWorker) -> None:
    for body in (message(MODEL), message(MODEL, stream=True)):
        asking = asyncio.create_task(door.post("/v1/messages", body))
        work = await hand.take()
        await work.fail("upstream_timeout", "the provider sent no answer for 120 s")
        answer = await asking
        assert answer.status == 504
        assert answer.json["error"]["type"] == "timeout_error"
        assert answer.json["error"]["details"]["error_code"] == "upstream_timeout"
        assert answer.json["request_id"] == answer.headers.get("request-id") == work.job.id
        assert answer.headers.get("x-relay-job-id") == work.job.id


async def test_a_job_that_fails_in_mid_stream_ends_with_an_error_event(door: Relay, hand: HandWorker) -> None:
    asking = asyncio.create_task(door.stream(message(MODEL, stream=True)))
    work = await hand.take()
    await work.head()
    await work.count_to(2)
    await work.fail("interrupted", "the worker was lost")
    async with await asking as reader:
        events = await reader.rest()
    assert [each.name for each in events] == ["content_block_delta", "content_block_delta", "error"]
    assert events[-1].json["error"]["details"]["error_code"] == "interrupted"


async def test_the_openai_surface_has_errors_without_a_name(door: Relay, hand: HandWorker) -> None:
    asking = asyncio.create_task(door.stream({**CHAT, "stream": True}, path="/v1/chat/completions"))
    work = await hand.take()
    await work.head()
    await work.fail("upstream_truncated", "the stream broke")
    async with await asking as reader:
        [event] = await reader.rest()
    assert event.name == ""
    assert event.json["error"]["code"] == "upstream_truncated"
    assert b"[DONE]" not in reader.received


async def test_a_second_attempt_before_any_output_is_one_answer(door: Relay, broker: Broker, hand: HandWorker) -> None:
    asking = asyncio.create_task(door.stream(message(MODEL, stream=True)))
    lost = await hand.take()
    await lost.head()
    async with await asking as reader:
        await broker.worker().leases.release([lost.lease])
        work = await hand.take()
        await work.head(200, [("content-type", "text/event-stream"), ("request-id", "req_up_2")])
        await work.count_to(2)
        await work.end()
        events = await reader.rest()
    assert [event.json["n"] for event in events] == [1, 2]
    assert reader.headers.get("request-id") == "req_up_1"


async def test_a_client_that_leaves_takes_its_reader_with_it(door: Relay, hand: HandWorker) -> None:
    asking = asyncio.create_task(door.stream(message(MODEL, stream=True)))
    work = await hand.take()
    await work.head()
    reader = await asking
    assert await hand.readers(work) == 1
    await reader.close()
    await wait_until(lambda: _none(hand.readers(work)), what="nobody listens any more")
    await work.end()


async def test_a_client_that_leaves_before_the_answer_takes_its_reader_with_it(door: Relay, hand: HandWorker) -> None:
    raw = http.render(
        "POST",
        "/v1/messages",
        [*door.auth, ("content-type", "application/json")],
        b'{"model":"claude-x","messages":[]}',
    )
    exchange = await http.Exchange.send(door.port, raw)
    work = await hand.take()
    assert await hand.readers(work) == 1
    await exchange.close()
    await wait_until(lambda: _none(hand.readers(work)), what="nobody listens any more")
    await work.end()


async def _none(counting) -> bool:  # type: ignore[no-untyped-def]
    return await counting == 0


async def test_a_full_queue_is_said_with_a_time_to_come_back(door: Relay, broker: Broker) -> None:
    for _ in range(20):
        await broker.submit()
    answer = await door.post("/v1/messages", message(MODEL))
    assert answer.status == 429
    assert answer.json["error"]["type"] == "rate_limit_error"
    assert int(answer.headers.get("retry-after") or 0) > 0


async def test_one_connection_serves_request_after_request(door: Relay, hand: HandWorker) -> None:
    lines = [*door.auth, ("content-type", "application/json")]
    raw = http.render("POST", "/v1/messages", lines, b'{"model":"claude-x","messages":[]}')
    exchange = await http.Exchange.send(door.port, raw)
    for number in range(3):
        work = await hand.take()
        await work.answer(200, b"%d" % number)
        await exchange.answered()
        assert await exchange.body() == b"%d" % number
        exchange.writer.write(raw)
    work = await hand.take()
    await work.answer()
    await exchange.answered()
    await exchange.close()
