"""The ledger's processes: every call once and every sum right, whatever is killed, restarted or poisoned."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy import Engine, text

from relay.broker.connections import Link, address
from relay.broker.keys import Keys
from relay.broker.usage_reader import behind
from tests.ledger.conftest import DATABASES
from tests.ledger.records import NO_TOKENS, STARTED_MS, check_sums, record, stored_calls
from tests.support.processes import START_S, Process, RedisServer, free_port, python
from tests.support.wait import wait_until

KEYS = Keys()
CALLS, CALLS_PER_DEATH = 1500, 500

# For what is the same whatever the database.
one_database = pytest.mark.parametrize("ledger_url", DATABASES[:1], indirect=True)

Start = Callable[..., Process]


@pytest.fixture
async def start(redis_server: RedisServer, redis: Redis, ledger_url: str, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts ledgers on one Redis and one database; those that still run are stopped in the end."""
    started: list[Process] = []

    def start_(**more: str) -> Process:
        environment = {
            "RELAY_REDIS_URL": redis_server.url,
            "RELAY_LEDGER_URL": ledger_url,
            "RELAY_USAGE_TTL_S": "0.001",
            **{f"RELAY_{name.upper()}": value for name, value in more.items()},
        }
        started.append(Process(f"ledger-{len(started)}", python("-m", "relay", "ledger"), tmp_path, environment))
        return started[-1]

    yield start_
    for ledger in started:
        if ledger.is_running:
            await ledger.stop()


@pytest.fixture
async def all_stored(redis_server: RedisServer) -> AsyncIterator[Callable[[], Awaitable[bool]]]:
    link = Link(address(redis_server.url), "test")

    async def all_stored_() -> bool:
        return (await behind(link, KEYS)).records == 0

    yield all_stored_
    link.close()


async def write(redis: Redis, records: Sequence[Mapping[Any, Any]]) -> None:
    async with redis.pipeline(transaction=False) as pipeline:
        for fields in records:
            pipeline.xadd(KEYS.usage, dict(fields))
        await pipeline.execute()


def call(number: int, v: int = 1) -> dict[str, str]:
    """A call that was lost first and then reported late, as its second version."""
    job = f"0-job{number}"
    at = {"started_ms": STARTED_MS + number * 10_000, "app": f"app{number % 5}"}
    return record(**{"call": f"{job}:7", "job": job, "v": v} | at | (NO_TOKENS if v == 1 and number % 4 == 0 else {}))


def check(engine: Engine, versions: dict[str, int]) -> None:
    """Each call is there once, at its highest version, and the rollups are the sums of the rows."""
    assert {row["call"]: row["v"] for row in stored_calls(engine)} == versions
    check_sums(engine)


async def test_a_ledger_stores_what_comes_and_stops_when_asked(
    start: Start, redis: Redis, engine: Engine, all_stored: Callable[[], Awaitable[bool]]
) -> None:
    ledger = start()
    await ledger.ready()
    assert ledger.output.count("ready ledger ") == 1
    assert engine.dialect.name in ledger.ready_line
    await write(redis, [call(number) for number in range(10)])
    await wait_until(all_stored)
    assert await ledger.stop() == 0
    check(engine, {f"0-job{number}:7": 1 for number in range(10)})


@one_database
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_stops_when_asked_even_if_it_never_found_redis(start: Start, number: signal.Signals) -> None:
    ledger = start(redis_url=f"redis://127.0.0.1:{free_port()}/0")
    await ledger.ready()
    await wait_until(lambda: "waiting" in ledger.output)
    ledger.send(number)
    assert await ledger.ended() == 0


@one_database
async def test_the_stream_is_trimmed_behind_what_is_stored(start: Start, redis: Redis) -> None:
    start()
    await write(redis, [call(number) for number in range(300)])

    async def trimmed() -> bool:
        return await redis.xlen(KEYS.usage) == 1

    await wait_until(trimmed, 30)


async def test_a_poisoned_record_stops_nothing_and_is_shown_by_its_id_only(
    start: Start, redis: Redis, engine: Engine, all_stored: Callable[[], Awaitable[bool]]
) -> None:
    ledger = start()
    poison = [{"v": "canary"}, call(1) | {"output_tokens": "canary"}, {b"canary\xff\x00": b"\x00\xff"}]
    await write(redis, [call(0), *poison, call(2)])
    await wait_until(all_stored, 30)
    check(engine, {"0-job0:7": 1, "0-job2:7": 1})
    with engine.connect() as connection:
        entries = connection.scalars(text("SELECT entry FROM rejected")).all()
    assert len(entries) == 3
    assert all(f"usage record {entry} kept aside" in ledger.output for entry in entries)
    assert "canary" not in ledger.output


async def test_ledgers_that_are_killed_at_any_moment_store_every_call_once(
    start: Start, redis: Redis, engine: Engine, all_stored: Callable[[], Awaitable[bool]]
) -> None:
    dice = random.Random(11)
    ledgers = [start(), start()]
    for first in range(0, CALLS, CALLS_PER_DEATH):
        numbers = range(first, first + CALLS_PER_DEATH)
        batch = [call(number) for number in numbers]
        batch += [call(number, v=2) for number in numbers if number % 4 == 0]
        batch += [call(dice.randrange(first + 1)) for _ in range(20)]  # written twice, as after a lost reply
        dice.shuffle(batch)
        victim = dice.randrange(2)
        await ledgers[victim].ready()
        await write(redis, batch)
        await asyncio.sleep(dice.random() / 10)  # about what a ledger needs for as many
        await ledgers[victim].kill()
        ledgers[victim] = start()
    await ledgers[0].kill()  # and one that has hardly begun
    await wait_until(all_stored, 60)
    check(engine, {f"0-job{number}:7": 2 if number % 4 == 0 else 1 for number in range(CALLS)})


@one_database
async def test_a_redis_that_restarts_is_waited_for(
    start: Start, ledger_url: str, engine: Engine, tmp_path: Path
) -> None:
    own = RedisServer(tmp_path / "own-redis")
    await own.start()
    ledger = start(redis_url=own.url)
    async with own.client() as client:
        await write(client, [call(1)])
        await wait_until(lambda: len(stored_calls(engine)) == 1, 30)
    await own.stop()
    await wait_until(lambda: "waiting" in ledger.output)
    await own.start()
    async with own.client() as client:
        await write(client, [call(2)])
        await wait_until(lambda: len(stored_calls(engine)) == 2, 30)
    assert await ledger.stop() == 0
    await own.stop()


@one_database
async def test_a_database_that_is_away_is_waited_for_and_keeps_nobody_from_starting(start: Start, redis: Redis) -> None:
    ledger = start(ledger_url=f"postgresql://relay:canary@127.0.0.1:{free_port()}/ledger")
    await write(redis, [call(1)])
    await ledger.ready()
    await wait_until(lambda: "waiting" in ledger.output, 30)
    assert await ledger.stop() == 0
    assert "canary" not in ledger.output
    assert await redis.xlen(KEYS.usage) == 1


@one_database
@pytest.mark.parametrize(
    ("text_", "said"),
    [("[[price]]\ninput = 1", "number 1: needs like, or input and output"), (None, "cannot read")],
)
async def test_prices_that_cannot_be_read_are_said_at_the_start(
    start: Start, tmp_path: Path, text_: str | None, said: str
) -> None:
    path = tmp_path / "prices.toml"
    if text_:
        path.write_text(text_)
    ledger = start(prices=str(path))
    assert await ledger.ended(START_S) == 2
    assert said in ledger.output
    assert "Traceback" not in ledger.output


@one_database
async def test_own_prices_are_used(start: Start, redis: Redis, engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text("[[price]]\ninput = 1\noutput = 0\n")
    start(prices="prices.toml")
    await write(redis, [call(1)])
    [row] = await wait_until(lambda: stored_calls(engine), 30)
    assert row["cost"] == row["baseline"] == (2048 + 1800 + 148 + 100) * 1000
    assert row["price_source"] == "own prices"
