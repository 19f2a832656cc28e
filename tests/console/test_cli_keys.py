"""``relay keys create``: what the new key may do."""

from __future__ import annotations

import asyncio
import json

from tests.support.processes import RedisServer, clean_environment, python


async def create(redis: RedisServer, *arguments: str) -> tuple[int | None, str]:
    command = python("-m", "relay", "keys", "create", "--name", "n", "--json", "--redis-url", redis.url, *arguments)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, env=clean_environment(), stdout=pipe, stderr=pipe)
    output, errors = await process.communicate()
    return process.returncode, (output or errors).decode()


async def test_a_key_may_do_what_was_asked_for(console_redis: RedisServer) -> None:
    made = create(console_redis, "--scope", "usage:read", "--admin", "--log", "content"), create(console_redis)
    (code, output), (_, plain) = await asyncio.gather(*made)
    key, usual = json.loads(output), json.loads(plain)
    assert (code, key["scopes"], key["log"]) == (0, ["usage:read", "admin"], "content")
    assert (usual["scopes"], usual["log"]) == (["jobs:read", "jobs:write", "usage:read"], None)


async def test_a_scope_that_is_none_is_named(console_redis: RedisServer) -> None:
    code, output = await create(console_redis, "--scope", "root")
    assert (code, "'root'" in output) == (1, True)
