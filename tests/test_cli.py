"""The command line, run as an operator runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.processes import RedisServer, clean_environment, free_port

Done = subprocess.CompletedProcess[str]


def relay(*arguments: str, cwd: Path, **environment: str) -> Done:
    return subprocess.run(
        [sys.executable, "-m", "relay", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=cwd,
        env=clean_environment() | {"COLUMNS": "200"} | environment,
        check=False,
    )


def test_every_process_takes_the_same_flags(tmp_path: Path) -> None:
    flags = [
        set(re.findall(r"--[a-z-]+", relay(name, "--help", cwd=tmp_path).stdout)) for name in ("up", "serve", "work")
    ]
    assert flags[0] == flags[1] == flags[2] >= {"--workers", "--port", "--concurrency", "--lease-s", "--redis-url"}
    assert not {"--api-key", "--sandbox-key", "--ledger-url"} & flags[0]


@pytest.mark.parametrize("command", ["up", "serve"])
def test_a_bad_setting_is_one_line_and_nothing_starts(command: str, tmp_path: Path) -> None:
    done = relay(command, cwd=tmp_path, RELAY_LOG_LEVEL="loud")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("relay: RELAY_LOG_LEVEL: ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_unknown_flag_comes_with_a_guess(tmp_path: Path) -> None:
    done = relay("serve", "--prot", "1", cwd=tmp_path)
    assert done.returncode == 2
    assert "--port" in done.stderr


def test_an_unusable_provider_key_stops_the_start_and_is_not_shown(tmp_path: Path) -> None:
    done = relay("work", cwd=tmp_path, ANTHROPIC_API_KEY="canary\x01")
    assert done.returncode == 2
    assert "ANTHROPIC_API_KEY has control or non-ASCII characters" in done.stderr
    assert "canary" not in done.stderr


def test_the_settings_in_force_are_shown_without_secrets(tmp_path: Path) -> None:
    secrets = {"RELAY_API_KEY": "canary", "RELAY_REDIS_URL": "redis://:canary@x/0", "ANTHROPIC_API_KEY": "canary"}
    done = relay("settings", "--port", "1234", cwd=tmp_path, **secrets)
    assert done.returncode == 0
    assert "port = 1234\n" in done.stdout
    assert "provider anthropic: anthropic at https://api.anthropic.com/v1, serves claude-*" in done.stdout
    assert "canary" not in done.stdout + done.stderr


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisServer]:
    """A Redis with nothing in it but what these tests make."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    await server.start()
    yield server
    await server.stop()


# -- keys ------------------------------------------------------------------------------------------------------------


def test_a_key_is_made_listed_and_revoked(server: RedisServer, tmp_path: Path) -> None:
    def keys(*arguments: str) -> Done:
        return relay("keys", *arguments, cwd=tmp_path, RELAY_REDIS_URL=server.url)

    made = json.loads(keys("create", "--name", "laptop", "--tenant", "acme", "--json").stdout)
    assert made["key"].startswith(f"rk_{made['id']}_")
    assert (made["tenant"], made["state"]) == ("acme", "active")

    listed = keys("list", "--json").stdout
    assert [record["id"] for record in json.loads(listed)] == [made["id"]]
    assert made["key"] not in listed
    assert "laptop" in keys("list").stdout

    assert keys("revoke", made["id"][:4]).stdout == f"key {made['id']} (laptop) is revoked\n"
    assert json.loads(keys("list", "--json").stdout)[0]["state"].startswith("revoked")


def test_a_new_key_stands_alone_on_standard_output(server: RedisServer, tmp_path: Path) -> None:
    done = relay("keys", "create", "--name", "laptop", "--redis-url", server.url, cwd=tmp_path)
    assert re.fullmatch(r"rk_[0-9a-f]{8}_[0-9a-f]{64}_[0-9a-f]{8}\n", done.stdout)
    assert "not shown again" in done.stderr


def test_an_expiry_in_the_past_is_refused(tmp_path: Path) -> None:
    done = relay("keys", "create", "--name", "x", "--expires", "2001-01-01", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "relay: --expires: 2001-01-01 is in the past\n")


def test_a_key_that_is_not_there_is_a_clear_error(server: RedisServer, tmp_path: Path) -> None:
    done = relay("keys", "revoke", "abcd", "--redis-url", server.url, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "relay: no API key has the id 'abcd'\n")


def test_keys_without_redis_are_a_clear_error(tmp_path: Path) -> None:
    done = relay("keys", "list", cwd=tmp_path, RELAY_REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")
    assert done.returncode == 1
    assert done.stderr.startswith("relay: Redis does not answer")


# -- webhooks --------------------------------------------------------------------------------------------------------


def test_a_webhook_secret_is_made_once_and_replaced_when_asked(server: RedisServer, tmp_path: Path) -> None:
    def secret(*arguments: str) -> Done:
        return relay("webhooks", "secret", *arguments, cwd=tmp_path, RELAY_REDIS_URL=server.url)

    first = secret().stdout
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=\n", first)
    assert secret().stdout == first
    assert secret("--tenant", "acme").stdout != first
    replaced = secret("--rotate")
    assert replaced.stdout != first
    assert replaced.stderr == "secrets made before that still sign: 1\n"
    assert secret().stdout == replaced.stdout


# -- health ----------------------------------------------------------------------------------------------------------


def test_an_ingress_that_does_not_answer_is_unwell(tmp_path: Path) -> None:
    done = relay("health", "ingress", "--port", str(free_port()), cwd=tmp_path)
    assert done.returncode == 1
    assert "no answer" in done.stderr


def test_a_host_without_a_worker_is_unwell(server: RedisServer, tmp_path: Path) -> None:
    for process in ("worker", "ledger"):
        unwell = relay("health", process, "--redis-url", server.url, cwd=tmp_path)
        assert (unwell.returncode, unwell.stderr) == (1, f"relay: {process}: no {process} of this host is registered\n")
    done = relay("health", "worker", "--redis-url", server.url, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "relay: worker: no worker of this host is registered\n")


def test_a_redis_that_is_away_makes_no_worker_unwell(tmp_path: Path) -> None:
    done = relay("health", "worker", "--redis-url", f"redis://127.0.0.1:{free_port()}/0", cwd=tmp_path)
    assert done.returncode == 0


def test_commands_do_not_load_each_others_world(tmp_path: Path) -> None:
    code = "import sys, relay.cli; print(' '.join(sys.modules))"
    environment = clean_environment()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    loaded = set(done.stdout.split())
    assert not {
        name for name in loaded if name.split(".")[0] in ("redis", "rq", "httpx", "aiohttp", "uvicorn", "workers")
    }


def test_the_module_is_the_command(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("relay")
    assert os.access(script, os.X_OK)
    done = subprocess.run([script, "version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", done.stdout)
    assert done.stdout == relay("version", cwd=tmp_path).stdout
