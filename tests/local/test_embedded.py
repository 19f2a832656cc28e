"""The Redis of ``relay up``: which one, how it is set up, and that it keeps what it was given."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.broker import connections
from relay.local import embedded
from relay.local.data_dir import DataDir
from relay.local.leftovers import Record
from relay.local.supervisor import Child, StartError


def quiet(_name: str, _line: str) -> None:
    """For who does not want to know."""


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[embedded.Server]:
    """The server that came with us or is on PATH, running."""
    server = embedded.find(DataDir(tmp_path), quiet)
    child = Child(server.program(), quiet, Record(tmp_path / "processes.json"))
    await child.start()
    yield server
    await child.stop(asyncio.Event())


@pytest.mark.parametrize(
    ("banner", "version"),
    [
        ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64 build=1", ("redis", (7, 0))),
        ("Valkey server v=9.1.2 sha=00000000:1 malloc=libc bits=64 build=1536df31c0395150", ("valkey", (9, 1))),
        ("Redis server v=10.12.0", ("redis", (10, 12))),
        ("some other program 1.0", None),
    ],
)
def test_a_server_says_what_it_is(banner: str, version: tuple[str, tuple[int, int]] | None) -> None:
    assert embedded.version_of(banner) == version


@pytest.mark.parametrize(
    ("name", "banner", "taken"),
    [
        ("redis-server", "Redis server v=7.0.0", True),
        ("redis-server", "Redis server v=6.2.14", False),
        ("valkey-server", "Valkey server v=7.2.11", True),
        ("valkey-server", "Valkey server v=7.1.0", False),
        ("redis-server", "no server at all", False),
    ],
)
def test_a_server_on_path_is_taken_if_it_is_new_enough(
    name: str, banner: str, taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = executable(tmp_path / "bin" / name, f'echo "{banner}"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    said: list[str] = []
    server = embedded.find(DataDir(tmp_path), lambda _, line: said.append(line))
    assert (server.binary == str(binary)) == taken
    assert len(said) == (0 if taken else 1)


async def test_it_keeps_everything_and_forgets_nothing(server: embedded.Server) -> None:
    expected = {"appendonly": "yes", "appendfsync": "everysec", "save": "", "maxmemory-policy": "noeviction"}
    async with connections.client(server.url) as redis:
        assert {name: (await redis.config_get(name))[name] for name in expected} == expected


async def test_nobody_gets_in_without_the_password(server: embedded.Server) -> None:
    async with connections.client(server.url.replace(server.password, "guess")) as stranger:
        with pytest.raises(connections.RedisError, match="invalid username-password"):
            await stranger.ping()
    assert server.password not in " ".join(map(str, server.program().command))


async def test_what_it_writes_is_for_its_owner_alone(server: embedded.Server) -> None:
    async with connections.client(server.url) as redis:
        await redis.set("prompt", "confidential")
    written = [path for path in server.directory.path.rglob("*") if path.name != "processes.json"]
    assert {path.name for path in written} >= {"redis.conf", "redis.sock", "appendonlydir"}
    assert not [path for path in written if stat.S_IMODE(path.stat().st_mode) & 0o077]


async def test_it_starts_again_with_what_it_had(tmp_path: Path) -> None:
    for expected in (None, b"kept"):
        server = embedded.find(DataDir(tmp_path), quiet)
        child = Child(server.program(), quiet, Record(tmp_path / "processes.json"))
        await child.start()
        async with connections.client(server.url) as redis:
            assert await redis.get("key") == expected
            await redis.set("key", "kept")
        child.kill()
        await child.stop(asyncio.Event())


async def test_a_path_too_long_for_a_socket_gets_a_port(tmp_path: Path) -> None:
    path = tmp_path / ("d" * 100) / "with 'odd' \"signs\""
    path.mkdir(parents=True)
    server = embedded.find(DataDir(path), quiet)
    assert server.socket_path is None
    child = Child(server.program(), quiet, Record(path / "processes.json"))
    await child.start()
    async with connections.client(server.url) as redis:
        assert await redis.ping()
    await child.stop(asyncio.Event())


async def test_one_that_cannot_start_is_an_error(tmp_path: Path) -> None:
    server = embedded.find(DataDir(tmp_path), quiet)
    (tmp_path / "appendonlydir").write_text("in the way")
    with pytest.raises(StartError):
        await Child(server.program(), quiet, Record(tmp_path / "processes.json")).start()
    assert server.log.read_text()
