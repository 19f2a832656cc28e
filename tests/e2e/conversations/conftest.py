"""A relay with the sandbox for both of its providers, and what each SDK's application saw of the script through it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from uuid import uuid4

import pytest

from tests.e2e.conversations.applications import Application, Report, Steps, steps
from tests.e2e.conversations.script import WAYS, Pair, Way, conversations
from tests.support import http
from tests.support.leftovers import keys_without_expiry
from tests.support.oracles import check_quiet
from tests.support.processes import Process, RedisServer, free_port, python
from tests.support.relay import Relay

Reports = dict[tuple[str, Way], Report]  # by conversation, and how it was held
Script = Callable[[Application, Pair], Awaitable[Reports]]


@dataclass(frozen=True)
class RelayOnSandbox:
    relay: Relay
    sandbox_port: int

    async def hold(self, application: Application, conversations: list[Steps]) -> list[Report]:
        """What the application saw, and in ``billed`` what the provider's own books say of the same call."""
        reports = await application(self.relay.url, self.relay.key, conversations)
        books = await http.request(self.sandbox_port, "GET", "/__sandbox/calls")
        # Of several calls for one job the last, which is the one that was answered.
        bills = {call["call_id"].partition(":")[0]: call["bill"] for call in books.json["data"]}
        for seen in (seen for report in reports for seen in report):
            seen["billed"] = bills.get(seen["headers"].get("x-relay-job-id"))
        return reports


@pytest.fixture(scope="session")
async def relay_on_sandbox(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RelayOnSandbox]:
    directory, port = tmp_path_factory.mktemp("conversations"), free_port()
    address = {"RELAY_SANDBOX_PORT": str(port), "RELAY_SANDBOX_KEY": "a-sandbox-key"}
    sandbox = Process("sandbox", python("-m", "relay", "sandbox"), directory, address | {"RELAY_SANDBOX_GAP_MS": "0"})
    redis = RedisServer(directory / "redis")
    relay = Relay(directory, redis.url, address)
    await asyncio.gather(redis.start(), sandbox.ready())
    await relay.start()
    yield RelayOnSandbox(relay, port)
    await relay.stop()
    async with redis.client() as client:
        assert not await keys_without_expiry(client)
    await asyncio.gather(redis.stop(), sandbox.stop())
    check_quiet(sandbox)


@pytest.fixture(scope="session")
async def script(relay_on_sandbox: RelayOnSandbox) -> Script:
    """Holds every conversation of the script in every way, all at once; each application and pair only once."""
    held: dict[tuple[Application, Pair], asyncio.Task[Reports]] = {}

    async def hold(application: Application, pair: Pair) -> Reports:
        told = {
            (each.name, way): steps(each, pair, way)
            for way in WAYS
            for each in conversations(pair, uuid4().hex)
            if way in each.ways
        }
        reports = await relay_on_sandbox.hold(application, list(told.values()))
        return dict(zip(told, reports, strict=True))

    async def once(application: Application, pair: Pair) -> Reports:
        if (application, pair) not in held:
            held[application, pair] = asyncio.create_task(hold(application, pair))
        return await held[application, pair]

    return once
