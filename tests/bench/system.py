"""The system under load, and one measurement of it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import machine
from tests.bench.workloads import Workload
from tests.support.processes import Process, RedisServer, python
from tests.support.relay import KEY, Relay

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Measured:
    """One workload's figures.  ``cpu_s`` and ``memory`` are by part; ``direct`` is the load without the relay."""

    workload: Workload
    load: dict[str, Any]
    direct: dict[str, Any]
    cpu_s: Mapping[str, float]
    memory: Mapping[str, int]
    foreign_cores: float


@dataclass(frozen=True, slots=True)
class System:
    port: int
    upstream_port: int
    parts: Mapping[str, tuple[int, ...]]  # of the relay, by name: their processes
    others: tuple[int, ...]  # processes of the benchmark itself

    async def measure(self, workload: Workload) -> Measured:
        direct = {} if workload.holds else await self._run(workload, self.upstream_port, _Marks({}))
        marks = _Marks(self.parts)
        own_before, all_before = self._own_s(), machine.busy_s()
        load = await self._run(workload, self.port, marks)
        foreign_s = machine.busy_s() - all_before - (self._own_s() - own_before) - marks.load_s
        memory = {part: (marks.memory[part] - marks.memory_before[part]) for part in self.parts}
        return Measured(workload, load, direct, marks.cpu, memory, max(0.0, foreign_s / marks.took_s))

    def _own_s(self) -> float:
        pids = [pid for pids in self.parts.values() for pid in pids]
        return sum(map(machine.cpu_s, (*pids, *self.others)))

    async def _run(self, workload: Workload, port: int, marks: _Marks) -> dict[str, Any]:
        spec = {
            "port": port,
            "key": KEY,
            "body": workload.body().decode(),
            "events": workload.events,
            "connections": workload.connections,
            "rate": workload.rate,
            "holds": workload.holds,
            "warmup_s": workload.warmup_s,
            "window_s": workload.window_s,
            "ramp_s": workload.ramp_s,
        }
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*python("-m", "tests.bench.load"), stdin=pipe, stdout=pipe)
        assert process.stdin and process.stdout
        began = asyncio.get_running_loop().time()
        process.stdin.write(json.dumps(spec).encode())
        process.stdin.close()
        line = b""
        async for line in process.stdout:
            marks.note(line.decode().strip(), process.pid)
        marks.took_s = asyncio.get_running_loop().time() - began
        assert await process.wait() == 0
        result: dict[str, Any] = json.loads(line)
        return result


class _Marks:
    """The readings at the edges of the measured window."""

    def __init__(self, parts: Mapping[str, tuple[int, ...]]) -> None:
        self._parts = parts
        self.memory_before = self._memory()
        self.memory = self.memory_before
        self.cpu: dict[str, float] = {}
        self.load_s = 0.0
        self.took_s = 0.0

    def note(self, word: str, load_pid: int) -> None:
        if word == "start":
            self.cpu = self._cpu()
        elif word == "end":
            self.cpu = {part: spent - self.cpu[part] for part, spent in self._cpu().items()}
            self.load_s = machine.cpu_s(load_pid)
            self.memory = self._memory()

    def _cpu(self) -> dict[str, float]:
        return {part: sum(map(machine.cpu_s, pids)) for part, pids in self._parts.items()}

    def _memory(self) -> dict[str, int]:
        return {part: sum(map(machine.memory_bytes, pids)) for part, pids in self._parts.items()}


@asynccontextmanager
async def running(directory: Path, workers: int) -> AsyncIterator[System]:
    """Redis, one ingress, the workers and the provider, started fresh."""
    redis = RedisServer(directory / "redis")
    await redis.start()
    upstream = Process("upstream", python("-m", "tests.bench.upstream"), directory, {"PYTHONPATH": str(ROOT)})
    await upstream.ready()
    upstream_port = int(upstream.ready_line.split()[1])
    environment = {
        "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{upstream_port}",
        "RELAY_CONCURRENCY": "5000",
        "RELAY_LOG_LEVEL": "warning",
    }
    relay = Relay(directory, redis.url, environment)
    try:
        await relay.start(workers=workers)
        parts = {
            "ingress": (relay.ingresses[0].pid,),
            "worker": tuple(worker.pid for worker in relay.workers),
            "redis": (redis.pid,),
        }
        yield System(relay.port, upstream_port, parts, (upstream.pid, os.getpid()))
    finally:
        await relay.stop()
        await upstream.kill()
        await redis.stop()
