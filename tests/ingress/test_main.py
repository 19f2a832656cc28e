"""The ingress process from its ready line to its end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.broker.system import Broker
from tests.ingress.conftest import ENVIRONMENT
from tests.ingress.hand import HandWorker
from tests.support import http
from tests.support.oracles import check_quiet
from tests.support.processes import Process, RedisServer
from tests.support.relay import Relay, message
from tests.support.sse import SseReader
from tests.support.wait import wait_until

MODEL = "claude-sonnet-4-6"
# The door stays open for a second after SIGTERM if anybody is connected, and streams may go on for another.
LEAVES_WITHIN_S = 6.0


class Leaving:
    """An ingress that is going to be stopped, and the streams that are open on it."""

    def __init__(self, door: Relay, process: Process) -> None:
        self.process = process
        self.port = door.at(process)
        self._door = door

    async def stream(self) -> SseReader:
        return await self._door.stream(message(MODEL, stream=True), ingress=self.process)

    def terminate(self) -> None:
        self.process.stop_was_asked = True
        self.process.send(signal.SIGTERM)

    async def left(self) -> None:
        """It has ended, with 0 and without noise."""
        await self.process.ended(LEAVES_WITHIN_S)
        check_quiet(self.process)
        assert self.process.exit_code == 0


@pytest.fixture
async def leaving(door: Relay) -> AsyncIterator[Leaving]:
    process = await door.add_ingress()
    yield Leaving(door, process)
    await door.stop_ingress(process)


async def test_it_is_ready_when_it_says_so_and_leaves_when_asked_to(leaving: Leaving) -> None:
    assert leaving.process.ready_line == f"ready ingress http://127.0.0.1:{leaving.port}"
    assert (await http.request(leaving.port, "GET", "/readyz")).status == 200
    leaving.terminate()
    await leaving.left()
    assert leaving.process.output.count("ready ") == 1


async def test_it_is_not_ready_first_and_lets_streams_finish(leaving: Leaving, hand: HandWorker) -> None:
    asking = asyncio.create_task(leaving.stream())
    work = await hand.take()
    await work.head()
    reader = await asking
    leaving.terminate()
    await wait_until(lambda: _is_ready(leaving.port, False), what="it is not ready")
    await wait_until(lambda: _is_closed(leaving.port), what="the door is closed")
    await work.count_to(3)
    await work.end()
    assert [event.json["n"] for event in await reader.rest()] == [1, 2, 3]
    await reader.close()
    await leaving.left()


async def test_what_takes_too_long_is_told_so(leaving: Leaving, door: Relay, hand: HandWorker) -> None:
    asking = asyncio.create_task(leaving.stream())
    work = await hand.take()
    await work.head()
    await work.count_to(1)
    native = await asking
    following = await SseReader.open(leaving.port, f"/v1/jobs/{work.job.id}/stream", door.auth)
    waiting = asyncio.create_task(http.request(leaving.port, "POST", "/v1/messages", _lines(door), _SMALL))
    other = await hand.take()
    leaving.terminate()
    *_, error = await native.rest()
    assert error.json["error"]["details"]["error_code"] == "interrupted"
    assert [event.id for event in await following.rest()] == [work.cursor(1)], "a reader with ids just comes back"
    assert (await waiting).status == 503
    await leaving.left()
    await native.close()
    await following.close()
    async with await door.events(work.job.id, after=work.cursor(1)) as elsewhere:
        await work.count_to(2)
        await work.end()
        assert [event.json["n"] for event in await elsewhere.rest()] == [2]
    await other.answer()


async def test_a_second_signal_hurries_it(door: Relay, hand: HandWorker) -> None:
    patient = await door.add_ingress(RELAY_DRAIN_S="60")
    leaving = Leaving(door, patient)
    asking = asyncio.create_task(leaving.stream())
    work = await hand.take()
    await work.head()
    reader = await asking
    leaving.terminate()
    await wait_until(lambda: _is_closed(leaving.port), what="the door is closed")
    leaving.terminate()
    [error] = await reader.rest()
    assert error.json["error"]["details"]["error_code"] == "interrupted"
    await leaving.left()
    await reader.close()
    await door.stop_ingress(patient)
    await work.end()


@pytest.fixture
async def mortal(tmp_path: Path) -> AsyncIterator[tuple[Relay, RedisServer]]:
    """An ingress whose Redis has not been started yet, and may be killed."""
    server = RedisServer(tmp_path / "redis")
    relay = Relay(tmp_path, server.url, ENVIRONMENT)
    await relay.start(workers=0)
    yield relay, server
    await relay.stop()
    await server.stop()


async def test_redis_may_come_late_and_go_and_come_back(mortal: tuple[Relay, RedisServer]) -> None:
    relay, server = mortal
    refused, not_ready = await relay.post("/v1/messages", message(MODEL)), await relay.get("/readyz")
    figures, healthy = await relay.get("/metrics"), await relay.get("/healthz")
    assert (refused.status, not_ready.status, figures.status, healthy.status) == (503, 503, 200, 200)
    assert int(refused.headers.get("retry-after") or 0) > 0

    await server.start()
    await wait_until(lambda: _takes_its_key(relay), what="requests are taken")
    await wait_until(lambda: _is_ready(relay.port, True), what="it is ready")

    broker = Broker(server.url)
    hand = HandWorker(broker)
    asking = asyncio.create_task(relay.stream(message(MODEL, stream=True)))
    work = await hand.take()
    await work.head()
    await work.count_to(2)
    async with await asking as reader:
        assert [event.json["n"] for event in await reader.take(2)] == [1, 2]
        await server.kill()
        reading = asyncio.create_task(reader.rest())
        await wait_until(lambda: len(reader.comments) >= 2, what="comments while Redis is away")
        await server.start()
        await work.count_to(4)
        await work.end()
        assert [event.json["n"] for event in await reading] == [3, 4]
    broker.close()


async def test_a_key_that_cannot_be_one_is_said_at_the_start(door: Relay) -> None:
    mistyped = "rk_00000000_" + "0" * 64 + "_00000000"
    with pytest.raises(AssertionError, match=r"RELAY_API_KEY: .*checksum"):
        await door.add_ingress(RELAY_API_KEY=mistyped)
    process = door.ingresses.pop()
    assert process.exit_code == 1
    assert "Traceback" not in process.output
    assert mistyped not in process.output


_SMALL = b'{"model":"claude-x","messages":[]}'


def _lines(door: Relay) -> list[tuple[str, str]]:
    return [*door.auth, ("content-type", "application/json")]


async def _is_ready(port: int, ready: bool) -> bool:
    return (await http.request(port, "GET", "/readyz")).status == (200 if ready else 503)


async def _is_closed(port: int) -> bool:
    try:
        await http.request(port, "GET", "/healthz")
    except ConnectionError:
        return True
    return False


async def _takes_its_key(relay: Relay) -> bool:
    """Whether the key is known; what is then said of the request is another matter."""
    return (await relay.post("/v1/messages", b"")).status == 400
