"""Several attempts at one job: what is tried again and where, what the client is shown, and what each call leaves."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from relay.broker import scripts
from relay.core.body import model_spans
from relay.core.errors import Cancelled
from relay.core.frame import HEAD
from relay.core.job import CANCELLED, CLAIMED, DISPATCHED, DONE, FAILED, QUEUED, Target
from relay.core.retry import BREAKER_FAILURES, Failover
from tests.broker.system import Broker, let_lease_lapse, state_of, usage_records
from tests.support import dialects
from tests.support.badprovider import BadProvider, Turn
from tests.support.chaos import ChaosProxy
from tests.support.processes import free_port
from tests.support.upstream import JSON, Call, HeaderLines, Script, answer, in_turn, replay
from tests.support.wait import wait_until
from tests.workers.conftest import ENDPOINTS, Desk, Told, later, provider_at, request
from workers.upstream import Upstream

SAID = 5  # text events of a whole answer
SAY: dict[str, dialects.Dialect] = {"anthropic": dialects.Anthropic(), "openai": dialects.OpenAI()}
BEHIND = ("anthropic", "openai")

on_both = pytest.mark.parametrize("dialect", BEHIND)


@pytest.fixture
def desk(desk: Desk) -> Desk:
    """Two retries of each target, with no time between them."""
    desk.failover = patient()
    return desk


def patient(retries: int = 2, dice: float = 0.0) -> Failover:
    return Failover(retries, retry_s=60, dice=lambda: dice)


def target(dialect: str, mode: str = "") -> Target:
    return Target(dialect, dialect, f"m@{mode}")  # type: ignore[arg-type]


async def begin(desk: Desk, *targets: Target, surface: str = "anthropic", body: bytes = b"", **facts: Any) -> None:
    """Start a streamed request that may go to these targets."""
    body = body or request("")
    facts |= {"targets": targets, "surface": surface, "endpoint": ENDPOINTS[surface]}
    await desk.begin(body, model="m@", model_spans=model_spans(body), **facts)


async def ask(desk: Desk, *targets: Target, surface: str = "anthropic", **facts: Any) -> Told:
    await begin(desk, *(targets or (target(surface),)), surface=surface, **facts)
    return await desk.told()


def playing(desk: Desk, mode: str, n: int = 0) -> Script:
    """One call in which the provider behaves like this."""

    async def script(call: Call) -> None:
        turn = Turn(desk.provider, call, number=1)
        turn.mode, turn.n = mode, n
        await turn.take()

    return script


def refusal(status: int, kind: str = "api_error", code: str | None = None, headers: HeaderLines = ()) -> Script:
    error = {"type": "error", "error": {"type": kind, "message": "no", "code": code}}
    return answer(orjson.dumps(error), status=status, headers=[*JSON, *headers])


def clean(dialect: str, call: str) -> bytes:
    """The bytes of a whole and good stream."""
    say = SAY[dialect]
    texts = [say.text(call, i) for i in range(1, SAID + 1)]
    return b"".join([*say.opening(call), *texts, *say.closing(), say.usage(call, say.counts(SAID)), say.stop()])


def calls(desk: Desk, told: Told, count: int) -> list[str]:
    """The names of so many calls of one worker."""
    first = f"{desk.job.id}:{told.status.generation}"
    return [first, *[f"{first}.{number}" for number in range(2, count + 1)]]


def recorded(told: Told, *names: str) -> list[tuple[str, ...]]:
    """These fields of the usage records, in the order they were written."""
    return [tuple(record[name] for name in names) for record in told.records]


# --- what is tried again

HOW = ("kind", "outcome", "error", "status")
STATUSES = (408, 409, 429, 500, 502, 503, 529)
STARTED = {
    "anthropic": dialects.Anthropic().opening("")[0] + dialects.Anthropic().ping(),
    "openai": b'data: {"id":"cc_1","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n: ping\n\n',
}
FAILURES = {
    "error_first": ("partial", "error", "overloaded_error", "200"),
    "json_200": ("final", "error", "overloaded_error", "200"),
    "rst_accept": ("unknown", "error", "upstream_unreachable", ""),
    "empty_200": ("unknown", "truncated", "upstream_truncated", "200"),
    "started": ("partial", "truncated", "upstream_truncated", "200"),
    **{str(status): ("final", "error", "api_error", str(status)) for status in STATUSES},
}


def failing(desk: Desk, how: str, dialect: str) -> Script:
    if how == "started":
        return replay(STARTED[dialect])
    return refusal(int(how)) if how.isdigit() else playing(desk, how)


@on_both
@pytest.mark.parametrize("how", FAILURES)
async def test_a_call_that_fails_before_any_output_is_made_again(desk: Desk, how: str, dialect: str) -> None:
    bad = failing(desk, how, dialect)
    desk.provider.script = in_turn(bad, bad, playing(desk, ""))

    told = await ask(desk, surface=dialect)

    names = calls(desk, told, 3)
    assert [call.id for call in desk.provider.calls] == names
    assert told.shown == clean(dialect, names[-1])
    assert (told.status.state, told.end) == (DONE, {"state": "done"})
    assert [frame.kind for frame in told.frames].count(HEAD) == 1
    kind, outcome, error, status = FAILURES[how]
    failed = (kind, outcome, "server_error" if (how, dialect) == ("error_first", "openai") else error, status)
    assert recorded(told, "call", "attempt") == [(name, str(n + 1)) for n, name in enumerate(names)]
    assert recorded(told, *HOW) == [failed, failed, ("final", "completed", "", "200")]


@on_both
@pytest.mark.parametrize("surface", BEHIND)
@pytest.mark.parametrize("how", FAILURES)
async def test_on_either_surface(desk: Desk, how: str, surface: str, dialect: str) -> None:
    """The same where the answer is translated: no event of a failed call is seen."""
    desk.provider.script = in_turn(failing(desk, how, dialect), playing(desk, ""))

    told = await ask(desk, target(dialect), surface=surface)

    assert told.status.state == DONE
    assert recorded(told, *HOW[:2]) == [FAILURES[how][:2], ("final", "completed")]
    assert told.shown.count(b".1 ") == 1
    assert b"error" not in told.shown


@on_both
async def test_a_provider_that_is_away_is_called_until_it_is_back(
    desk: Desk, redis: Redis, key_file: Path, dialect: str
) -> None:
    provider, port = BadProvider(), free_port()
    desk.http = Upstream({dialect: provider_at(f"http://127.0.0.1:{port}", dialect, key_file)})
    desk.failover = patient(dice=0.5)
    await begin(desk, target(dialect), surface=dialect)
    await wait_until(lambda: usage_records(redis, desk.broker.keys))
    await provider.start(port)

    told = await desk.told()

    assert told.status.state == DONE
    assert recorded(told, *HOW)[0] == ("unknown", "error", "upstream_unreachable", "")
    assert [call.id for call in provider.calls] == [told.records[-1]["call"]]
    await desk.http.close()
    await provider.stop()


@on_both
@pytest.mark.parametrize("how", ["hang_headers", "hang_first"])
async def test_a_call_that_never_begins_to_answer_is_made_again(desk: Desk, how: str, dialect: str) -> None:
    desk.provider.script = in_turn(playing(desk, how), playing(desk, ""))
    await begin(desk, target(dialect), surface=dialect)
    await wait_until(lambda: desk.provider.calls)
    desk.task.watch(later())

    told = await desk.told()

    assert told.shown == clean(dialect, calls(desk, told, 2)[1])
    assert recorded(told, "kind", "outcome", "error") == [
        ("unknown", "error", "upstream_timeout"),
        ("final", "completed", ""),
    ]
    assert desk.provider.calls[0].how == "client_gone"


async def test_an_answer_that_is_no_stream_is_tried_for_again_as_well(desk: Desk) -> None:
    body = request("", stream=False)
    desk.provider.script = in_turn(refusal(500), playing(desk, "html_200"), playing(desk, ""))

    told = await ask(desk, target("anthropic"), target("openai"), body=body, stream=False)

    assert told.status.state == DONE
    assert recorded(told, "provider", "error") == [
        ("anthropic", "api_error"),
        ("anthropic", "upstream_protocol_error"),
        ("openai", ""),
    ], "what is not even HTTP of this API is the next target's chance"
    assert orjson.loads(told.shown)["type"] == "message"


# --- what is not


@on_both
@pytest.mark.parametrize("how", ["rst", "cut_clean", "error_mid", "hang_mid"])
async def test_after_the_first_output_there_is_no_other_call(desk: Desk, how: str, dialect: str) -> None:
    desk.provider.script = playing(desk, how, n=1)
    await begin(desk, target(dialect), target("openai"), surface=dialect)
    if how == "hang_mid":
        await wait_until(lambda: _is_streaming(desk))
        desk.task.watch(later())

    told = await desk.told()

    assert told.status.state == FAILED
    assert len(desk.provider.calls) == len(told.records) == 1


async def _is_streaming(desk: Desk) -> bool:
    return await desk.redis.exists(desk.broker.keys.log(desk.job.id)) == 1


@on_both
@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_request_that_is_wrong_is_not_sent_again(desk: Desk, status: int, dialect: str) -> None:
    desk.provider.script = refusal(status, "invalid_request_error")

    told = await ask(desk, target(dialect), target("openai"), surface=dialect)

    assert told.head and told.head["status"] == status
    assert len(desk.provider.calls) == len(told.records) == 1
    assert "x-should-retry" not in dict(told.head["headers"])


@pytest.mark.parametrize("status", [401, 402, 403, 404])
async def test_a_target_that_is_set_up_wrong_is_not_called_again_but_the_next_one_is(desk: Desk, status: int) -> None:
    desk.provider.script = in_turn(refusal(status), playing(desk, ""))

    told = await ask(desk, target("anthropic"), target("openai"))

    assert recorded(told, "provider", "status") == [("anthropic", str(status)), ("openai", "200")]


@pytest.mark.parametrize("code", ["insufficient_quota", "enforced_spend_limit_reached"])
async def test_a_quota_that_is_spent_is_not_waited_for(desk: Desk, code: str) -> None:
    desk.provider.script = in_turn(refusal(429, "rate_limit_error", code), playing(desk, ""))

    told = await ask(desk, target("openai"), target("anthropic"), surface="openai")

    assert recorded(told, "provider", "status") == [("openai", "429"), ("anthropic", "200")]


async def test_without_another_target_it_is_the_answer(desk: Desk) -> None:
    desk.provider.script = refusal(429, "insufficient_quota")

    told = await ask(desk, surface="openai")

    assert told.head and told.head["status"] == 429
    assert len(desk.provider.calls) == 1


# --- when


async def test_the_provider_is_left_alone_for_as_long_as_it_asks(desk: Desk) -> None:
    began: list[float] = []
    rejected = refusal(429, "rate_limit_error", headers=[("retry-after", "0.3")])

    async def script(call: Call) -> None:
        began.append(asyncio.get_running_loop().time())
        await (rejected if len(began) == 1 else playing(desk, ""))(call)

    desk.provider.script = script
    told = await ask(desk)

    assert told.status.state == DONE
    assert 0.3 <= began[1] - began[0] < 2


async def test_a_pause_that_is_too_long_is_passed_on_to_the_client(desk: Desk) -> None:
    desk.provider.script = refusal(429, "rate_limit_error", headers=[("retry-after", "61")])

    told = await ask(desk)

    assert told.head and ["retry-after", "61"] in told.head["headers"]
    assert (told.head["status"], len(told.records)) == (429, 1)


async def test_where_another_target_is_sooner_there_is_no_long_wait(desk: Desk) -> None:
    desk.provider.script = in_turn(refusal(529, headers=[("retry-after", "30")]), playing(desk, ""))

    told = await ask(desk, target("anthropic"), target("openai"))

    assert recorded(told, "provider") == [("anthropic",), ("openai",)]


# --- where


@pytest.mark.parametrize("surface", BEHIND)
async def test_when_the_retries_are_used_up_the_next_target_is_asked(desk: Desk, surface: str) -> None:
    """Whatever dialect it speaks: the client is answered in its own."""
    targets = target("openai", "503:0"), target("anthropic")

    told = await ask(desk, *targets, surface=surface)

    tried = [("openai", "m@503:0", "503")] * 3 + [("anthropic", "m@", "200")]
    assert recorded(told, "provider", "target", "status") == tried
    assert [call.path.rpartition("/v1/")[2] for call in desk.provider.calls] == ["chat/completions"] * 3 + ["messages"]
    names = calls(desk, told, 4)
    assert recorded(told, "call") == [(name,) for name in names]
    assert [told.shown.count(f"{names[-1]}.{i} ".encode()) for i in range(1, SAID + 1)] == [1] * SAID
    if surface == "anthropic":
        assert told.shown == clean("anthropic", names[-1])


async def test_a_target_that_cannot_serve_the_request_is_passed_over(desk: Desk) -> None:
    body = request("", n=2)  # which Anthropic knows nothing of

    told = await ask(desk, target("anthropic"), target("openai"), surface="openai", body=body)

    assert recorded(told, "provider", "attempt", "call") == [("openai", "1", calls(desk, told, 1)[0])]
    assert told.status.state == DONE


async def test_if_no_other_can_the_client_is_told_why(desk: Desk) -> None:
    told = await ask(desk, target("anthropic"), surface="openai", body=request("", n=2))

    assert (told.end["error"]["code"], told.end["error"]["param"]) == ("invalid_request", "n")
    assert (told.records, desk.provider.calls) == ([], [])


async def test_a_failure_of_a_target_is_worth_more_than_that_the_next_one_cannot(desk: Desk) -> None:
    """The first could serve the request another time; the client must not be told that it is wrong."""
    targets = target("openai", "503:0"), target("anthropic")

    told = await ask(desk, *targets, surface="openai", body=request("", n=2))

    assert told.head and told.head["status"] == 503
    assert told.end == {"state": "failed"}
    assert recorded(told, "provider", "status") == [("openai", "503")] * 3


async def test_a_provider_that_is_not_configured_here_costs_no_time(desk: Desk) -> None:
    desk.failover = patient(dice=1.0)
    elsewhere = Target("elsewhere", "anthropic", "m@")
    clock = asyncio.get_running_loop().time
    began = clock()

    told = await ask(desk, elsewhere, target("anthropic"))

    assert told.status.state == DONE
    assert clock() - began < 0.5
    assert recorded(told, "provider", "attempt") == [("anthropic", "1")]


async def test_a_target_that_keeps_failing_is_left_out_for_a_while(desk: Desk) -> None:
    desk.failover = patient(retries=0)
    targets = target("anthropic", "503:0"), target("openai")
    for _ in range(BREAKER_FAILURES):
        assert len((await ask(desk, *targets)).records) == 2

    told = await ask(desk, *targets)

    assert recorded(told, "provider", "attempt") == [("openai", "1")]


async def test_a_target_that_is_left_out_is_still_asked_where_there_is_no_other(desk: Desk) -> None:
    desk.failover = patient(retries=0)
    for _ in range(BREAKER_FAILURES):
        await ask(desk, target("anthropic", "503:0"))

    told = await ask(desk, target("anthropic", "503:0"))

    assert recorded(told, "status") == [("503",)]


# --- what the client is shown


async def test_what_comes_before_the_first_output_is_held_back(desk: Desk) -> None:
    say, more = dialects.Anthropic(), asyncio.Event()
    start, first_block = say.opening("")

    async def script(call: Call) -> None:
        await call.head()
        await call.chunk(start + say.ping())
        await more.wait()
        await call.chunk(first_block)
        await asyncio.Event().wait()

    desk.provider.script = script
    await begin(desk, target("anthropic"))
    await wait_until(lambda: desk.task._attempt and desk.task._attempt.call.first_event_ms)
    assert not await _is_streaming(desk)
    assert await state_of(desk.redis, desk.broker.keys, desk.job) == DISPATCHED
    more.set()
    await wait_until(lambda: _is_streaming(desk))
    desk.task.stop(Cancelled("enough"))

    told = await desk.told()
    assert told.shown == start + say.ping() + first_block
    assert told.head and told.head["status"] == 200


@on_both
@pytest.mark.parametrize("how", ["500", "error_first"])
async def test_when_nothing_helps_the_last_answer_is_shown_and_the_sdk_told_not_to_retry(
    desk: Desk, how: str, dialect: str
) -> None:
    """The official SDKs would try twice more, each time with all of our attempts."""
    should_retry = ("x-should-retry", "true")
    desk.provider.script = refusal(500, headers=[should_retry]) if how == "500" else failing(desk, how, dialect)

    told = await ask(desk, surface=dialect)

    assert len(told.records) == 3
    assert told.head
    assert [value for name, value in told.head["headers"] if name == "x-should-retry"] == ["false"]
    assert told.end == {"state": "failed"}
    assert told.shown.count(b'"error"') == (2 if how == "500" or dialect == "anthropic" else 1)  # of one answer


async def test_an_answer_that_says_not_to_retry_is_believed(desk: Desk) -> None:
    desk.provider.script = in_turn(refusal(500, headers=[("x-should-retry", "false")]), playing(desk, ""))

    assert recorded(await ask(desk), "status") == [("500",)]


@pytest.mark.parametrize("surface", BEHIND)
@pytest.mark.parametrize("how", ["rst_accept", "empty_200"])
async def test_a_call_without_an_answer_becomes_an_error_of_ours(desk: Desk, how: str, surface: str) -> None:
    """On the way to either dialect: no 200 goes out before a stream has something in it."""
    desk.provider.script = playing(desk, how)

    told = await ask(desk, target("anthropic"), surface=surface)

    code = {"rst_accept": "upstream_unreachable", "empty_200": "upstream_truncated"}[how]
    assert told.end["error"]["code"] == code
    assert (told.head, told.shown, len(told.records)) == (None, b"", 3)


# --- the end of a worker, and of a job, between two calls


async def waiting(desk: Desk, *targets: Target) -> None:
    """Begin a job whose first call fails, and which will wait for long before it makes another one."""
    desk.failover = patient(dice=1.0)
    desk.provider.script = in_turn(refusal(529, headers=[("retry-after", "50")]), playing(desk, ""))
    await begin(desk, *(targets or (target("anthropic"),)))
    await wait_until(lambda: usage_records(desk.redis, desk.broker.keys))


async def test_a_job_that_is_cancelled_while_it_waits_ends_at_once(desk: Desk) -> None:
    await waiting(desk)
    desk.task.stop(Cancelled("enough"))

    told = await desk.told()

    assert (told.status.state, told.end["error"]["code"]) == (CANCELLED, "cancelled")
    assert recorded(told, *HOW) == [("final", "error", "api_error", "529")]
    assert len(desk.provider.calls) == 1


async def test_a_cancellation_that_nobody_heard_is_noticed_before_the_next_call(desk: Desk) -> None:
    desk.provider.script = refusal(529, headers=[("retry-after", "0.2")])
    await begin(desk, target("anthropic"))
    await wait_until(lambda: usage_records(desk.redis, desk.broker.keys))
    await desk.redis.hset(desk.broker.keys.job(desk.job.id), "cancel", "1")

    told = await desk.told()

    assert told.status.state == CANCELLED
    assert (len(told.records), len(desk.provider.calls)) == (1, 1)


async def test_no_silence_is_counted_while_a_job_waits(desk: Desk) -> None:
    await waiting(desk)
    desk.task.watch(later())

    assert await state_of(desk.redis, desk.broker.keys, desk.job) == CLAIMED
    desk.task.stop(Cancelled("enough"))
    assert (await desk.told()).status.state == CANCELLED


async def test_a_job_whose_worker_dies_while_it_waits_goes_to_another_one(desk: Desk, redis: Redis) -> None:
    """No call is under way, so none is in doubt, and the one that failed is on record already."""
    await waiting(desk)
    assert await state_of(redis, desk.broker.keys, desk.job) == CLAIMED
    await let_lease_lapse(redis, desk.broker.keys, desk.job)
    [settled] = await desk.worker.leases.expire()
    assert (settled.outcome, settled.state_before) == ("queued", CLAIMED)
    desk.task.stop(None)
    with pytest.raises(asyncio.CancelledError):
        await desk.running

    lease = await desk.worker.claim()
    desk.task = desk.task_of(lease)
    desk.running = desk.task.start()
    told = await desk.told()

    first, second = told.records
    assert (first["outcome"], second["outcome"]) == ("error", "completed")
    assert (first["attempt"], second["attempt"]) == ("1", "2")
    assert int(first["generation"]) < int(second["generation"]) == told.status.generation
    assert second["call"] == f"{desk.job.id}:{told.status.generation}"


async def test_a_worker_that_must_leave_hands_back_a_job_that_waits(desk: Desk) -> None:
    await waiting(desk)
    desk.task.stop(None)
    with pytest.raises(asyncio.CancelledError):
        await desk.running

    [settled] = await desk.worker.leases.release([desk.task.lease])

    assert (settled.outcome, settled.state_before) == ("queued", CLAIMED)
    assert len(await usage_records(desk.redis, desk.broker.keys)) == 1
    assert await state_of(desk.redis, desk.broker.keys, desk.job) == QUEUED


async def test_a_worker_that_lost_its_job_makes_no_other_call(desk: Desk, redis: Redis) -> None:
    """It was frozen while its call failed; meanwhile the job was given away."""
    frozen = asyncio.Event()

    async def script(call: Call) -> None:
        await frozen.wait()
        await refusal(529)(call)

    desk.provider.script = script
    await begin(desk, target("anthropic"))
    await wait_until(lambda: desk.provider.calls)
    await let_lease_lapse(redis, desk.broker.keys, desk.job)
    await desk.worker.leases.expire()
    frozen.set()

    told = await desk.told()

    assert told.status.state == QUEUED
    assert len(desk.provider.calls) == 1
    assert recorded(told, "v", "kind", "outcome") == [("1", "unknown", "worker_lost")]


async def test_a_cancellation_in_the_very_moment_of_settling_loses_no_record(desk: Desk, broker: Broker) -> None:
    """The call has failed, Redis is away when that is to be recorded, and somebody cancels."""
    async with ChaosProxy(int(broker.url.rsplit(":", 1)[1].split("/")[0])) as proxy:
        desk.worker = broker.worker("host-1-far", url=f"redis://127.0.0.1:{proxy.port}/0")
        desk.provider.script = refusal(529, headers=[("retry-after", "50")])
        proxy.arm(scripts.CALL_FAILED.sha, "lose_req", times=2)
        await begin(desk, target("anthropic"))
        await wait_until(lambda: proxy.counts["lose_req"] == 1)
        desk.task.stop(Cancelled("enough"))

        told = await desk.told()

    assert told.status.state == CANCELLED
    assert recorded(told, "status", "error") == [("529", "api_error")]


async def test_an_error_of_ours_says_whether_it_was_tried_for_again(desk: Desk) -> None:
    """And so the client's SDK need not, as with an answer of the provider's."""
    for retries, was_retried in ((2, True), (0, None)):
        desk.failover = patient(retries)
        desk.provider.script = playing(desk, "rst_accept")
        told = await ask(desk)
        error = told.end["error"]
        assert (error["code"], error.get("was_retried")) == ("upstream_unreachable", was_retried)
