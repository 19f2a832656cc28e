"""``relay up``, the whole of it: from one command to one Ctrl-C, with no process left behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import stat
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support import http
from tests.support.processes import Process, RedisServer, clean_environment, free_port, python
from tests.support.relay import message
from tests.support.sse import SseReader
from tests.support.wait import wait_until

READY_S = 10.0


class Up:
    """One ``relay up`` in a directory of its own."""

    def __init__(self, directory: Path, **environment: str) -> None:
        directory.mkdir(exist_ok=True)
        self.data = directory / "data"
        self.port = free_port()
        self.environment = {"RELAY_PORT": str(self.port), "RELAY_WORKERS": "1", "RELAY_SANDBOX_GAP_MS": "2"}
        self.environment |= {"RELAY_DATA_DIR": str(self.data), "PYTHONUNBUFFERED": "1", **environment}
        self._directory = directory
        self.ready_after_s = 0.0
        self._started = time.monotonic()
        runs = len(list(directory.glob("up-*.log")))
        self.process = Process(f"up-{runs}", python("-m", "relay", "up"), directory, self.environment)

    async def ready(self) -> Up:
        """Wait for the banner; it must come in time."""

        def is_ready() -> bool:
            assert self.process.is_running, self.output
            return "relay is ready" in self.output and "finalMessage" in self.output

        await wait_until(is_ready, 3 * READY_S, what="relay up is ready")
        self.ready_after_s = time.monotonic() - self._started
        return self

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send(number)
        return await self.process.ended(60)

    async def ended_with_all(self) -> None:
        """Nothing of it runs any more."""
        await wait_until(lambda: not self.pids(), what=f"no process is left; still there: {self.pids()}")

    @property
    def output(self) -> str:
        return self.process.output

    @property
    def key(self) -> str:
        return (self.data / "api-key").read_text().strip()

    def pids(self, command: str = "") -> list[int]:
        """The processes that belong to it, as the kernel sees them: all that know of its data directory."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                line, known = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
            except OSError:
                continue  # it ended while we looked
            if str(self.data).encode() in line + known and command.encode() in line.replace(b"\0", b" "):
                found.append(int(entry.name))
        return found

    async def ask(self, text: str = "Hello") -> http.Response:
        headers = [("x-api-key", self.key), ("content-type", "application/json")]
        body = json.dumps(message("claude-sonnet-4-6", text)).encode()
        return await http.request(self.port, "POST", "/v1/messages", headers, body)

    async def serves(self) -> bool:
        """Whether a request is answered; for while parts of it are being started again."""
        try:
            return (await self.ask()).status == 200
        except (OSError, http.Truncated):
            return False

    async def relay(self, *arguments: str) -> tuple[int, str]:
        """Another command of the relay, beside it."""
        return await run(*python("-m", "relay", *arguments), cwd=self._directory, RELAY_DATA_DIR=str(self.data))

    async def call(self, language: str) -> str:
        """Run a call of the banner, pasted as it stands; what it printed."""
        text = re.split(r"^--- (\w+) ---\n", self.output, flags=re.M)
        pasted = dict(zip(text[1::2], text[2::2], strict=True))[language]
        shell = ["bash", "-c", pasted] if language == "curl" else [sys.executable, "-c", pasted]
        code, printed = await run(*shell, cwd=self._directory)
        assert code == 0, printed
        return printed


async def run(*command: str, cwd: Path, **environment: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env=clean_environment() | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await process.communicate()
    return process.returncode or 0, printed.decode()


Start = Callable[..., Up]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a ``relay up``; what still runs after the test is ended with its children."""
    async with AsyncExitStack() as stack:

        def begin(**environment: str) -> Up:
            up = Up(tmp_path, **environment)
            stack.push_async_callback(up.ended_with_all)
            stack.push_async_callback(up.process.kill)
            return up

        yield begin


@pytest.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Up]:
    """One that runs for all tests that break nothing."""
    up = await Up(tmp_path_factory.mktemp("up")).ready()
    yield up
    assert await up.stop() == 0, up.output
    await up.ended_with_all()


# -- running ---------------------------------------------------------------------------------------------------------


@pytest.mark.alone
async def test_it_is_ready_soon_and_answers(running: Up) -> None:
    began = time.monotonic()
    await running.relay("version")
    pace = time.monotonic() - began  # half a second where nothing else is done
    assert running.ready_after_s < READY_S * max(1, pace)
    assert (await running.ask()).status == 200


async def test_the_printed_calls_work_and_those_after_the_first_read_the_cache(running: Up) -> None:
    first = await running.call("curl")
    assert cache_reads(first) == 0
    assert "message_stop" in first
    assert cache_reads(await running.call("curl")) > 0
    assert cache_reads(await running.call("Python")) > 0
    assert cache_reads(await running.call("OpenAI")) > 0


def cache_reads(printed: str) -> int:
    return int(re.findall(r"(?:cache_read_input_tokens|cached_tokens)\W+(\d+)", printed)[0])


async def test_the_key_is_for_its_owner_alone(running: Up) -> None:
    assert stat.S_IMODE((running.data / "api-key").stat().st_mode) == 0o600
    assert running.key in running.output


async def test_other_commands_find_its_redis(running: Up) -> None:
    code, printed = await running.relay("keys", "create", "--name", "second", "--json")
    assert code == 0, printed
    made = json.loads(printed)
    headers = [("authorization", f"Bearer {made['key']}"), ("content-type", "application/json")]
    body = json.dumps(message("claude-sonnet-4-6")).encode()
    assert (await http.request(running.port, "POST", "/v1/messages", headers, body)).status == 200


async def test_the_dashboard_is_where_it_says(running: Up) -> None:
    [port] = re.findall(r"dashboard  http://127\.0\.0\.1:(\d+)/dashboard", running.output)
    answer = await http.request(int(port), "GET", "/v1/usage/summary", [("x-api-key", running.key)])
    assert (answer.status, answer.json["object"]) == (200, "list")
    assert (await http.request(int(port), "GET", "/dashboard/login")).status == 200


async def test_its_processes_are_well(running: Up) -> None:
    url = (running.data / "redis-url").read_text().strip()
    assert await running.relay("health", "ingress", "--port", str(running.port)) == (0, "")
    assert await running.relay("health", "worker", "--redis-url", url) == (0, "")
    assert await running.relay("health", "ledger", "--redis-url", url) == (0, "")


async def test_a_second_one_in_the_same_directory_is_refused(running: Up) -> None:
    code, printed = await running.relay("up", "--port", str(free_port()))
    assert code == 2
    assert f"another relay up (process {running.process.pid}) runs on {running.data}" in printed


async def test_it_says_nothing_while_all_is_well(running: Up) -> None:
    before = running.output
    assert (await running.ask()).status == 200
    assert running.output == before


async def test_a_redis_that_is_given_is_used(start: Start, own_redis: RedisServer) -> None:
    up = await start(RELAY_REDIS_URL=own_redis.url, RELAY_API_KEY="given-key-for-up").ready()
    assert not up.pids("redis-server") + up.pids("valkey-server")
    assert not (up.data / "api-key").exists()
    assert "given-key-for-up" in up.output
    assert await up.stop() == 0


# -- dying -----------------------------------------------------------------------------------------------------------


async def test_parts_that_die_are_started_again(start: Start) -> None:
    up = await start().ready()
    ours = {"worker-1": "work", "ledger": "ledger", "console": "console", "ingress": "serve", "sandbox": "sandbox"}
    for name, part in {**ours, "redis": "redis.sock"}.items():
        (pid,) = up.pids(part if name == "redis" else f"relay {part}")
        os.kill(pid, signal.SIGKILL)
        await wait_until(lambda: f"{name} │ is back" in up.output)  # noqa: B023 - it is over before the next round
        assert f"{name} │ killed by Killed (signal 9); starting it again in 0.2 s" in up.output
    await wait_until(up.serves, 30)
    assert await up.stop() == 0


async def test_killed_it_leaves_no_process_and_starts_again_with_what_it_had(start: Start) -> None:
    up = await start().ready()
    key, (_, listed) = up.key, await up.relay("keys", "list", "--json")
    await up.process.kill()
    await up.ended_with_all()

    again = await start().ready()
    assert again.key == key
    assert await again.relay("keys", "list", "--json") == (0, listed)
    assert (await again.ask()).status == 200
    assert await again.stop() == 0


async def test_an_orphaned_redis_is_stopped_before_a_new_one_starts(start: Start) -> None:
    up = await start().ready()
    (redis,) = up.pids("redis.sock")
    os.kill(redis, signal.SIGSTOP)  # so that it cannot obey when its parent dies
    await up.process.kill()
    assert redis in up.pids()

    again = await start().ready()
    assert "stopped redis, left running by an earlier relay up" in again.output
    assert redis not in again.pids()
    assert (await again.ask()).status == 200
    assert await again.stop() == 0


async def test_a_part_that_cannot_start_ends_it_all_with_a_word(start: Start, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "appendonlydir").write_text("in the way")
    up = start()
    assert await up.process.ended() == 1
    assert "relay: redis did not start: ended with exit code 1" in up.output
    assert f"wrote to {up.data / 'redis.log'}" in up.output
    await up.ended_with_all()


# -- stopping --------------------------------------------------------------------------------------------------------


async def test_a_stop_lets_open_streams_end_and_leaves_nothing(start: Start) -> None:
    up = await start(RELAY_SANDBOX_GAP_MS="50").ready()
    async with await open_stream(up) as stream:
        up.process.send(signal.SIGTERM)
        events = await stream.rest()
    assert events[-1].name == "message_stop"
    assert await up.process.ended(40) == 0
    await up.ended_with_all()


async def test_a_second_ctrl_c_hurries(start: Start) -> None:
    up = await start(RELAY_SANDBOX_GAP_MS="20000").ready()
    async with await open_stream(up):
        up.process.send(signal.SIGINT)
        await wait_until(lambda: "once more to hurry" in up.output)
        up.process.send(signal.SIGINT)
        assert await up.process.ended(15) == 0
    assert "does not stop; killed" not in up.output
    await up.ended_with_all()


async def test_a_stop_during_the_start_leaves_nothing(start: Start) -> None:
    up = start()
    await wait_until(lambda: up.pids("redis.sock"))
    assert await up.stop(signal.SIGINT) == 0
    assert "relay is ready" not in up.output
    await up.ended_with_all()


async def open_stream(up: Up) -> SseReader:
    """A stream that has begun."""
    headers = [("x-api-key", up.key), ("content-type", "application/json")]
    body = json.dumps(message("claude-sonnet-4-6", stream=True)).encode()
    return await SseReader.open(up.port, "/v1/messages", headers, body)
