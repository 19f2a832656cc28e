"""Mixed calls through a real relay whose workers and ledgers are killed all the while.

    async with campaign(directory, seed) as run:
        await run.calls(5000, kills=500)
        await run.drained()

Kills drive the pace: of 5,000 calls and 500 kills ten calls begin after each kill, however fast the machine is. In
between a worker is frozen beyond its lease now and then, so that some learn too late that their job was given away.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from relay.broker.connections import Link, address
from relay.broker.keys import Keys
from relay.broker.usage_reader import behind
from tests.bench.fleet import LEASE_S, Fleet
from tests.bench.mixture import Request, mixture
from tests.support import http
from tests.support.processes import Process, RedisServer, free_port, python
from tests.support.relay import Relay
from tests.support.wait import wait_until

SIZES = {"work": 4, "ledger": 2}
# Between two kills, on the average: about what a process needs to start. On a busy machine a kill waits for longer.
PAUSE_S = 1.2
KILLS_PER_FREEZE = 25
# Who has no answer so long after the last kill was forgotten.
FORGOTTEN_S = 120
IN_FLIGHT = 100
DRAINED_S = 180

PROVIDERS = """
[providers.anthropic]
base_url = "{url}"
api_key = "env:BENCH_PROVIDER_KEY"

[providers.openai]
base_url = "{url}"
api_key = "env:BENCH_PROVIDER_KEY"

[providers.explicit]
dialect = "openai"
base_url = "{url}"
api_key = "env:BENCH_PROVIDER_KEY"
cache_control = "explicit_breakpoints"
"""
PRICES = '[[price]]\nprovider = "explicit"\nlike = "openai"\n'


class Campaign:
    """``ends``: how the calls went for their clients, by what was asked."""

    def __init__(self, relay: Relay, fleet: Fleet, sandbox: int, link: Link, seed: int) -> None:
        self.fleet = fleet
        self.ends: Counter[tuple[str, str]] = Counter()
        self._relay = relay
        self._sandbox = sandbox
        self._link = link
        self._seed = seed
        self._keys = Keys()

    async def calls(self, calls: int, kills: int) -> None:
        """Make them all, and wait for all clients."""
        dice = random.Random(self._seed)
        requests = mixture(calls, self._seed)
        room = asyncio.Semaphore(IN_FLIGHT)
        begun, clients = 0, set[asyncio.Task[None]]()
        async with asyncio.TaskGroup() as tasks:
            for number in range(1, kills + 1):
                for request in islice(requests, calls * number // kills - begun):
                    await room.acquire()
                    clients.add(tasks.create_task(self._ask(request, room)))
                begun = calls * number // kills
                await asyncio.sleep(dice.uniform(0, 2 * PAUSE_S))
                if number % KILLS_PER_FREEZE == 0:
                    tasks.create_task(self.fleet.freeze_one(dice))
                await self.fleet.kill_one(dice)
            _, forgotten = await asyncio.wait(clients, timeout=FORGOTTEN_S)
            for client in forgotten:
                client.cancel()

    async def drained(self) -> None:
        """Wait until everything that was accepted has ended and is stored; stop the workers and the ledgers."""
        await self.fleet.ready()
        await wait_until(self._all_ended, DRAINED_S, what="all jobs and calls have ended", every_s=0.5)
        await self.fleet.stop("work")
        await wait_until(self._all_stored, DRAINED_S, what="the ledger has all records", every_s=0.1)
        await self.fleet.stop("ledger")

    async def books(self) -> tuple[list[dict[str, Any]], int]:
        """The provider's calls one by one, and how many it counted."""
        calls = (await http.request(self._sandbox, "GET", "/__sandbox/calls")).json["data"]
        return calls, (await http.request(self._sandbox, "GET", "/__sandbox/stats")).json["calls"]

    # -- one client ------------------------------------------------------------------------------------------------

    async def _ask(self, request: Request, room: asyncio.Semaphore) -> None:
        end = "forgotten"
        try:
            end = await self._exchange(request)
        except (http.Truncated, ConnectionError) as error:
            end = f"broken off: {type(error).__name__}"
        finally:
            room.release()
            self.ends[request.kind, end] += 1

    async def _exchange(self, request: Request) -> str:
        if request.manner == "reads":
            return _end_of(await self._relay.post(request.path, request.body))
        if request.manner == "leaves":  # before the answer or in the middle of it
            with suppress(TimeoutError):
                async with asyncio.timeout(2 * request.patience):
                    await self._relay.post(request.path, request.body)
            return "left"
        job = await self._relay.post(request.path, request.body, [("prefer", "respond-async")])
        if request.manner == "cancelled job":
            await asyncio.sleep(2 * request.patience)
            await self._relay.post(f"/v1/jobs/{job.json['id']}/cancel", b"")
        return request.manner

    # -- the end ---------------------------------------------------------------------------------------------------

    async def _all_ended(self) -> bool:
        for status in ("queued", "in_progress"):
            if (await self._relay.get(f"/v1/jobs?status={status}&limit=1")).json["data"]:
                return False
        return bool((await http.request(self._sandbox, "GET", "/__sandbox/stats")).json["open"] == 0)

    async def _all_stored(self) -> bool:
        return (await behind(self._link, self._keys)).records == 0


@asynccontextmanager
async def campaign(directory: Path, seed: int) -> AsyncIterator[Campaign]:
    """A Redis, the sandbox, an ingress, and the fleet, started fresh."""
    redis = RedisServer(directory / "redis")
    await redis.start()
    port = free_port()
    sandbox = Process("sandbox", python("-m", "relay", "sandbox"), directory, {"RELAY_SANDBOX_PORT": str(port)})
    await sandbox.ready()
    environment = _configure(directory, redis.url, port)
    relay, fleet = Relay(directory, redis.url, environment), Fleet(directory, environment)
    link = Link(address(redis.url), "bench")
    try:
        await relay.start(workers=0)
        for kind, size in SIZES.items():
            for _ in range(size):
                fleet.start(kind)
        await fleet.ready()
        yield Campaign(relay, fleet, port, link, seed)
    finally:
        link.close()
        for process in fleet.running:
            await process.kill()
        await relay.stop()
        await sandbox.stop()
        await redis.stop()


def _configure(directory: Path, redis_url: str, sandbox_port: int) -> dict[str, str]:
    (directory / "relay.toml").write_text(PROVIDERS.format(url=f"http://127.0.0.1:{sandbox_port}"))
    (directory / "prices.toml").write_text(PRICES)
    return {
        "BENCH_PROVIDER_KEY": "sandbox",
        "RELAY_REDIS_URL": redis_url,
        "RELAY_DATA_DIR": str(directory / "data"),
        "RELAY_CONFIG": str(directory / "relay.toml"),
        "RELAY_PRICES": str(directory / "prices.toml"),
        "RELAY_LEASE_S": str(LEASE_S),
        "RELAY_FIRST_BYTE_S": "8",  # a stalled provider is given up; a whole answer takes 4 s
        "RELAY_IDLE_S": "3",
        "RELAY_ABANDON_GRACE_S": "0.5",
        "RELAY_USAGE_TTL_S": "1",  # so that the stream is trimmed while records come
        "RELAY_LOG_LEVEL": "warning",
    }


def _end_of(answer: http.Response) -> str:
    if answer.status != 200:
        return "refused"
    return "error" if b'"error"' in answer.body[-2000:] else "answered"
