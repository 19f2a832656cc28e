"""The ledger under a million calls.  ``python -m tests.bench ledger [--rows 1000000]``.

Records are written into the usage stream while the ledger's process is frozen, as in an outage; then it goes on, and
what it makes of them a second is measured, slice after slice, with the CPU it takes: on a busy machine that is what
counts. Then the usage API is asked, over HTTP, as a client would. All of it for SQLite, and for PostgreSQL where there
is a server.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.table import Table

from relay.broker.connections import Link, address
from relay.broker.keys import Keys
from relay.broker.usage_reader import behind
from tests.bench import machine
from tests.bench.past import past
from tests.bench.questions import QUESTIONS, Asking
from tests.bench.report import table
from tests.ledger.postgres import Postgres, binary
from tests.support import http
from tests.support.processes import Process, RedisServer, free_port, python
from tests.support.relay import KEY, Relay
from tests.support.wait import wait_until

KEYS = Keys()
CALLS_A_DAY = 33_333  # a million in 30 days
SLICE = 100_000
PIPELINE = 1000
CAUGHT_UP_S = 600
WANTED_MS = 50


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench ledger", description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--marked", type=float, default=0.7, help="share of the calls that have breakpoints")
    parser.add_argument("--times", type=int, default=60, help="how often each question is asked")
    parser.add_argument("--only", choices=["sqlite", "postgresql"], help="one database")
    options = parser.parse_args(arguments)
    asyncio.run(_measure(Load(options.rows, options.marked, options.times), options.only))
    return 0


@dataclass(frozen=True, slots=True)
class Load:
    """So many calls, the share of them that had breakpoints, and how often each question is asked."""

    rows: int
    marked: float
    times: int

    @property
    def days(self) -> float:
        return self.rows / CALLS_A_DAY


async def _measure(load: Load, only: str | None) -> None:
    if only != "postgresql":
        with tempfile.TemporaryDirectory(prefix="relay-bench-") as directory:
            await _one("SQLite", f"sqlite:///{directory}/ledger.sqlite3", load)
    if only != "sqlite" and binary("postgres"):
        server = Postgres()
        await server.start()
        try:
            await _one("PostgreSQL", server.new_database(), load)
        finally:
            await server.stop()


async def _one(name: str, url: str, load: Load) -> None:
    console = Console(width=max(110, Console().width))
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as directory:
        async with running(Path(directory), url, load) as system:
            console.print(await system.catch_up(f"{name}: catching up after an outage"), "")
            console.print(await system.asked(f"{name}: the usage API at {load.rows:,} calls"), "")
            console.print(await system.exported(f"{name}: export"), "")


class System:
    """A ledger and a console on one database, and their Redis."""

    def __init__(
        self, redis: RedisServer, ledger: Process, console: Process, port: int, link: Link, load: Load
    ) -> None:
        self._redis = redis
        self._ledger = ledger
        self._console = console
        self._port = port
        self._link = link
        self._load = load
        self._until_s = int(time.time())

    async def catch_up(self, title: str) -> Table:
        made = table(title, "stored", "rows/s", "CPU µs/row", "load average")
        load = self._load
        records = past(load.rows, self._until_s * 1000, load.days, load.marked)
        done, took_s, cpu_s = 0, 0.0, 0.0
        while slice_ := list(islice(records, SLICE)):
            self._ledger.send(signal.SIGSTOP)
            await self._write(slice_)
            before, began = machine.cpu_s(self._ledger.pid), time.monotonic()
            self._ledger.send(signal.SIGCONT)
            await wait_until(self._caught_up, CAUGHT_UP_S, what="the ledger has caught up", every_s=0.05)
            slice_s, slice_cpu_s = time.monotonic() - began, machine.cpu_s(self._ledger.pid) - before
            done, took_s, cpu_s = done + len(slice_), took_s + slice_s, cpu_s + slice_cpu_s
            made.add_row("", *_pace(done, len(slice_), slice_s, slice_cpu_s), f"{os.getloadavg()[0]:.1f}")
        made.add_section()
        made.add_row("all", *_pace(done, done, took_s, cpu_s), "")
        return made

    async def asked(self, title: str) -> Table:
        made = table(title, "p50 ms", "p95 ms", "longest", "CPU ms", "rows")
        load, times = self._load, self._load.times
        since_s = int(self._until_s - load.days * 86_400)
        asking = Asking(random.Random(load.rows), since_s, self._until_s, load.rows)
        for name, question in QUESTIONS.items():
            took_ms, rows, before = [], 0, machine.cpu_s(self._console.pid)
            for _ in range(times):
                began = time.perf_counter()
                answer = await self._get(question(asking))
                took_ms.append((time.perf_counter() - began) * 1000)
                found = answer.json
                rows = len(found["data"])
                asking.cursors[name] = found.get("next_cursor") or ""
            cpu_ms = (machine.cpu_s(self._console.pid) - before) * 1000 / times
            p95 = statistics.quantiles(took_ms, n=20, method="inclusive")[-1]
            shown = f"[red]{p95:.1f}[/red]" if p95 > WANTED_MS else f"{p95:.1f}"
            spread = (f"{statistics.median(took_ms):.1f}", shown, f"{max(took_ms):.1f}")
            made.add_row(name, *spread, f"{cpu_ms:.1f}", f"{rows:,}")
        made.caption = f"each asked {times} times, one after the other; CPU: of the console, database and all where it "
        made.caption += f"is SQLite; load average {os.getloadavg()[0]:.1f}"
        return made

    async def exported(self, title: str) -> Table:
        made = table(title, "rows", "seconds", "rows/s", "MB")
        for form in ("csv", "jsonl"):
            began = time.monotonic()
            body = (await self._get(f"/v1/usage/export?format={form}")).body
            took_s = time.monotonic() - began
            rows = body.count(b"\n") - (form == "csv")
            made.add_row(form, f"{rows:,}", f"{took_s:.1f}", f"{rows / took_s:,.0f}", f"{len(body) / 1e6:,.0f}")
        return made

    async def _write(self, records: list[dict[str, str]]) -> None:
        async with self._redis.client() as redis:
            for first in range(0, len(records), PIPELINE):
                async with redis.pipeline(transaction=False) as pipeline:
                    for each in records[first : first + PIPELINE]:
                        pipeline.xadd(KEYS.usage, cast(Any, each))
                    await pipeline.execute()

    async def _caught_up(self) -> bool:
        return (await behind(self._link, KEYS)).records == 0

    async def _get(self, path: str) -> http.Response:
        answer = await http.request(self._port, "GET", path, [("x-api-key", KEY)])
        assert answer.status == 200, answer
        return answer


def _pace(done: int, rows: int, took_s: float, cpu_s: float) -> tuple[str, ...]:
    return f"{done:,}", f"{rows / took_s:,.0f}", f"{cpu_s * 1e6 / rows:.0f}"


@asynccontextmanager
async def running(directory: Path, url: str, load: Load) -> AsyncIterator[System]:
    """Redis, an ingress for the API key's sake, a ledger and a console on this database."""
    redis = RedisServer(directory / "redis", append_only=False)
    await redis.start()
    port = free_port()
    environment = {
        "RELAY_REDIS_URL": redis.url,
        "RELAY_LEDGER_URL": url,
        "RELAY_DATA_DIR": str(directory / "data"),
        "RELAY_CONSOLE_PORT": str(port),
        "RELAY_USAGE_TTL_S": "1",
        "RELAY_LOG_LEVEL": "warning",
    }
    relay = Relay(directory, redis.url, environment)
    ledger = Process("ledger", python("-m", "relay", "ledger"), directory, environment)
    console = Process("console", python("-m", "relay", "console"), directory, environment)
    link = Link(address(redis.url), "bench")
    try:
        await relay.start(workers=0)
        await asyncio.gather(ledger.ready(), console.ready())
        yield System(redis, ledger, console, port, link, load)
    finally:
        link.close()
        await asyncio.gather(ledger.stop(), console.stop())
        await relay.stop()
        await redis.stop()
