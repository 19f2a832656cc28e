"""The table of names in the README is what Redis really holds."""

from __future__ import annotations

import re

from redis.asyncio import Redis

from relay.broker.keys import TABLE, Keys, Name
from relay.core.job import CANCELLED, DONE, STREAMING
from tests.broker.system import Broker, Worker


def matches(name: Name, key: str) -> bool:
    return re.fullmatch(re.sub(r"<\w+>", "[^:]+", re.escape(name.pattern).replace(r"\{p\}", r"\{0\}")), key) is not None


async def test_every_key_is_in_the_table_with_its_type_and_its_end(
    broker: Broker, worker: Worker, redis: Redis
) -> None:
    for state in (STREAMING, DONE, CANCELLED):
        await broker.in_state(state, worker)
    await worker.leases.claim([], 1)
    found = {key async for key in redis.scan_iter() if key.startswith("relay:")}
    for key in found:
        [name] = [name for name in TABLE if matches(name, key)]
        kind = {"zset": "sorted set"}.get(kind := await redis.type(key), kind)
        assert name.type == kind, key
        assert name.expires.startswith("never") == (await redis.ttl(key) == -1), key
    shown = {name.pattern for name in TABLE if any(matches(name, key) for key in found)}
    # The rest: a channel is no key, a worker's counters and API keys have tests of their own.
    assert {name.pattern for name in TABLE} - shown == {
        "relay:{p}:job:<id>:live",
        "relay:{p}:workers:<name>",
        "relay:api_keys",
    }


def test_all_names_of_a_partition_are_in_one_slot_of_a_cluster() -> None:
    keys = Keys("eu1")
    names = [keys.leases, keys.usage, keys.worker("w"), keys.claim("w")]
    names += [make("eu1-" + "0" * 32) for make in (keys.job, keys.body, keys.log, keys.live)]
    assert {re.findall(r"\{(.*?)\}", name)[0] for name in names} == {"eu1"}
    assert len({*names}) == len(names)
