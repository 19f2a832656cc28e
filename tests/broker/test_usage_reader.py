"""The reading side of the usage stream: shared, at least once, and trimmed behind what is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from redis.asyncio import Redis

from relay.broker.connections import RedisError
from relay.broker.keys import Keys
from relay.broker.usage_reader import Behind, Entry, UsageReader, behind
from tests.broker.system import Broker
from tests.support.processes import RedisServer, free_port
from tests.support.wait import wait_until

KEYS = Keys()
AT_ONCE = 0.001

Open = Callable[..., UsageReader]


@pytest.fixture
def open_reader(broker: Broker, redis_server: RedisServer) -> Iterator[Open]:
    """Readers on an empty Redis that keep nothing longer than they must."""
    opened = []

    def open_(**facts: float) -> UsageReader:
        opened.append(UsageReader(redis_server.url, KEYS, **{"keep_s": AT_ONCE} | facts))
        return opened[-1]

    yield open_
    for reader in opened:
        reader.close()


async def write(redis: Redis, count: int) -> None:
    for number in range(count):
        await redis.xadd(KEYS.usage, {"n": number})


def numbers(entries: list[Entry]) -> list[int]:
    return [int(entry.fields["n"]) for entry in entries]


async def test_readers_share_the_records(redis: Redis, open_reader: Open) -> None:
    await write(redis, 5)
    one, other = open_reader(), open_reader()
    assert numbers(one.read(3, AT_ONCE)) == [0, 1, 2]
    assert numbers(other.read(3, AT_ONCE)) == [3, 4]
    assert one.read(3, AT_ONCE) == other.read(3, AT_ONCE) == []


async def test_what_a_dead_reader_left_goes_to_another_and_then_to_nobody(redis: Redis, open_reader: Open) -> None:
    await write(redis, 5)
    dead = open_reader()
    dead.stored(dead.read(2, AT_ONCE))
    dead.read(2, AT_ONCE)
    heir = open_reader(claim_idle_s=0)
    entries = heir.read(10, AT_ONCE)
    assert numbers(entries) == [2, 3]
    heir.stored(entries)
    assert numbers(heir.read(10, AT_ONCE)) == [4]
    assert open_reader().read(10, AT_ONCE) == []


async def test_what_a_living_reader_has_is_left_to_it(redis: Redis, open_reader: Open) -> None:
    await write(redis, 1)
    open_reader().read(1, AT_ONCE)
    assert open_reader(claim_idle_s=60).read(1, AT_ONCE) == []


async def test_a_redis_that_forgot_everything_is_begun_with_again(redis: Redis, open_reader: Open) -> None:
    reader = open_reader()
    assert reader.read(1, AT_ONCE) == []
    await redis.flushall()
    await write(redis, 2)
    assert numbers(reader.read(5, AT_ONCE)) == [0, 1]


async def test_a_record_that_was_dropped_unread_stops_nobody(redis: Redis, broker: Broker, open_reader: Open) -> None:
    await write(redis, 3)
    open_reader().read(2, AT_ONCE)
    await redis.xtrim(KEYS.usage, maxlen=1, approximate=False)
    reader = open_reader(claim_idle_s=0)
    assert numbers(reader.read(5, AT_ONCE)) == [2]
    assert (await behind(broker.link, KEYS)).records == 1


def test_a_redis_that_is_away_is_an_error_and_no_silence() -> None:
    reader = UsageReader(f"redis://127.0.0.1:{free_port()}/0", KEYS, keep_s=1)
    for step in (lambda: reader.read(1, AT_ONCE), lambda: reader.stored([Entry("1-1", {})]), reader.trim):
        with pytest.raises(RedisError):
            step()


# -- trimming ------------------------------------------------------------------------------------------------------


async def left(redis: Redis) -> list[int]:
    return [int(fields["n"]) for _, fields in await redis.xrange(KEYS.usage)]


async def trimmed(redis: Redis, reader: UsageReader, expected: list[int]) -> None:
    """Trim until the clock has moved on far enough."""

    async def done() -> bool:
        reader.trim()
        return await left(redis) == expected

    await wait_until(done, what=f"{expected} is left")


async def test_what_is_stored_goes_and_what_is_not_stays(redis: Redis, open_reader: Open) -> None:
    await write(redis, 6)
    reader = open_reader()
    entries = reader.read(4, AT_ONCE)
    reader.stored([entries[0], entries[1], entries[3]])
    await trimmed(redis, reader, [2, 3, 4, 5])
    reader.stored([entries[2]])
    await trimmed(redis, reader, [3, 4, 5])  # the last one read marks the place


async def test_nothing_goes_that_another_group_has_not_stored(redis: Redis, open_reader: Open) -> None:
    await redis.xgroup_create(KEYS.usage, "audit", id="0", mkstream=True)
    await write(redis, 4)
    reader = open_reader()
    reader.stored(reader.read(4, AT_ONCE))
    assert reader.trim() == 0
    [[_, [(first, _), *_]]] = await redis.xreadgroup("audit", "somebody", {KEYS.usage: ">"}, count=3)
    assert reader.trim() == 0
    await redis.xack(KEYS.usage, "audit", first)
    await trimmed(redis, reader, [1, 2, 3])


async def test_what_is_young_stays_even_when_it_is_stored(redis: Redis, open_reader: Open) -> None:
    await write(redis, 3)
    reader = open_reader(keep_s=60)
    reader.stored(reader.read(3, AT_ONCE))
    assert reader.trim() == 0


async def test_nothing_goes_while_nobody_has_ever_read(redis: Redis, open_reader: Open) -> None:
    assert open_reader().trim() == 0
    await write(redis, 3)
    assert open_reader().trim() == 0
    assert await left(redis) == [0, 1, 2]


async def test_a_reader_that_is_gone_is_forgotten_unless_it_owes_something(redis: Redis, open_reader: Open) -> None:
    await write(redis, 2)
    owing, idle = open_reader(), open_reader(gone_s=0)
    owing.read(1, AT_ONCE)
    idle.stored(idle.read(1, AT_ONCE))

    async def forgotten() -> bool:
        idle.trim()
        known = [consumer["name"] for consumer in await redis.xinfo_consumers(KEYS.usage, "ledger")]
        return known == [owing.name]

    await wait_until(forgotten)


# -- how far behind ------------------------------------------------------------------------------------------------


async def test_behind_counts_what_nobody_read_and_what_nobody_stored(
    redis: Redis, broker: Broker, open_reader: Open
) -> None:
    assert await behind(broker.link, KEYS) == Behind(0, 0)
    await write(redis, 5)
    assert (await behind(broker.link, KEYS)).records == 5
    reader = open_reader()
    entries = reader.read(3, AT_ONCE)
    assert (await behind(broker.link, KEYS)).records == 5
    reader.stored(entries[1:])
    assert (await behind(broker.link, KEYS)).records == 3
    reader.stored(entries)
    reader.stored(reader.read(5, AT_ONCE))
    assert await behind(broker.link, KEYS) == Behind(0, 0)


async def test_behind_tells_the_age_of_the_oldest(redis: Redis, broker: Broker, open_reader: Open) -> None:
    seconds, _ = await redis.time()
    for age_s in (60, 30):
        await redis.xadd(KEYS.usage, {"n": age_s}, id=f"{(seconds - age_s) * 1000}-0")
    reader = open_reader()
    assert 60 <= (await behind(broker.link, KEYS)).oldest_s < 70
    entries = reader.read(1, AT_ONCE)
    assert 60 <= (await behind(broker.link, KEYS)).oldest_s < 70
    reader.stored(entries)
    assert 30 <= (await behind(broker.link, KEYS)).oldest_s < 40


async def test_behind_can_count_where_redis_has_lost_count(redis: Redis, broker: Broker, open_reader: Open) -> None:
    await write(redis, 5)
    reader = open_reader()
    reader.stored(reader.read(2, AT_ONCE))
    [_, _, _, (unread, _), _] = await redis.xrange(KEYS.usage)
    await redis.xdel(KEYS.usage, unread)
    assert (await behind(broker.link, KEYS)).records == 2
