"""The one connection that many tasks share: replies reach who asked, whatever else happens to it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis as redis_sync
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from relay.broker import scripts
from relay.broker.connections import (
    ConnectionError,
    Link,
    OutOfMemoryError,
    RedisError,
    address,
    blocking_client,
    client,
)
from relay.broker.scripts import Script
from tests.support.chaos import ChaosProxy
from tests.support.processes import Process, RedisServer, free_port, redis_binary
from tests.support.wait import wait_until


@pytest.fixture
async def link(redis_server: RedisServer, redis: Redis) -> AsyncIterator[Link]:
    await redis.flushall()
    link = Link(address(redis_server.url), "tests")
    yield link
    link.close()


@asynccontextmanager
async def far_link(redis_server: RedisServer) -> AsyncIterator[tuple[ChaosProxy, Link]]:
    """A link through a proxy that hurts."""
    async with ChaosProxy(redis_server.port) as proxy:
        link = Link(address(f"redis://127.0.0.1:{proxy.port}/0"), "far")
        yield proxy, link
        link.close()


@asynccontextmanager
async def serving(answer: bytes) -> AsyncIterator[Link]:
    """A link to something that lets anybody in and then says this to every command."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while command := await reader.read(1 << 16):
            writer.write(b"+OK\r\n" if b"SETNAME" in command else answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    link = Link(address(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"), "odd")
    async with server:
        yield link
        link.close()


def loop_of(milliseconds: int) -> Script:
    """A script that keeps Redis busy for about so long. It counts, since newer servers stop the clock for a script."""
    return Script("busy", "0" * 40, f"for _ = 1, {milliseconds * 100_000} do end return ARGV[1]")


# --- pipelining


async def test_replies_come_in_the_order_of_the_calls(link: Link) -> None:
    answers = await asyncio.gather(*[link.execute("ECHO", str(number)) for number in range(1000)])
    assert answers == [str(number).encode() for number in range(1000)]


async def test_one_connection_serves_all_tasks(link: Link, redis: Redis) -> None:
    await asyncio.gather(*[link.execute("PING") for _ in range(50)])
    assert [each["name"] for each in await redis.client_list()].count("tests") == 1


async def test_bytes_come_back_as_they_were_sent(link: Link) -> None:
    everything = bytes(range(256)) * 10_000
    await link.execute("SET", "link:bytes", everything, "EX", 60)
    assert await link.execute("GET", "link:bytes") == everything


async def test_an_error_belongs_to_its_command_alone(link: Link) -> None:
    good, bad, late = await asyncio.gather(
        link.execute("ECHO", "a"), link.execute("NO_SUCH_COMMAND"), link.execute("ECHO", "b"), return_exceptions=True
    )
    assert (good, late) == (b"a", b"b")
    assert isinstance(bad, ResponseError)


async def test_who_stops_waiting_does_not_shift_the_replies_of_others(link: Link) -> None:
    """The fault that once showed people each other's chats: a cancelled call left its reply for the next one."""
    chance = random.Random(4711)
    right = 0

    async def ask(number: int) -> None:
        nonlocal right
        for turn in range(5):
            text = f"{number}.{turn}"
            assert await link.execute("ECHO", text) == text.encode()
            right += 1

    asking = [asyncio.ensure_future(ask(number)) for number in range(400)]
    while not all(task.done() for task in asking):
        chance.choice(asking).cancel()
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert all(outcome is None or isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    assert {type(outcome) for outcome in outcomes} == {type(None), asyncio.CancelledError}
    assert right > 400
    assert await link.execute("ECHO", "still in order") == b"still in order"


# --- losses


async def test_a_lost_connection_fails_what_was_under_way_and_the_next_call_connects_anew(
    redis_server: RedisServer, redis: Redis
) -> None:
    async with far_link(redis_server) as (proxy, link):
        await link.execute("PING")
        proxy.set(hold_s=30)
        proxy.arm("ECHO", "hold")
        waiting = [asyncio.ensure_future(link.execute("ECHO", str(number))) for number in range(10)]
        await wait_until(lambda: proxy.counts["hold"] == 1)
        proxy.cut()
        for each in waiting:
            with pytest.raises(ConnectionError, match="far: connection to Redis lost"):
                await each
        assert await link.execute("ECHO", "again") == b"again"


@pytest.mark.parametrize("fault", ["lose_req", "lose_reply"])
async def test_nothing_is_repeated_behind_the_callers_back(redis_server: RedisServer, redis: Redis, fault: str) -> None:
    await redis.set("link:count", 0, ex=60)
    async with far_link(redis_server) as (proxy, link):
        await link.execute("PING")
        proxy.arm("INCR", fault)
        with pytest.raises(ConnectionError):
            await link.execute("INCR", "link:count")
    assert await redis.get("link:count") == ("1" if fault == "lose_reply" else "0")


async def test_the_clients_we_make_repeat_nothing_either(redis_server: RedisServer, redis: Redis) -> None:
    async with ChaosProxy(redis_server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0"

        async def asynchronously() -> None:
            async with client(url) as ours:
                await ours.incr("link:count")

        def blocking() -> None:
            with blocking_client(url) as ours:
                ours.incr("link:count")

        for ask in (asynchronously, lambda: asyncio.to_thread(blocking)):
            await redis.set("link:count", 0, ex=60)
            proxy.arm("INCR", "lose_reply")
            with pytest.raises(redis_sync.ConnectionError):
                await ask()
            assert await redis.get("link:count") == "1"


async def test_a_link_that_gets_no_answer_in_time_is_given_up(redis_server: RedisServer) -> None:
    async with far_link(redis_server) as (proxy, link):
        await link.execute("PING")
        proxy.deafen()
        with pytest.raises(ConnectionError, match="no answer from Redis in time"):
            await link.execute("PING", timeout_s=0.05)
        assert await link.execute("ECHO", "a new connection") == b"a new connection"


async def test_a_patient_call_does_not_run_out_of_anothers_time(link: Link) -> None:
    patient = asyncio.ensure_future(link.execute("BLPOP", "link:nothing", 0.2, timeout_s=10))
    assert await link.execute("PING", timeout_s=5) == b"PONG"
    assert await patient is None


async def test_garbage_is_no_answer() -> None:
    async with serving(b"HTTP/1.1 400 Bad Request\r\n\r\n") as link:
        with pytest.raises(ConnectionError, match="garbage"):
            await link.execute("PING")


async def test_more_answers_than_questions_are_a_broken_connection() -> None:
    async with serving(b"+OK\r\n+and one more\r\n") as link:
        assert await link.execute("PING") == b"OK"
        await wait_until(lambda: link.wire is None)


@pytest.mark.parametrize("word", ["LOADING", "READONLY", "MASTERDOWN", "MISCONF", "CLUSTERDOWN"])
async def test_a_redis_that_cannot_serve_now_is_as_good_as_gone(word: str) -> None:
    """A restart, a failover or a full disk: whoever insists waits for it to pass."""
    async with serving(f"-{word} not now\r\n".encode()) as link:
        with pytest.raises(ConnectionError):
            await link.execute("SET", "a", "b")


async def test_nobody_listening_is_a_connection_error() -> None:
    link = Link(address(f"redis://127.0.0.1:{free_port()}/0"), "nowhere")
    answers = await asyncio.gather(*[link.execute("PING") for _ in range(5)], return_exceptions=True)
    assert {type(answer) for answer in answers} == {ConnectionError}
    assert "nowhere: cannot reach Redis" in str(answers[0])


async def test_a_closed_link_stays_closed(link: Link) -> None:
    waiting = asyncio.ensure_future(link.execute("BLPOP", "link:nothing", 5))
    await wait_until(lambda: link.wire is not None)
    link.close()
    with pytest.raises(ConnectionError, match="closed"):
        await waiting
    with pytest.raises(ConnectionError, match="closed"):
        await link.execute("PING")


async def test_a_caller_that_leaves_while_connecting_leaves_no_connection(
    redis_server: RedisServer, redis: Redis
) -> None:
    async with far_link(redis_server) as (proxy, link):
        proxy.set(hold_s=30)
        proxy.arm("SETNAME", "hold")
        hasty = asyncio.ensure_future(link.execute("PING"))
        await wait_until(lambda: proxy.counts["hold"] == 1)
        hasty.cancel()
        await asyncio.gather(hasty, return_exceptions=True)
        proxy.release()
        await wait_until(lambda: _gone(redis, "far"))
        assert await link.execute("ECHO", "the next one") == b"the next one"


async def _gone(redis: Redis, name: str) -> bool:
    clients = await redis.client_list()
    return name not in [each["name"] for each in clients] and len(clients) == 1


# --- scripts


async def test_a_script_redis_does_not_know_is_sent_in_full(link: Link, redis: Redis) -> None:
    await redis.script_flush()
    for known in (False, True):
        assert await redis.script_exists(scripts.UNSTICK.sha) == [known]
        assert await link.run(scripts.UNSTICK, ["link:a", "link:b"], ["link:", 0, 1]) == []


async def test_many_who_find_a_script_unknown_all_get_their_answer(link: Link, redis: Redis) -> None:
    await redis.script_flush()
    asked = [link.run(scripts.UNSTICK, ["link:a", "link:b"], ["link:", 0, 1]) for _ in range(50)]
    assert await asyncio.gather(*asked) == [[]] * 50


async def test_who_insists_is_answered_when_redis_is_back(redis_server: RedisServer) -> None:
    async with far_link(redis_server) as (proxy, link):
        proxy.partition()
        insisting = asyncio.ensure_future(link.insist(scripts.UNSTICK, ["link:a", "link:b"], ["link:", 0, 1]))
        await asyncio.wait([insisting], timeout=0.05)
        assert not insisting.done()
        proxy.heal()
        assert await insisting == []


async def test_who_insists_waits_for_memory(link: Link, redis: Redis) -> None:
    # Without the flag that lets ours run when memory is full.
    needy = Script("needy", "1" * 40, "#!lua\nreturn redis.call('SET', KEYS[1], 'x', 'EX', 60)")
    await redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(OutOfMemoryError):
            await link.run(needy, ["link:needy"], [])
        insisting = asyncio.ensure_future(link.insist(needy, ["link:needy"], []))
        await asyncio.wait([insisting], timeout=0.05)
        assert not insisting.done()
    finally:
        await redis.config_set("maxmemory", 0)
    assert await insisting == b"OK"


async def test_who_insists_is_told_what_will_never_work(link: Link) -> None:
    wrong = Script("wrong", "2" * 40, "return redis.error_reply('ERR no such luck')")
    with pytest.raises(ResponseError, match="no such luck"):
        await link.insist(wrong, [], [])


async def test_a_busy_redis_delays_and_confuses_nobody(link: Link) -> None:
    busy, *others = await asyncio.gather(
        link.execute("EVAL", loop_of(50).source, 0, "done"), *[link.execute("ECHO", str(n)) for n in range(20)]
    )
    assert busy == b"done"
    assert others == [str(n).encode() for n in range(20)]


# --- addresses


@pytest.fixture(scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[int, Path]]:
    """A Redis with a password and users, on a port and on a socket."""
    directory = tmp_path_factory.mktemp("guarded")
    port, path = free_port(), directory / "redis.sock"
    flags = ["--port", str(port), "--unixsocket", str(path), "--save", "", "--requirepass", "open sesame"]
    server = Process("guarded", [redis_binary(), *flags], directory)
    await wait_until(path.exists)
    async with client(f"unix://:open%20sesame@{path}") as admin:
        await admin.acl_setuser("ali", enabled=True, passwords=["+forty"], keys=["*"], categories=["+@all"])
    yield port, path
    await server.stop()


@pytest.mark.parametrize(
    ("user", "name"), [(":open%20sesame@", "default"), ("default:open%20sesame@", "default"), ("ali:forty@", "ali")]
)
async def test_a_link_signs_in_and_selects_its_database(guarded: tuple[int, Path], user: str, name: str) -> None:
    port, path = guarded
    for url in (f"redis://{user}127.0.0.1:{port}/3", f"unix://{user}{path}?db=3"):
        for source in (url, blocking_client(url)):
            link = Link(address(source), "signed-in")
            assert await link.execute("ACL", "WHOAMI") == name.encode()
            assert b" db=3 " in await link.execute("CLIENT", "INFO")
            assert await link.execute("CLIENT", "GETNAME") == b"signed-in"
            link.close()


async def test_a_wrong_password_is_told_without_the_password(guarded: tuple[int, Path]) -> None:
    port, _ = guarded
    link = Link(address(f"redis://ali:fourty@127.0.0.1:{port}/0"), "stranger")
    with pytest.raises(RedisError, match="WRONGPASS") as refusal:
        await link.execute("PING")
    assert "fourty" not in str(refusal.value)


async def test_a_name_with_blanks_is_no_trouble(redis_server: RedisServer) -> None:
    """An operator may call a worker as RQ lets him."""
    link = Link(address(redis_server.url), "the worker in the cellar")
    assert await link.execute("PING") == b"PONG"
    link.close()
