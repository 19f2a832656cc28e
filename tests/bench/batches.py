"""One large batch, from its acceptance to its results.  ``python -m tests.bench.batches [items] [workers]``.

The provider is the benchmark's own, which answers at once, so what is measured is the relay alone. While the batch runs
its ingress is asked for its health without a pause: the longest answer is how long it was held up, at most.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
from redis.asyncio import Redis
from rich.console import Console

from tests.bench import machine
from tests.bench.system import ROOT
from tests.support.processes import Process, RedisServer, python
from tests.support.relay import Relay, message
from tests.support.wait import wait_until

# A prompt of about a KiB.
PROMPT = "The quick brown fox jumps over the lazy dog. " * 20
LOOK_S, LONGEST_S = 0.1, 600


async def main(items: int, workers: int) -> None:
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as directory:
        await run(Path(directory), items, workers)


async def run(directory: Path, items: int, workers: int) -> None:
    redis = RedisServer(directory / "redis")
    await redis.start()
    upstream = Process("upstream", python("-m", "tests.bench.upstream"), directory, {"PYTHONPATH": str(ROOT)})
    await upstream.ready()
    url = f"http://127.0.0.1:{upstream.ready_line.split()[1]}"
    relay = Relay(directory, redis.url, {"ANTHROPIC_BASE_URL": url, "RELAY_LOG_LEVEL": "warning"})
    try:
        await relay.start(workers=workers)
        async with redis.client() as client:
            await measure(relay, client, items)
    finally:
        await relay.stop()
        await upstream.kill()
        await redis.stop()


async def measure(relay: Relay, redis: Redis, items: int) -> None:
    requests = [{"custom_id": f"item-{number}", "params": message("claude-x", PROMPT)} for number in range(items)]
    body = orjson.dumps({"requests": requests})
    marks = Marks(relay, redis)
    watching = asyncio.create_task(marks.watch())
    before_mb = await marks.redis_mb()
    ingress_mb, began_with = marks.ingress_mb(), marks.cpu_s()
    began = time.perf_counter()
    created = await relay.post("/v1/messages/batches", body)
    accepted_s = time.perf_counter() - began
    accepted_mb = await marks.redis_mb()
    path = f"/v1/messages/batches/{created.json['id']}"

    async def has_ended() -> bool:
        return bool((await relay.get(path)).json["processing_status"] == "ended")

    await wait_until(has_ended, LONGEST_S, what="the batch has ended", every_s=LOOK_S)
    ended_s = time.perf_counter() - began
    ended_mb = await marks.redis_mb()
    began = time.perf_counter()
    results = (await relay.get(f"{path}/results")).body
    download_s = time.perf_counter() - began
    watching.cancel()
    succeeded = sum(orjson.loads(line)["result"]["type"] == "succeeded" for line in results.splitlines())
    cpu = ", ".join(f"{part} {(spent - began_with[part]) * 1000 / items:.2f}" for part, spent in marks.cpu_s().items())
    memory = (
        f"{before_mb:.1f} before, {accepted_mb:.1f} accepted, {marks.redis_peak_mb:.1f} at most, {ended_mb:.1f} after"
    )
    say = Console().print
    say(f"{items} items, {len(body) / 1e6:.1f} MB in, {len(results) / 1e6:.1f} MB out, {succeeded} succeeded")
    say(f"accepted in {accepted_s:.2f} s, ended after {ended_s:.1f} s, results in {download_s:.2f} s")
    say(f"CPU ms an item: {cpu}")
    say(f"ingress MB: {ingress_mb:.0f} before, {marks.ingress_peak_mb:.0f} at most; Redis MB: {memory}")
    say(f"answers of /healthz in ms: {marks.p99_ms:.0f} the 99th of 100, {marks.longest_ms:.0f} the longest")


class Marks:
    """The readings while it runs."""

    def __init__(self, relay: Relay, redis: Redis) -> None:
        self._relay = relay
        self._redis = redis
        self._answers_ms: list[float] = []
        self.ingress_peak_mb = 0.0
        self.redis_peak_mb = 0.0

    @property
    def longest_ms(self) -> float:
        return max(self._answers_ms)

    @property
    def p99_ms(self) -> float:
        return sorted(self._answers_ms)[len(self._answers_ms) * 99 // 100]

    async def watch(self) -> None:
        await asyncio.gather(self._every(0.05, self._health), self._every(LOOK_S, self._memory))

    async def _every(self, seconds: float, look: Callable[[], Awaitable[Any]]) -> None:
        while True:
            await look()
            await asyncio.sleep(seconds)

    async def _health(self) -> None:
        began = time.perf_counter()
        await self._relay.get("/healthz")
        self._answers_ms.append((time.perf_counter() - began) * 1000)

    async def _memory(self) -> None:
        self.ingress_peak_mb = max(self.ingress_peak_mb, self.ingress_mb())
        self.redis_peak_mb = max(self.redis_peak_mb, await self.redis_mb())

    def cpu_s(self) -> dict[str, float]:
        """What each part has spent."""
        processes = {"ingress": self._relay.ingresses, "workers": self._relay.workers}
        return {part: sum(machine.cpu_s(each.pid) for each in of) for part, of in processes.items()}

    def ingress_mb(self) -> float:
        return machine.memory_bytes(self._relay.ingresses[0].pid) / 1e6

    async def redis_mb(self) -> float:
        return float((await self._redis.info("memory"))["used_memory"]) / 1e6


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    asyncio.run(main(*(arguments + [10_000, 1][len(arguments) :])))
