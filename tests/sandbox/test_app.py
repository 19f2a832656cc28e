"""The sandbox on the wire, through a raw client: every fault in both dialects, speed, bad input, the books."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest

from relay.sandbox.main import serving
from relay.sandbox.order import FAULTS, STATUS_FAULTS
from tests.support import http
from tests.support.http import Response, Truncated
from tests.support.sse import SseEvent, SseReader
from tests.support.wait import wait_until

ANTHROPIC, OPENAI = "/v1/messages", "/v1/chat/completions"
MODELS = {ANTHROPIC: "claude-sonnet-4-6", OPENAI: "gpt-4o"}
both = pytest.mark.parametrize("path", [ANTHROPIC, OPENAI])


def render(
    path: str, key: str, *, stream: bool, said: str = "Hello", order: str = "", call_id: str = "", **members: Any
) -> bytes:
    body = {"model": MODELS[path], "max_tokens": 10_000, "messages": [{"role": "user", "content": said}]}
    headers = [("x-api-key", key), ("anthropic-version", "2023-06-01"), ("content-type", "application/json")]
    headers += [(name, value) for name, value in (("x-sandbox", order), ("x-relay-call-id", call_id)) if value]
    return http.render("POST", path, headers, json.dumps(body | {"stream": stream} | members).encode())


async def post(port: int, path: str, key: str, *, stream: bool = False, **members: Any) -> Response:
    exchange = await http.Exchange.open(port, render(path, key, stream=stream, **members))
    try:
        return Response(exchange.status, exchange.headers, await exchange.body())
    finally:
        await exchange.close()


@asynccontextmanager
async def stream(port: int, path: str, key: str, **members: Any) -> AsyncIterator[SseReader]:
    exchange = await http.Exchange.open(port, render(path, key, stream=True, **members))
    async with SseReader(exchange) as reader:
        yield reader


async def get(port: int, path: str) -> Any:
    return json.loads((await http.request(port, "GET", path)).body)


async def calls(port: int, name: str) -> list[dict[str, Any]]:
    return [call for call in (await get(port, "/__sandbox/calls"))["data"] if call["call_id"] == name]


def pieces(events: list[SseEvent]) -> list[str]:
    """The text deltas among events of either dialect; what is no JSON is none."""
    found = []
    for event in events:
        try:
            payload = json.loads(event.data)
        except json.JSONDecodeError:
            continue
        delta = payload.get("delta") or next(iter(payload.get("choices", [])), {}).get("delta", {})
        found += [text for text in (delta.get("text"), delta.get("content")) if text]
    return found


def ended(events: list[SseEvent]) -> bool:
    return bool(events) and (events[-1].name == "message_stop" or events[-1].data == "[DONE]")


def error_of(data: str | bytes) -> dict[str, Any]:
    error = json.loads(data)["error"]
    assert isinstance(error, dict)
    return error


@both
@pytest.mark.parametrize("fault", [*STATUS_FAULTS, "quota"])
@pytest.mark.parametrize("streamed", [True, False])
async def test_a_status_is_answered_in_the_form_of_the_surface(
    port: int, key: str, path: str, fault: str, streamed: bool
) -> None:
    answer = await post(port, path, key, stream=streamed, order=f"fault={fault},retry_after=7")
    assert answer.status == (429 if fault == "quota" else int(fault))
    assert answer.headers.get("retry-after") == ("7" if fault in ("429", "503", "529") else None)
    body = json.loads(answer.body)
    assert body["error"]["message"]
    if path == ANTHROPIC:
        assert body["type"] == "error"
        assert body["request_id"] == answer.headers.get("request-id")
    else:
        assert body["error"].keys() == {"message", "type", "param", "code"}
        assert answer.headers.get("x-request-id")


@both
async def test_a_502_is_a_page_of_html(port: int, key: str, path: str) -> None:
    answer = await post(port, path, key, order="fault=502")
    assert (answer.status, answer.headers.get("content-type")) == (502, "text/html")
    assert answer.body.startswith(b"<html>")


@both
async def test_an_error_comes_in_the_middle_of_a_stream(port: int, key: str, path: str) -> None:
    async with stream(port, path, key, order="fault=error,after=2") as reader:
        events = await reader.rest()
    assert reader.status == 200
    assert len(pieces(events)) == 2
    assert error_of(events[-1].data)["message"] == "Overloaded"


@both
async def test_an_error_comes_as_the_first_event(port: int, key: str, path: str) -> None:
    async with stream(port, path, key, order="fault=error_first") as reader:
        events = await reader.rest()
    assert len(events) == 1
    assert error_of(events[0].data)["message"] == "Overloaded"


@both
async def test_a_stalled_stream_stays_open_and_says_no_more(port: int, key: str, path: str) -> None:
    async with stream(port, path, key, order="fault=stall,after=2") as reader:
        events = await reader.take(4 if path == ANTHROPIC else 2)
        while len(pieces(events)) < 2:
            events.append(await reader.next())
        with pytest.raises(TimeoutError):
            await reader.next(timeout_s=0.1)


@both
async def test_a_truncated_stream_ends_well_formed_without_its_last_word(port: int, key: str, path: str) -> None:
    async with stream(port, path, key, order="fault=truncate,after=2") as reader:
        events = await reader.rest()
    assert len(pieces(events)) == 2
    assert not ended(events)


@both
async def test_a_cut_stream_ends_inside_an_event(port: int, key: str, path: str) -> None:
    async with stream(port, path, key, order="fault=cut,after=2") as reader:
        with pytest.raises(Truncated):
            await reader.rest()
    assert not reader.received.endswith(b"\n\n")


@both
async def test_garbage_is_no_utf_8_and_the_stream_goes_on(port: int, key: str, path: str) -> None:
    async with stream(port, path, key, order="fault=garbage,events=5") as reader:
        assert ended(await reader.rest())
    with pytest.raises(UnicodeDecodeError):
        reader.received.decode()


@both
async def test_a_bad_event_holds_no_json_and_the_stream_goes_on(port: int, key: str, path: str) -> None:
    async with stream(port, path, key, order="fault=bad_json,events=5") as reader:
        events = await reader.rest()
    assert ended(events)
    broken = [event for event in events if event.data != "[DONE]" and not event.data.endswith("}}")]
    assert any(not _is_json(event.data) for event in broken)
    assert len(pieces(events)) == 5


def _is_json(data: str) -> bool:
    try:
        json.loads(data)
    except json.JSONDecodeError:
        return False
    return True


@both
async def test_a_huge_event_is_as_large_as_ordered(port: int, key: str, path: str) -> None:
    async with stream(port, path, key, order="fault=huge,mb=2,events=5") as reader:
        events = await reader.rest()
    assert max(len(event.data) for event in events) > 2 << 20
    assert (len(pieces(events)), ended(events)) == (5, True)


@both
async def test_slow_bytes_come_one_at_a_time(port: int, key: str, path: str) -> None:
    exchange = await http.Exchange.open(port, render(path, key, stream=True, order="fault=slow,byte_ms=0,events=1"))
    sizes = {len(piece) async for piece in exchange.pieces()}
    await exchange.close()
    assert sizes == {1}


@both
async def test_an_error_hides_behind_a_200(port: int, key: str, path: str) -> None:
    answer = await post(port, path, key, stream=True, order="fault=json_200")
    assert (answer.status, answer.headers.get("content-type")) == (200, "application/json")
    assert error_of(answer.body)["message"] == "Overloaded"


@both
async def test_a_200_may_be_empty(port: int, key: str, path: str) -> None:
    answer = await post(port, path, key, stream=True, order="fault=empty_200")
    assert (answer.status, answer.body) == (200, b"")
    assert "text/event-stream" in (answer.headers.get("content-type") or "")


@both
@pytest.mark.parametrize("fault", ["truncate", "bad_json", "garbage", "empty_200"])
async def test_a_whole_answer_may_hold_no_json(port: int, key: str, path: str, fault: str) -> None:
    answer = await post(port, path, key, order=f"fault={fault}")
    assert answer.status == 200
    with pytest.raises(ValueError):
        json.loads(answer.body)


@both
async def test_a_whole_answer_may_be_cut_stalled_or_padded(port: int, key: str, path: str) -> None:
    with pytest.raises(Truncated):
        await post(port, path, key, order="fault=cut")
    stalled = await http.Exchange.send(port, render(path, key, stream=False, order="fault=stall"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(stalled.answered(), 0.1)
    await stalled.close()
    assert len((await post(port, path, key, order="fault=huge,mb=2")).body) > 2 << 20
    assert json.loads((await post(port, path, key, order="fault=slow,byte_ms=0")).body)


@both
@pytest.mark.parametrize("fault", ["error", "error_first"])
async def test_without_a_stream_an_error_is_a_status(port: int, key: str, path: str, fault: str) -> None:
    assert (await post(port, path, key, order=f"fault={fault}")).status == 529


@both
async def test_an_unknown_fault_is_refused_with_the_known_ones(port: int, key: str, path: str) -> None:
    answer = await post(port, path, key, said="SANDBOX(fault=meteor)")
    assert answer.status == 400
    assert all(fault in error_of(answer.body)["message"] for fault in FAULTS)


@both
async def test_text_model_name_and_header_are_heard_in_rising_order(port: int, key: str, path: str) -> None:
    model = f"{MODELS[path]}@fault=403"
    assert (await post(port, path, key, said="x SANDBOX(fault=401)")).status == 401
    assert (await post(port, path, key, said="x SANDBOX(fault=401)", model=model)).status == 403
    assert (await post(port, path, key, said="x SANDBOX(fault=401)", model=model, order="fault=404")).status == 404


@both
async def test_a_fault_can_pass_after_some_calls_with_the_same_body(port: int, key: str, path: str) -> None:
    said = f"{key} SANDBOX(fault=500,times=2)"
    assert [(await post(port, path, key, said=said)).status for _ in range(4)] == [500, 500, 200, 200]


@both
async def test_length_and_speed_are_as_ordered(port: int, key: str, path: str) -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    async with stream(port, path, key, order="events=6,gap_ms=20,first_ms=50") as reader:
        assert loop.time() - begun >= 0.05
        assert len(pieces(await reader.rest())) == 6
    assert reader.arrivals[-1] - reader.arrivals[0] >= 0.09


async def test_a_server_has_a_speed_of_its_own(key: str) -> None:
    async with serving(gap_ms=20) as url, stream(urlsplit(url).port or 0, ANTHROPIC, key, order="events=6") as reader:
        await reader.rest()
    assert reader.arrivals[-1] - reader.arrivals[0] >= 0.09


async def test_a_prefix_can_be_read_once_the_first_answer_has_begun(port: int, key: str) -> None:
    system = [{"type": "text", "text": "x" * 8000, "cache_control": {"type": "ephemeral"}}]
    early = await http.Exchange.send(port, render(ANTHROPIC, key, stream=True, system=system, order="first_ms=60000"))
    parallel = json.loads((await post(port, ANTHROPIC, key, system=system)).body)
    assert parallel["usage"]["cache_creation_input_tokens"] == 2000
    await early.close()
    async with stream(port, ANTHROPIC, f"other-{key}", system=system, order="fault=stall,after=0") as reader:
        await reader.next()
        later = json.loads((await post(port, ANTHROPIC, f"other-{key}", system=system)).body)
    assert later["usage"]["cache_read_input_tokens"] == 2000


async def test_a_large_body_is_read_like_a_small_one(port: int, key: str) -> None:
    for _ in range(2):
        answer = await post(port, ANTHROPIC, key, said="x" * (3 << 20), cache_control={"type": "ephemeral"})
    assert json.loads(answer.body)["usage"]["cache_read_input_tokens"] == (3 << 20) // 4


@both
async def test_without_a_key_the_answer_is_401(port: int, path: str) -> None:
    answer = await http.request(port, "POST", path, [], b"{}")
    assert answer.status == 401
    assert error_of(answer.body)["message"]


BAD_BODIES = [b"", b"{", b"[]", b'"x"', b"null", b"\xff\xfe", b'{"a":"\\ud800"}', b"[" * 10_000 + b"]" * 10_000]


@both
@pytest.mark.parametrize("body", BAD_BODIES, ids=range(len(BAD_BODIES)))
async def test_a_body_that_is_no_json_object_is_refused(port: int, path: str, key: str, body: bytes) -> None:
    answer = await http.request(port, "POST", path, [("x-api-key", key), ("anthropic-version", "2023-06-01")], body)
    assert answer.status == 400
    assert error_of(answer.body)["type"] == "invalid_request_error"


async def test_a_body_over_the_limit_is_too_large(port: int, key: str) -> None:
    head = http.render("POST", ANTHROPIC, [("x-api-key", key), ("transfer-encoding", "chunked")])
    exchange = await http.Exchange.send(port, head)
    chunk = b"%x\r\n%b\r\n" % (1 << 20, bytes(1 << 20))
    for _ in range(33):
        exchange.writer.write(chunk)
        await exchange.writer.drain()
    await exchange.answered()
    await exchange.close()
    assert exchange.status == 413


async def test_the_books_agree_with_what_was_reported(port: int, key: str) -> None:
    system = [{"type": "text", "text": "x" * 8000, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    for _ in range(2):
        await post(port, ANTHROPIC, key, system=system, order="events=7", model=f"claude-sonnet-4-6-{key}")
    bill = (await get(port, "/__sandbox/stats"))["bill_by_model"][f"claude-sonnet-4-6-{key}"]
    assert bill == {
        "input_tokens": 4,
        "cache_read_tokens": 2000,
        "cache_write_tokens": 2000,
        "cache_write_by_ttl": {"1h": 2000},
        "output_tokens": 14,
    }


async def test_every_call_is_in_the_books_with_its_end(port: int, key: str) -> None:
    for order in ("events=4", "fault=529", "fault=error,after=2", "fault=cut,after=1"):
        async with stream(port, ANTHROPIC, key, order=order, call_id=key) as reader:
            with suppress(Truncated):
                await reader.rest()
    found = await calls(port, key)
    assert [(call["outcome"], call["status"]) for call in found] == [
        ("completed", 200),
        ("529", 529),
        ("error", 200),
        ("cut", 200),
    ]
    assert [call["bill"]["output_tokens"] for call in found] == [4, 0, 2, 1]
    assert [call["bill"]["input_tokens"] for call in found] == [2, 0, 2, 2]


async def test_counting_is_in_the_books_and_costs_nothing(port: int, key: str) -> None:
    for version in ("2023-06-01", "1999-01-01"):
        head = [("x-api-key", key), ("x-relay-call-id", key), ("anthropic-version", version)]
        body = {"model": "claude-sonnet-4-6", "messages": [{"role": "user", "content": "Hello"}]}
        await http.request(port, "POST", f"{ANTHROPIC}/count_tokens", head, json.dumps(body).encode())
    found = await calls(port, key)
    assert [(call["outcome"], call["status"]) for call in found] == [("completed", 200), ("400", 400)]
    assert all(call["bill"]["input_tokens"] == call["bill"]["output_tokens"] == 0 for call in found)


@pytest.mark.parametrize("streamed", [True, False])
async def test_every_choice_is_billed(port: int, key: str, streamed: bool) -> None:
    await post(port, OPENAI, key, stream=streamed, order="events=7", call_id=key, n=3)
    assert (await calls(port, key))[0]["bill"]["output_tokens"] == 21


async def test_a_client_that_leaves_is_billed_for_what_was_sent_and_closes_its_stream(port: int, key: str) -> None:
    async with stream(port, ANTHROPIC, key, order="events=1000,gap_ms=10", call_id=key) as reader:
        await reader.take(5)
        assert (await get(port, "/__sandbox/stats"))["open"] >= 1

    async def left() -> bool:
        return (await calls(port, key))[0]["outcome"] == "client_gone"

    await wait_until(left)
    assert 1 <= (await calls(port, key))[0]["bill"]["output_tokens"] < 1000


async def test_a_client_that_leaves_while_it_sends_is_in_the_books(port: int, key: str) -> None:
    raw = render(ANTHROPIC, key, stream=True, call_id=key)
    exchange = await http.Exchange.send(port, raw[:-10])
    await wait_until(lambda: calls(port, key))
    await exchange.close()

    async def left() -> bool:
        return (await calls(port, key))[0]["outcome"] == "client_gone"

    await wait_until(left)


async def test_nothing_stays_open(port: int) -> None:
    async def all_closed() -> bool:
        stats = await get(port, "/__sandbox/stats")
        return stats["open"] == 0 and stats["calls"] == sum(stats["outcomes"].values())

    await wait_until(all_closed)
