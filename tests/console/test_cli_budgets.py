"""``relay budgets``: set, listed and removed on the command line."""

from __future__ import annotations

import asyncio
import json

import pytest

from relay.broker import connections
from relay.broker.api_keys import ApiKeys
from tests.support.processes import RedisServer, clean_environment, python


async def budgets(redis: RedisServer, command: str, *arguments: str) -> tuple[int | None, str]:
    line = python("-m", "relay", "budgets", command, *arguments, "--redis-url", redis.url)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *line, env=clean_environment() | {"COLUMNS": "200"}, stdout=pipe, stderr=pipe
    )
    output, errors = await process.communicate()
    return process.returncode, (output or errors).decode()


async def test_a_budget_is_set_listed_and_removed(console_redis: RedisServer) -> None:
    said = await budgets(console_redis, "set", "tenant:cli", "20 USD a day", "soft 5M tokens a month")
    assert said == (0, "tenant cli: 20 USD a day, soft 5,000,000 tokens a month\n")
    _, table = await budgets(console_redis, "list")
    assert "tenant cli" in table
    assert "20 USD a day" in table
    _, listed = await budgets(console_redis, "list", "--json")
    [mine] = [each for each in json.loads(listed) if each["whose"] == "tenant:cli"]
    assert [(bound["hard"], bound["spent"]) for bound in mine["bounds"]] == [(20 * 10**9, 0), (0, 0)]
    assert await budgets(console_redis, "remove", "tenant:cli") == (0, "tenant cli: no budget any more\n")
    assert await budgets(console_redis, "remove", "tenant:cli") == (0, "tenant cli: had no budget\n")


async def test_a_key_is_named_by_the_beginning_of_its_id(console_redis: RedisServer) -> None:
    async with connections.client(console_redis.url) as client:
        record, _ = await ApiKeys(client).create("made by a test", "cli")
    said = await budgets(console_redis, "set", f"key:{record.id[:6]}", "1k tokens a day")
    assert said == (0, f"API key {record.id}: 1,000 tokens a day\n")
    assert (await budgets(console_redis, "remove", f"key:{record.id}"))[1].endswith("no budget any more\n")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("tenant:cli", "20 EUR a day"), "20 EUR a day"),
        (("cli", "20 USD a day"), "'cli' is neither"),
        (("key:nobody", "20 USD a day"), "nobody"),
        (("tenant:cli", "1 USD a day", "soft 2 USD a day"), "must be below"),
    ],
)
async def test_a_mistake_is_told_in_one_line(
    console_redis: RedisServer, arguments: tuple[str, ...], named: str
) -> None:
    code, said = await budgets(console_redis, "set", *arguments)
    assert (code, named in said, said.count("\n")) == (1, True, 1)
