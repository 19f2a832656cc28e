"""API keys on a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from relay.broker import connections, keys
from relay.broker.api_keys import ADMIN, FRESH_S, SCOPES, STALE_S, ApiKeys
from relay.core.errors import InvalidRequest, NotFound, Unauthenticated, Unavailable
from tests.support.processes import RedisServer, free_port


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self, at: float = 1_000_000.0) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisServer]:
    """A Redis whose keys are nobody else's."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[Redis]:
    """What Redis holds, looked at from beside; nothing at the start."""
    async with server.client() as client:
        await client.flushall()
        yield client


@pytest.fixture
async def held(redis: Redis, server: RedisServer, clock: Clock) -> AsyncIterator[ApiKeys]:
    async with connections.client(server.url) as client:
        yield ApiKeys(client, now=clock, monotonic=clock)


@pytest.fixture
async def elsewhere(redis: Redis, server: RedisServer, clock: Clock) -> AsyncIterator[ApiKeys]:
    """The same keys as another process sees them."""
    async with connections.client(server.url) as client:
        yield ApiKeys(client, now=clock, monotonic=clock)


async def test_a_new_key_lets_its_tenant_in(held: ApiKeys) -> None:
    record, key = await held.create("laptop", "acme")
    assert await held.authenticate(key) == record
    assert (record.name, record.tenant, record.scopes, record.last4) == ("laptop", "acme", SCOPES, key[-4:])


async def test_redis_never_holds_a_key(held: ApiKeys, redis: Redis) -> None:
    _, key = await held.create("laptop", "acme")
    await held.ensure("a key of the operator's own", "first", "default")
    stored = repr(await redis.hgetall(keys.API_KEYS))
    secret = key.split("_")[2]
    assert secret not in stored
    assert "operator" not in stored


@pytest.mark.parametrize(
    ("presented", "says"),
    [
        (None, "no API key"),
        ("", "no API key"),
        ("nonsense", "unknown"),
        ("k" * 513, "too long"),
        ("é\ud800", "unknown"),
    ],
)
async def test_what_is_no_key_is_refused(held: ApiKeys, presented: str | None, says: str) -> None:
    with pytest.raises(Unauthenticated, match=says):
        await held.authenticate(presented)


async def test_a_mistyped_key_is_told_from_an_unknown_one(held: ApiKeys) -> None:
    _, key = await held.create("laptop", "acme")
    mistyped = key[:-1] + ("0" if key[-1] != "0" else "1")
    with pytest.raises(Unauthenticated, match="mistyped"):
        await held.authenticate(mistyped)


async def test_no_message_shows_more_than_the_end_of_a_key(held: ApiKeys) -> None:
    record, key = await held.create("laptop", "acme")
    await held.revoke(record.id)
    for presented in (key, key[:-8] + "00000000", "a-rather-long-unknown-key", "short"):
        with pytest.raises(Unauthenticated) as caught:
            await held.authenticate(presented)
        assert presented[-5:] not in caught.value.message


async def test_a_revoked_key_is_out_at_once_here_and_soon_elsewhere(
    held: ApiKeys, elsewhere: ApiKeys, clock: Clock
) -> None:
    record, key = await held.create("laptop", "acme")
    await elsewhere.authenticate(key)

    revoked = await held.revoke(record.id)
    assert revoked == replace(record, revoked_at=int(clock.at))
    with pytest.raises(Unauthenticated, match="revoked"):
        await held.authenticate(key)
    assert await elsewhere.authenticate(key) == record

    clock.at += FRESH_S + 0.1
    with pytest.raises(Unauthenticated, match="revoked"):
        await elsewhere.authenticate(key)


async def test_revoking_twice_keeps_the_first_date(held: ApiKeys, clock: Clock) -> None:
    record, _ = await held.create("laptop", "acme")
    first = await held.revoke(record.id)
    clock.at += 100
    assert await held.revoke(record.id) == first


async def test_a_beginning_of_the_id_is_enough_if_it_fits_one_key(held: ApiKeys) -> None:
    records = [(await held.create(f"key {n}", "acme"))[0] for n in range(17)]  # 16 digits: two begin alike
    assert (await held.revoke(records[0].id[:7])).id == records[0].id
    begins = [record.id[0] for record in records]
    shared = next(digit for digit in begins if begins.count(digit) > 1)
    with pytest.raises(NotFound, match="API keys have an id"):
        await held.revoke(shared)
    for nothing in ("", "zz"):
        with pytest.raises(NotFound):
            await held.revoke(nothing)


async def test_an_expired_key_is_out_to_the_second_even_when_fresh(held: ApiKeys, clock: Clock) -> None:
    _, key = await held.create("laptop", "acme", expires_at=int(clock.at) + 2)
    await held.authenticate(key)
    clock.at += 2
    with pytest.raises(Unauthenticated, match="expired"):
        await held.authenticate(key)


async def test_a_given_key_is_the_operators_and_one_that_is_made_is_not(held: ApiKeys) -> None:
    assert ADMIN in (await held.ensure("a key of the operator's own", "first", "default")).scopes
    assert ADMIN not in (await held.create("laptop", "acme"))[0].scopes


async def test_a_key_is_known_by_its_digest_until_it_is_revoked(held: ApiKeys) -> None:
    record, _ = await held.create("laptop", "acme")
    assert await held.known(record.digest) == record
    assert await held.known("0" * 64) is None
    await held.revoke(record.id)
    with pytest.raises(Unauthenticated, match="revoked"):
        await held.known(record.digest)


async def test_a_given_key_is_ensured_once(held: ApiKeys) -> None:
    first = await held.ensure("hunter2", "first", "default")
    again = await held.ensure("hunter2", "another name", "another tenant")
    assert again == first
    assert await held.authenticate("hunter2") == first
    assert [record.name for record in await held.list()] == ["first"]


@pytest.mark.parametrize(("key", "warnings"), [("hunter2", 1), ("correct horse battery staple", 0)])
async def test_a_short_given_key_is_taken_with_a_warning(
    held: ApiKeys, key: str, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    await held.ensure(key, "first", "default")
    assert len(caplog.records) == warnings
    assert key not in caplog.text


async def test_a_given_key_that_was_revoked_stays_out(held: ApiKeys) -> None:
    record = await held.ensure("hunter2", "first", "default")
    await held.revoke(record.id)
    await held.ensure("hunter2", "first", "default")
    with pytest.raises(Unauthenticated, match="revoked"):
        await held.authenticate("hunter2")


async def test_a_key_that_becomes_known_is_let_in_soon(held: ApiKeys, elsewhere: ApiKeys, clock: Clock) -> None:
    with pytest.raises(Unauthenticated):
        await elsewhere.authenticate("hunter2")
    await held.ensure("hunter2", "first", "default")
    clock.at += FRESH_S + 0.1
    assert await elsewhere.authenticate("hunter2")


@pytest.mark.parametrize("unusable", ["", "k" * 513, "rk_00000000_" + 64 * "0" + "_00000000"])
async def test_an_unusable_given_key_is_refused(held: ApiKeys, unusable: str) -> None:
    with pytest.raises(InvalidRequest):
        await held.ensure(unusable, "first", "default")


async def test_keys_are_listed_oldest_first(held: ApiKeys, clock: Clock) -> None:
    for name in ("one", "two", "three"):
        await held.create(name, "acme")
        clock.at += 1
    assert [record.name for record in await held.list()] == ["one", "two", "three"]


async def test_a_record_filed_under_another_digest_lends_no_rights(held: ApiKeys, redis: Redis) -> None:
    record, _ = await held.create("laptop", "acme")
    stranger = await held.ensure("a stranger's key", "stranger", "nobody")
    await redis.hset(keys.API_KEYS, stranger.digest, record.encode())
    with pytest.raises(Unauthenticated):
        await held.authenticate("a stranger's key")


async def test_members_of_a_newer_version_are_left_alone(held: ApiKeys, redis: Redis) -> None:
    record, key = await held.create("laptop", "acme")
    newer = record.encode()[:-1] + b',"colour":"blue"}'
    await redis.hset(keys.API_KEYS, record.digest, newer)
    assert await held.authenticate(key) == record


async def test_while_redis_is_away_a_key_known_good_is_taken_for_a_while(
    held: ApiKeys, server: RedisServer, clock: Clock
) -> None:
    record, key = await held.create("laptop", "acme")
    await held.authenticate(key)
    await server.kill()

    clock.at += STALE_S
    assert await held.authenticate(key) == record
    clock.at += 0.1
    with pytest.raises(Unavailable) as caught:
        await held.authenticate(key)
    assert caught.value.retry_after_s

    await server.start()
    assert await held.authenticate(key) == record


async def test_while_redis_is_away_nobody_new_is_let_in_and_nobody_is_called_unknown(clock: Clock) -> None:
    async with connections.client(f"redis://127.0.0.1:{free_port()}/0") as client:
        with pytest.raises(Unavailable):
            await ApiKeys(client, now=clock, monotonic=clock).authenticate("hunter2")


async def test_what_is_remembered_is_bounded(redis: Redis, server: RedisServer, clock: Clock) -> None:
    async with connections.client(server.url) as client:
        held = ApiKeys(client, now=clock, monotonic=clock, remembered=3)
        asked = [await lookups(redis, held, f"guess {n}") for n in (1, 1, 2, 3, 4, 1)]
    assert asked == [1, 0, 1, 1, 1, 1]


async def lookups(redis: Redis, held: ApiKeys, guess: str) -> int:
    """How often Redis is asked about a guess."""

    async def count() -> int:
        return int((await redis.info("commandstats")).get("cmdstat_hget", {"calls": 0})["calls"])

    before = await count()
    with pytest.raises(Unauthenticated):
        await held.authenticate(guess)
    return await count() - before
