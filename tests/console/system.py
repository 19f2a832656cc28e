"""A relay with all its processes, the sandbox for a provider, and a past in its ledger."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from relay.broker.usage_reader import Entry
from relay.core.pricing import PriceTable
from relay.ledger.database import migrate, open_engine, url_of
from relay.ledger.store import Store
from relay.settings import load
from tests.support import http
from tests.support.oracles import check_quiet
from tests.support.processes import Process, free_port
from tests.support.relay import Relay, message
from tests.support.wait import wait_until

# Long enough for every model of the sandbox to cache it.
PROMPT = "You are a careful reader. " * 900


class System(Relay):
    """Ingress, worker, ledger, console and sandbox on one Redis."""

    def __init__(self, directory: Path, redis_url: str, **environment: str) -> None:
        self.directory = directory
        self._sandbox_port = free_port()
        self.console_port = free_port()
        settings = {
            "RELAY_SANDBOX_PORT": str(self._sandbox_port),
            "RELAY_CONSOLE_PORT": str(self.console_port),
            "RELAY_SANDBOX_GAP_MS": "1",
        }
        super().__init__(directory, redis_url, settings | environment)
        self.others: list[Process] = []

    async def start(self, *, ingresses: int = 1, workers: int = 1) -> None:
        names = ("sandbox", "ledger", "console")
        self.others = [self._spawn(name, {}) for name in names]
        await super().start(ingresses=ingresses, workers=workers)
        for process in self.others:
            await process.ready()

    async def stop(self) -> None:
        await super().stop()
        for process in self.others:
            await process.stop()
            check_quiet(process)

    @property
    def console(self) -> Process:
        return self.others[-1]

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.console_port}/dashboard"

    def remember(self, entries: Iterable[Entry]) -> None:
        """Put calls into the ledger's past."""
        remember(self.directory / "data", entries)

    async def usage(self, path: str = "", key: str = "") -> http.Response:
        """An answer of the usage API."""
        headers = [("x-api-key", key)] if key else self.auth
        return await http.request(self.console_port, "GET", f"/v1/usage{path}", headers)

    async def call(self, text: str = "Hello", **members: Any) -> str:
        """A streamed call with a prompt that is cached, read to its end; the job's id."""
        system = [{"type": "text", "text": PROMPT, "cache_control": {"type": "ephemeral"}}]
        model = members.pop("model", "claude-sonnet-4-6")
        body = message(model, text, **{"stream": True, "system": system, **members})
        answer = await self.post("/v1/messages", body, [("x-title", "Test bench")])
        assert answer.status == 200, answer
        job_id = answer.headers.get("x-relay-job-id")
        assert job_id
        return job_id

    async def stored(self, job_id: str) -> dict[str, Any]:
        """The call of a job, once the ledger has it."""
        found: list[dict[str, Any]] = []

        async def is_there() -> bool:
            found[:] = (await self.usage(f"?job={job_id}")).json["data"]
            return bool(found)

        await wait_until(is_there, what=f"the ledger has the call of {job_id}", every_s=0.05)
        return found[0]


def remember(data_dir: Path, entries: Iterable[Entry]) -> None:
    """Put calls into the ledger of a data directory, as its process would."""
    engine = open_engine(url_of(load({"data_dir": str(data_dir)})))
    migrate(engine)
    Store(engine, PriceTable(), "the-past").put(list(entries))
    engine.dispose()


def now_ms() -> int:
    return time.time_ns() // 1_000_000
