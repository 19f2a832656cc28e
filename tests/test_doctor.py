"""``relay doctor``: a sound system has nothing wrong, and each thing that is wrong is named."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from relay.broker.checkup import judge
from tests.support.badprovider import BadProvider
from tests.support.processes import RedisServer, clean_environment, free_port
from tests.support.relay import KEY, Relay, served_by

SOUND: Mapping[str, Any] = {
    "valkey_version": "8.1.0",
    "redis_version": "7.2.4",
    "aof_enabled": 1,
    "maxmemory": 0,
    "maxmemory_policy": "noeviction",
    "used_memory": 1_000,
}


async def doctor(cwd: Path, environment: Mapping[str, str]) -> tuple[int, dict[str, dict[str, str]]]:
    """Its exit code, and its findings by what they are about and how bad they are."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "relay", "doctor", "--json"),
        cwd=cwd,
        env=clean_environment() | {"RELAY_DATA_DIR": str(cwd / "data")} | environment,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert "a-provider-key" not in out.decode()
    assert KEY not in out.decode()
    found: dict[str, dict[str, str]] = {}
    for line in out.splitlines():
        finding = json.loads(line)
        found.setdefault(finding["state"], {})[finding["about"]] = finding["words"]
    assert process.returncode is not None
    return process.returncode, found


async def test_a_sound_system_has_nothing_wrong(
    redis_server: RedisServer, relay: Relay, upstream: BadProvider, tmp_path: Path
) -> None:
    environment = served_by(upstream) | {"RELAY_REDIS_URL": redis_server.url}
    code, found = await doctor(tmp_path, environment)
    assert (code, "wrong" in found) == (0, False)
    assert set(found.get("warning", {})) <= {"ledger"}  # nobody runs one here, so it falls behind
    assert set(found["ok"]) >= {"provider anthropic", "redis", "clock", "api keys", "workers", "database"}
    assert "1 alive" in found["ok"]["workers"]
    assert not (tmp_path / "data").exists()  # it changes nothing


async def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    redis, port = RedisServer(tmp_path / "redis", append_only=False), free_port()
    await redis.start()
    (tmp_path / "relay.toml").write_text(
        f'[providers.anthropic]\nbase_url = "http://127.0.0.1:{port}"\napi_key = "env:NOBODY_SET_THIS"\n'
        f'[providers.openai]\nbase_url = "http://127.0.0.1:{port}"\n'
    )
    try:
        database = f"postgresql://bill:a-provider-key@127.0.0.1:{port}/ledger"
        code, found = await doctor(tmp_path, {"RELAY_REDIS_URL": redis.url, "RELAY_LEDGER_URL": database})
    finally:
        await redis.stop()
    wrong = found["wrong"]
    assert code == 1
    assert "NOBODY_SET_THIS" in wrong["provider anthropic"]
    assert str(port) in wrong["provider openai"]
    assert "none is alive" in wrong["workers"]
    assert "relay keys create" in wrong["api keys"]
    assert "cannot be reached" in wrong["database"]
    assert "do not survive" in found["warning"]["redis"]


async def test_without_redis_it_says_so_and_goes_on(tmp_path: Path) -> None:
    code, found = await doctor(tmp_path, {"RELAY_REDIS_URL": f"redis://:a-provider-key@127.0.0.1:{free_port()}/0"})
    assert code == 1
    assert set(found["wrong"]) == {"redis"}
    assert "sandbox stands in" in found["warning"]["providers"]
    assert "database" in found["ok"]


@pytest.mark.parametrize(
    ("facts", "state", "named"),
    [
        ({"valkey_version": "7.1.9"}, "wrong", "7.2"),
        ({"aof_enabled": 0}, "warning", "appendonly"),
        ({"maxmemory_policy": "allkeys-lru"}, "warning", "allkeys-lru"),
        ({"maxmemory_policy": "allkeys-lru", "maxmemory": 10_000}, "wrong", "allkeys-lru"),
        ({"maxmemory": 1_100}, "warning", "90 %"),
    ],
)
def test_a_server_is_judged_by_what_it_says(facts: Mapping[str, Any], state: str, named: str) -> None:
    [found] = [finding for finding in judge({**SOUND, **facts}) if finding.state != "ok"]
    assert (found.state, named in found.words) == (state, True)


def test_a_sound_server_is_called_by_its_name() -> None:
    assert [(each.state, each.words) for each in judge(SOUND)] == [("ok", "valkey 8.1.0")]
    redis = {name: value for name, value in SOUND.items() if name != "valkey_version"}
    assert [each.words for each in judge(redis)] == ["redis 7.2.4"]
