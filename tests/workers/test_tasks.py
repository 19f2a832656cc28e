"""A job from its lease to its end, with a provider that does everything providers do."""

from __future__ import annotations

import asyncio
import random

import orjson
import pytest
from redis.asyncio import Redis

from relay.broker import scripts
from relay.core.body import model_spans, prefixes
from relay.core.errors import Cancelled
from relay.core.frame import END, EVENTS, HEAD
from relay.core.job import CANCELLED, DONE, FAILED, QUEUED, Target
from relay.core.pieces import digests
from tests.broker.system import REQUEST, TENANT, Broker, dump, frames_of, let_lease_lapse, usage_records
from tests.support import dialects
from tests.support.badprovider import MODES, BadProvider
from tests.support.chaos import ChaosProxy
from tests.support.fixtures import transcripts
from tests.support.relay import message
from tests.support.upstream import EVENT_STREAM, JSON, Call, answer, replay
from tests.support.wait import wait_until
from tests.workers.conftest import KEY, Desk, Told, later, request
from workers.attempt import LINGER_S

RENAMED = (Target("anthropic", "anthropic", "m@"),)
SAID = 5  # text events of a whole answer


async def shown_events(desk: Desk, count: int) -> None:
    """Wait until so many events are in the log."""
    await wait_until(lambda: _shown(desk, count))


async def _shown(desk: Desk, count: int) -> bool:
    frames = await frames_of(desk.redis, desk.broker.keys, desk.job)
    return sum(frame.events for frame in frames) >= count


async def called(desk: Desk) -> Call:
    """The call, when it has arrived at the provider."""
    await wait_until(lambda: desk.provider.calls)
    return desk.provider.calls[-1]


# --- every way a provider can behave

# Code of the error, and who tells the client: the provider's own bytes, or the end of the job.
PROVIDER, RELAY = "provider", "relay"
TRUNCATED = ("upstream_truncated", RELAY)
PROTOCOL = ("upstream_protocol_error", RELAY)
FAILURES = {
    **dict.fromkeys(("400", "401", "404", "413", "500", "503", "529"), ("api_error", PROVIDER)),
    **dict.fromkeys(("429", "429_bare", "429_date", "429_huge"), ("rate_limit_error", PROVIDER)),
    **dict.fromkeys(("cut_chunk", "cut_clean", "cut_end_chunk", "empty_200", "no_stop"), TRUNCATED),
    **dict.fromkeys(("gzip_trunc", "rst"), TRUNCATED),
    **dict.fromkeys(("bad_status", "endless_line", "header_bomb", "html_200", "json_tail", "not_http"), PROTOCOL),
    "redirect": PROTOCOL,
    "echo_key": ("authentication_error", PROVIDER),
    "error_first": ("overloaded_error", PROVIDER),
    "error_mid": ("overloaded_error", PROVIDER),
    "flaky": ("overloaded_error", PROVIDER),
    "json_200": ("overloaded_error", PROVIDER),
    "rst_accept": ("upstream_unreachable", RELAY),
}
OPENAI_CODES = {"error_first": "server_error", "error_mid": "server_error"}
SILENT = ("hang_headers", "gate_headers", "hang_first", "hang_mid", "gate", "loris", "ping_only")
# Modes with tests of their own: here, and of the HTTP client.
APART = ("hang_end", "gzip_bomb")
# What says more or less than five texts, and still all there is.
COMPLETE = sorted(MODES - {*FAILURES} - {*SILENT} - {*APART})
# Whatever else comes, the output was counted by the provider; nonsense is not believed.
COUNTED = {"usage_zero": "0", "usage_twice": str(SAID + 1)}
UNBELIEVED = ("usage_neg", "usage_text", "usage_huge", "usage_missing")

both_dialects = pytest.mark.parametrize("dialect", ["anthropic", "openai"])


@both_dialects
@pytest.mark.parametrize("mode", COMPLETE)
async def test_an_answer_that_is_whole_is_a_success(desk: Desk, mode: str, dialect: str) -> None:
    told = await desk.ask(f"{mode}:1" if mode == "huge_event" else mode, dialect)
    assert (told.status.state, told.end) == (DONE, {"state": "done"})
    assert told.head
    assert told.head["status"] == 200
    assert (told.record["outcome"], told.record["error"], told.record["status"]) == ("completed", "", "200")
    if mode not in UNBELIEVED:
        assert (told.record["kind"], told.record["output_tokens"]) == ("final", COUNTED.get(mode, str(SAID)))


@both_dialects
@pytest.mark.parametrize("mode", sorted(FAILURES))
async def test_an_answer_that_is_not_is_an_error_of_a_kind(desk: Desk, mode: str, dialect: str) -> None:
    code, teller = FAILURES[mode]
    told = await desk.ask(mode, dialect)
    if dialect == "openai":
        if mode == "no_stop":  # a finish reason and the usage are an end, too
            assert told.status.state == DONE
            return
        code = OPENAI_CODES.get(mode, code)
    assert (told.status.state, told.status.error, told.end["state"]) == (FAILED, code, "failed")
    assert told.end.get("error") == ({"code": code, "message": told.status.message} if teller == RELAY else None), (
        "either the provider's bytes tell the client, or the end does"
    )
    assert told.head is not None or teller == RELAY
    assert told.record["error"] == code
    assert told.record["outcome"] == ("truncated" if code == "upstream_truncated" else "error")


@both_dialects
@pytest.mark.parametrize("mode", SILENT)
async def test_a_provider_that_falls_silent_is_not_waited_for_for_ever(desk: Desk, mode: str, dialect: str) -> None:
    if (mode, dialect) == ("ping_only", "openai"):
        mode = "hang_first"  # its pings are comments, which are nothing
    await desk.begin_asking(mode, dialect)
    await called(desk)
    if mode in ("hang_mid", "gate", "loris"):
        await shown_events(desk, 3)
    now = asyncio.get_running_loop().time()
    for passed_s in (0, 59, 121):  # longer than the wait for the first byte, shorter than a call may take
        desk.task.watch(now + passed_s)
    told = await desk.told()
    assert (told.status.state, told.status.error) == (FAILED, "upstream_timeout")
    assert "60 s" in (told.status.message or "") or "120 s" in (told.status.message or "")
    await desk.provider.calls[-1].ended.wait()
    assert desk.provider.calls[-1].how == "client_gone"


async def test_no_call_takes_longer_than_a_call_may_take(desk: Desk) -> None:
    await desk.begin_asking("gate")
    await shown_events(desk, 4)
    desk.task.watch(later())
    assert (await desk.told()).status.message == "the provider took longer than 900 s"


async def test_a_provider_that_goes_on_is_given_all_the_time_of_a_call(desk: Desk) -> None:
    """Each event counts as a sign of life, a ping does not."""
    spoken = asyncio.Event()

    async def script(call: Call) -> None:
        say = dialects.Anthropic()
        await call.head()
        for event in (*say.opening(""), say.text("", 1)):
            await call.chunk(event)
        await spoken.wait()
        await call.chunk(say.text("", 2))
        await asyncio.Event().wait()

    desk.provider.script = script
    await desk.begin_asking("")
    await shown_events(desk, 3)
    now = asyncio.get_running_loop().time()
    desk.task.watch(now)
    desk.task.watch(now + 59)
    spoken.set()
    await shown_events(desk, 4)
    for passed_s in (59.9, 110, 121):
        desk.task.watch(now + passed_s)
    assert (await desk.told()).status.message == "the provider was silent for 60 s"


# --- bytes


@pytest.mark.parametrize("dialect", ["anthropic", "openai"])
async def test_recorded_streams_go_through_byte_for_byte_and_are_counted(desk: Desk, dialect: str) -> None:
    chance = random.Random(4711)
    for recorded in transcripts(dialect):
        if not recorded.is_canonical:
            continue
        cuts = sorted(chance.sample(range(1, len(recorded.stream)), min(20, len(recorded.stream) - 1)))
        desk.provider.script = replay(recorded.stream, cut_at=cuts)
        told = await desk.ask("", dialect)
        assert told.shown == recorded.stream, recorded.name
        expected = {"completed": DONE}.get(recorded.expected["outcome"], FAILED)
        assert told.status.state == expected, recorded.name


async def test_what_follows_an_error_event_belongs_to_the_answer(desk: Desk) -> None:
    """However it is cut: OpenAI closes with [DONE] after an error, too."""
    say, error_is_out = dialects.OpenAI(), asyncio.Event()

    async def script(call: Call) -> None:
        await call.head()
        await call.chunk(say.text("", 1) + say.error_event())
        await error_is_out.wait()
        await call.chunk(say.stop())
        await call.finish()

    desk.provider.script = script
    await desk.begin_asking("", "openai")
    await shown_events(desk, 2)
    error_is_out.set()
    told = await desk.told()
    assert told.shown == say.text("", 1) + say.error_event() + say.stop()
    assert (told.status.state, told.status.error, told.end) == (FAILED, "server_error", {"state": "failed"})


@pytest.mark.parametrize("then", ["hangs", "breaks"])
async def test_but_it_is_not_waited_for_long(desk: Desk, then: str) -> None:
    say = dialects.Anthropic()

    async def script(call: Call) -> None:
        await call.head()
        await call.chunk(b"".join(say.opening("")) + say.error_event())
        if then == "hangs":
            await asyncio.Event().wait()

    desk.provider.script = script
    clock = asyncio.get_running_loop().time
    began = clock()
    told = await desk.ask("")
    assert clock() - began < LINGER_S + 1
    assert (told.status.error, told.end) == ("overloaded_error", {"state": "failed"})


async def test_an_answer_that_is_no_stream_goes_through_whole(desk: Desk) -> None:
    body = dialects.Anthropic().message("c1", SAID)
    desk.provider.script = answer(body)
    told = await desk.run(orjson.dumps(message("m")), stream=False)
    assert told.shown == body
    assert told.head
    assert told.head["status"] == 200
    assert ["request-id", "req_scripted"] in told.head["headers"]
    assert (told.record["kind"], told.record["input_tokens"], told.record["output_tokens"]) == ("final", "11", "5")
    assert (told.record["cache_read_tokens"], told.record["cache_write_5m_tokens"]) == ("5", "7")


@pytest.mark.parametrize("status", [400, 401, 429, 500, 503, 529])
@pytest.mark.parametrize("body", [b'{"type":"error","error":{"type":"x_error","message":"no"}}', b"<html>", b""])
async def test_an_error_answer_goes_through_as_it_came(desk: Desk, status: int, body: bytes) -> None:
    desk.provider.script = answer(body, status=status, headers=[*JSON, ("retry-after", "17")])
    told = await desk.run(request(""))
    assert told.head
    assert (told.head["status"], told.shown, told.end) == (status, body, {"state": "failed"})
    assert ["retry-after", "17"] in told.head["headers"]
    assert told.status.error == ("x_error" if b"x_error" in body else f"http_{status}")
    assert (told.record["kind"], told.record["status"]) == ("final", str(status))


async def test_what_the_provider_receives_is_what_the_client_sent(desk: Desk) -> None:
    body = b'{"model" : "m@" ,"stream":true, "n":1e3,"n":1.10, "big":18446744073709551616123, "s":"\\ud800\\u00e9"}'
    await desk.run(body)
    [call] = desk.provider.calls
    assert call.body == body


@pytest.mark.parametrize("padding", [0, 200_000, 3 << 20], ids=["inline", "one piece", "several pieces"])
async def test_renaming_the_model_changes_that_span_and_nothing_else(desk: Desk, padding: int) -> None:
    body = b'{ "pad":"%b","model": "anthropic/m@" , "stream":true}' % (b"x" * padding)
    told = await desk.run(body, model="anthropic/m@", targets=RENAMED, model_spans=model_spans(body))
    [call] = desk.provider.calls
    assert call.body == body.replace(b"anthropic/m@", b"m@")
    assert call.headers.get("content-length") == str(len(call.body))
    assert (told.record["model"], told.record["target"]) == ("anthropic/m@", "m@")


@pytest.mark.parametrize("length", [1, 3 << 20], ids=["inline", "several pieces"])
async def test_the_digests_told_are_of_the_bytes_that_were_sent(desk: Desk, length: int) -> None:
    body = b'{"model":"anthropic/m@","system":[{"type":"text","text":"%b",%b}],"messages":[],"stream":true}'
    body %= (b"x" * length, b'"cache_control":{"type":"ephemeral"}')
    found = prefixes(body, "anthropic")
    told = await desk.run(
        body,
        model="anthropic/m@",
        targets=(Target("anthropic", "anthropic", "m@"),),
        model_spans=model_spans(body),
        prefixes=found,
    )
    [call] = desk.provider.calls
    assert told.head
    sent = digests(prefixes(call.body, "anthropic"), [call.body])
    assert sent.startswith("system.0=")
    assert ["x-relay-prompt-sha256-sent", sent] in told.head["headers"]


async def test_a_call_carries_its_name(desk: Desk) -> None:
    told = await desk.ask("")
    [call] = desk.provider.calls
    assert call.id == told.record["call"] == f"{desk.job.id}:{told.status.generation}"


async def test_a_request_whose_bytes_redis_lost_is_not_sent(desk: Desk) -> None:
    job = await desk.broker.submit(b"x" * 100_000)
    await desk.redis.delete(desk.broker.keys.body(job.id))
    lease = await desk.worker.claim()
    desk.job, desk.task = job, desk.task_of(lease)
    desk.running = desk.task.start()
    told = await desk.told()
    assert (told.status.error, told.records, desk.provider.calls) == ("job_lost", [], [])


async def test_a_provider_nobody_configured_is_not_reached(desk: Desk) -> None:
    told = await desk.run(REQUEST, targets=(Target("elsewhere", "anthropic", "m"),))
    assert told.status.error == "upstream_unreachable"
    assert "'elsewhere'" in (told.status.message or "")
    assert told.records == []


# --- secrets


@both_dialects
async def test_a_key_that_a_provider_echoes_is_seen_by_nobody(
    desk: Desk, redis: Redis, caplog: pytest.LogCaptureFixture, dialect: str
) -> None:
    told = await desk.ask("echo_key", dialect)
    assert b"[redacted]" in told.shown
    _assert_unseen(told, await dump(redis), caplog.text)


@pytest.mark.parametrize("tail", [False, True], ids=["event", "tail"])
async def test_nor_is_one_that_comes_in_mid_stream(
    desk: Desk, redis: Redis, caplog: pytest.LogCaptureFixture, tail: bool
) -> None:
    say = dialects.Anthropic()
    error = say.error("authentication_error", f"bad key: {KEY}")
    stream = b"".join(say.opening("")) + (error if tail else b"event: error\ndata: " + error + b"\n\n")
    desk.provider.script = replay(stream)
    told = await desk.ask("")
    assert told.status.state == FAILED
    assert "[redacted]" in (told.status.message or "")
    _assert_unseen(told, await dump(redis), caplog.text)


def _assert_unseen(told: Told, held: dict[str, object], logged: str) -> None:
    assert KEY.encode() not in told.shown
    assert KEY not in repr(told) + repr(held) + logged


# --- stopped on the way


@pytest.mark.parametrize("mode", ["hang_headers", "hang_first", "gate", "loris"])
async def test_a_cancelled_job_hangs_up_at_once(desk: Desk, mode: str) -> None:
    await desk.begin_asking(mode)
    call = await called(desk)
    if mode in ("gate", "loris"):
        await shown_events(desk, 3)
    desk.task.stop(Cancelled("The job was cancelled."))
    async with asyncio.timeout(1):
        await call.ended.wait()
    assert call.how == "client_gone"
    told = await desk.told()
    assert (told.status.state, told.status.error) == (CANCELLED, "cancelled")
    assert told.end == {"state": "cancelled", "error": {"code": "cancelled", "message": "The job was cancelled."}}
    assert told.record["outcome"] == "cancelled"
    assert told.record["kind"] == ("partial" if mode in ("gate", "loris") else "unknown")


async def test_a_job_cancelled_before_the_call_is_not_called(desk: Desk, broker: Broker) -> None:
    job = await broker.submit(request(""))
    lease = await desk.worker.claim()
    await broker.queue.cancel(job.id, TENANT)
    desk.job, desk.task = job, desk.task_of(lease)
    desk.running = desk.task.start()
    told = await desk.told()
    assert (told.status.state, told.records, desk.provider.calls) == (CANCELLED, [], [])


async def test_a_cancellation_is_seen_with_the_next_event_if_its_command_was_lost(desk: Desk) -> None:
    await desk.begin_asking("gate")
    await shown_events(desk, 4)
    # The flag alone, as if nobody had heard the command.
    await desk.redis.hset(desk.broker.keys.job(desk.job.id), "cancel", "1")
    desk.provider.gate.set()
    assert (await desk.told()).status.state == CANCELLED


async def test_what_a_cancelled_call_had_cost_so_far_is_recorded(desk: Desk) -> None:
    await desk.begin_asking("gate")
    await shown_events(desk, 4)
    desk.task.stop(Cancelled("enough"))
    record = (await desk.told()).record
    assert (record["input_tokens"], record["cache_read_tokens"], record["cache_write_5m_tokens"]) == ("11", "5", "7")
    assert record["kind"] == "partial"


async def test_only_the_first_reason_to_stop_counts(desk: Desk) -> None:
    await desk.begin_asking("gate")
    await shown_events(desk, 4)
    desk.task.stop(Cancelled("first"))
    desk.task.watch(later())
    desk.task.stop(Cancelled("third"))
    assert (await desk.told()).status.message == "first"


async def test_a_reason_to_stop_that_comes_too_late_does_not_cost_the_end(
    desk: Desk, broker: Broker, redis: Redis
) -> None:
    """The answer is complete, Redis is away, and somebody cancels: the job is done, and says so when Redis is back."""
    async with ChaosProxy(int(broker.url.rsplit(":", 1)[1].split("/")[0])) as proxy:
        desk.worker = broker.worker("host-1-far", url=f"redis://127.0.0.1:{proxy.port}/0")
        await desk.begin_asking("gate")
        await shown_events(desk, 4)
        proxy.arm(scripts.FINISH.sha, "lose_req")
        proxy.arm(scripts.FINISH.sha, "lose_req")
        desk.provider.gate.set()
        await wait_until(lambda: proxy.counts["lose_req"] == 1)
        desk.task.stop(Cancelled("too late"))
        desk.task.watch(later())
        desk.task.refused(scripts.CANCEL_WANTED)
        told = await desk.told()
        assert told.status.state == DONE
        assert told.record["kind"] == "final"


async def test_a_worker_that_lets_go_writes_nothing_more(desk: Desk, redis: Redis) -> None:
    await desk.begin_asking("gate")
    await shown_events(desk, 4)
    before = await dump(redis)
    desk.task.stop(None)
    with pytest.raises(asyncio.CancelledError):
        await desk.running
    assert await dump(redis) == before
    [settled] = await desk.worker.leases.release([desk.task.lease])
    assert settled.outcome == "interrupted"
    [record] = await usage_records(redis, desk.broker.keys)
    assert (record["kind"], record["input_tokens"], record["first_event_ms"] != "") == ("partial", "11", True)


async def test_a_job_that_was_given_away_is_let_go_and_its_provider_hung_up_on(desk: Desk, redis: Redis) -> None:
    await desk.begin_asking("gate")
    await shown_events(desk, 4)
    await let_lease_lapse(redis, desk.broker.keys, desk.job)
    [settled] = await desk.worker.leases.expire()
    assert settled.outcome == "interrupted"
    log = await frames_of(redis, desk.broker.keys, desk.job)
    desk.provider.gate.set()
    told = await desk.told()
    assert told.frames == log
    assert told.record["kind"] == "partial"


async def test_the_cost_of_a_job_that_was_given_away_is_reported_late(desk: Desk, redis: Redis) -> None:
    """Its worker was frozen, and had everything when it woke up."""
    say = dialects.Anthropic()
    everything = b"".join([*say.opening(""), say.text("", 1), *say.closing(), say.usage("", say.counts(1)), say.stop()])
    asleep = asyncio.Event()

    async def script(call: Call) -> None:
        await call.head()
        await asleep.wait()
        await call.chunk(everything)
        await call.finish()

    desk.provider.script = script
    await desk.begin_asking("")
    await wait_until(lambda: desk.provider.calls)
    await let_lease_lapse(redis, desk.broker.keys, desk.job)
    await desk.worker.leases.expire()
    asleep.set()
    told = await desk.told()
    assert [(record["v"], record["kind"]) for record in told.records] == [("1", "unknown"), ("2", "final")]
    assert told.records[1]["output_tokens"] == "1"
    assert told.status.state == QUEUED


async def test_a_job_redis_forgot_ends_without_a_word(desk: Desk, redis: Redis) -> None:
    await desk.begin_asking("gate")
    await shown_events(desk, 4)
    await redis.delete(desk.broker.keys.job(desk.job.id), desk.broker.keys.log(desk.job.id))
    desk.provider.gate.set()
    async with asyncio.timeout(20):
        await desk.running
    assert not await redis.exists(desk.broker.keys.job(desk.job.id), desk.broker.keys.log(desk.job.id))


async def test_a_job_whose_log_has_a_hole_is_interrupted(desk: Desk, redis: Redis) -> None:
    await desk.begin_asking("gate")
    await shown_events(desk, 4)
    await _forget_the_last(desk, redis)
    desk.provider.gate.set()
    told = await desk.told()
    assert (told.status.state, told.status.error) == (FAILED, "interrupted")
    assert told.status.message == "Redis lost part of this answer."


async def _forget_the_last(desk: Desk, redis: Redis) -> None:
    """As a failover does: what was written last is gone, wherever it was written."""
    log = desk.broker.keys.log(desk.job.id)
    *kept, _ = await redis.xrange(log)
    await redis.delete(log)
    for entry_id, entry in kept:
        await redis.xadd(log, entry, id=entry_id)
    await redis.hset(desk.broker.keys.job(desk.job.id), "sequence", kept[-1][0].rpartition("-")[2])


# --- the connection to the provider


async def test_a_provider_that_never_closes_its_body_does_not_hold_up_the_end(desk: Desk) -> None:
    clock = asyncio.get_running_loop().time
    await desk.begin_asking("hang_end")
    began = clock()
    await wait_until(lambda: _ended(desk))
    assert clock() - began < LINGER_S
    await desk.told()
    await desk.provider.calls[-1].ended.wait()
    assert desk.provider.calls[-1].how == "client_gone"


async def _ended(desk: Desk) -> bool:
    frames = await frames_of(desk.redis, desk.broker.keys, desk.job)
    return bool(frames) and frames[-1].kind == END


async def test_a_fast_provider_waits_for_a_slow_redis(desk: Desk, broker: Broker, redis: Redis) -> None:
    """What a stopped Redis does not take, nobody reads: the worker's memory stays bounded."""
    sent = 0

    async def script(call: Call) -> None:
        nonlocal sent
        await call.head()
        while True:
            await call.chunk(b"data: " + b"x" * 100_000 + b"\n\n")
            sent += 100_000

    async with ChaosProxy(int(broker.url.rsplit(":", 1)[1].split("/")[0])) as proxy:
        desk.worker = broker.worker("host-1-far", url=f"redis://127.0.0.1:{proxy.port}/0")
        desk.provider.script = script
        proxy.arm(b"data: xxx", "hold")
        proxy.set(hold_s=30)
        await desk.begin_asking("")
        await wait_until(lambda: proxy.counts["hold"])
        before = -1
        while sent != before:  # until it comes to a stand
            before = sent
            await asyncio.sleep(0.1)
        assert sent < 40 << 20
        proxy.release()
        desk.task.stop(Cancelled("enough"))
        assert (await desk.told()).status.state == CANCELLED


async def test_an_answer_beyond_all_bounds_is_refused(desk: Desk) -> None:
    async def script(call: Call) -> None:
        await call.head(200, JSON)
        while True:
            await call.chunk(b"x" * (1 << 20))

    desk.provider.script = script
    told = await desk.run(request(""))
    assert told.status.error == "upstream_protocol_error"
    assert told.shown == b""


async def test_an_event_stream_in_another_spelling_is_one(desk: Desk, upstream: BadProvider) -> None:
    say = dialects.Anthropic()
    stream = b"".join([*say.opening(""), say.usage("", say.counts(1)), say.stop()])
    headers = [(name, "Text/Event-Stream;Charset=UTF-8" if name == "content-type" else v) for name, v in EVENT_STREAM]
    upstream.script = replay(stream, headers=headers)
    told = await desk.ask("")
    assert {frame.kind for frame in told.frames} == {HEAD, EVENTS, END}
    assert told.shown == stream
