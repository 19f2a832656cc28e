"""A running relay, made of the same processes an operator would start: ingresses and workers on one Redis.

    async with Relay(directory, redis.url, served_by(upstream)) as relay:
        answer = await relay.post("/v1/messages", body)
        await relay.workers[0].kill()

At the end every process must have been quiet (oracle O6): no traceback, no warning of a lost task, exit code 0 where a
stop was asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import orjson

from tests.support import http
from tests.support.oracles import check_quiet
from tests.support.processes import Process, free_port, python
from tests.support.sse import SseReader
from tests.support.upstream import Upstream

KEY = "a-key-for-tests"


class Relay:
    """``port`` is that of the first ingress; further ones are reached by ``at``."""

    def __init__(self, directory: Path, redis_url: str, environment: Mapping[str, str] | None = None) -> None:
        self.key = KEY
        self.ingresses: list[Process] = []
        self.workers: list[Process] = []
        self._directory = directory
        self._environment = {
            "RELAY_REDIS_URL": redis_url,
            "RELAY_API_KEY": KEY,
            "RELAY_DATA_DIR": str(directory / "data"),
            **(environment or {}),
        }
        self._ports: dict[Process, int] = {}
        self._started = 0

    async def start(self, *, ingresses: int = 1, workers: int = 1) -> None:
        starts = [self.add_ingress() for _ in range(ingresses)] + [self.add_worker() for _ in range(workers)]
        await asyncio.gather(*starts)

    async def stop(self) -> None:
        """Stop what still runs, workers first so that streams end, and check that all were quiet."""
        await self.stop_workers()
        ingresses, self.ingresses = self.ingresses, []
        await _stop(ingresses)

    async def stop_workers(self) -> None:
        workers, self.workers = self.workers, []
        await _stop(workers)

    async def stop_ingress(self, ingress: Process) -> None:
        self.ingresses.remove(ingress)
        await _stop([ingress])

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def add_ingress(self, **environment: str) -> Process:
        port = free_port()
        ingress = self._spawn("serve", {"RELAY_PORT": str(port), **environment})
        self._ports[ingress] = port
        self.ingresses.append(ingress)
        await ingress.ready()
        return ingress

    async def add_worker(self, **environment: str) -> Process:
        worker = self._spawn("work", environment)
        self.workers.append(worker)
        await worker.ready()
        return worker

    def _spawn(self, command: str, environment: Mapping[str, str]) -> Process:
        self._started += 1
        name = f"{command}-{self._started}"
        return Process(name, python("-m", "relay", command), self._directory, self._environment | dict(environment))

    # -- talking to it ---------------------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        return self.at(self.ingresses[0])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def at(self, ingress: Process) -> int:
        return self._ports[ingress]

    @property
    def auth(self) -> list[tuple[str, str]]:
        return [("x-api-key", self.key)]

    async def post(self, path: str, body: Any, headers: Iterable[tuple[str, str]] = ()) -> http.Response:
        """One request, read to its end; ``body`` is sent as it is if it is bytes."""
        return await http.request(self.port, "POST", path, self._lines(headers), _bytes(body))

    async def raw(
        self, method: str, path: str, headers: Iterable[tuple[str, str]] = (), rest: bytes = b""
    ) -> http.Response:
        """One request with these headers beside the usual ones, and whatever bytes follow them."""
        lines = [*self._lines(headers), ("connection", "close")]
        exchange = await http.Exchange.open(self.port, http.render(method, path, lines) + rest)
        try:
            return http.Response(exchange.status, exchange.headers, await exchange.body())
        finally:
            await exchange.close()

    async def get(self, path: str, headers: Iterable[tuple[str, str]] = ()) -> http.Response:
        return await http.request(self.port, "GET", path, [*self.auth, *headers])

    async def stream(
        self,
        body: Any,
        *,
        path: str = "/v1/messages",
        headers: Iterable[tuple[str, str]] = (),
        ingress: Process | None = None,
        receive_buffer: int | None = None,
    ) -> SseReader:
        """Begin a streamed request and wait for the head of its answer."""
        port = self.at(ingress) if ingress else self.port
        return await _streaming(
            await SseReader.open(port, path, self._lines(headers), _bytes(body), receive_buffer=receive_buffer)
        )

    async def events(self, job_id: str, *, after: str = "", ingress: Process | None = None) -> SseReader:
        """Read a job's stream, from the start or behind an event id."""
        port = self.at(ingress) if ingress else self.port
        return await _streaming(await SseReader.open(port, f"/v1/jobs/{job_id}/stream", self.auth, last_event_id=after))

    async def job(self, job_id: str) -> dict[str, Any]:
        answer = await self.get(f"/v1/jobs/{job_id}")
        assert answer.status == 200, answer
        found: dict[str, Any] = answer.json
        return found

    def _lines(self, headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        return [*self.auth, ("content-type", "application/json"), ("anthropic-version", "2023-06-01"), *headers]


async def _streaming(reader: SseReader) -> SseReader:
    """The reader itself; ``AssertionError`` with the answer when it is none that streams."""
    if reader.status != 200:
        await reader.rest()
        await reader.close()
        raise AssertionError(f"{reader.status}: {reader.received.decode(errors='replace')}")
    return reader


async def _stop(processes: list[Process]) -> None:
    await asyncio.gather(*[process.stop() for process in processes if process.is_running])
    for process in processes:
        check_quiet(process)


def _bytes(body: Any) -> bytes:
    return body if isinstance(body, bytes) else orjson.dumps(body)


def served_by(provider: Upstream) -> dict[str, str]:
    """The environment of a relay whose providers are all this one double."""
    return {
        "ANTHROPIC_BASE_URL": provider.url,
        "ANTHROPIC_API_KEY": "a-provider-key",
        "OPENAI_BASE_URL": provider.url,
        "OPENAI_API_KEY": "a-provider-key",
    }


def message(model: str, text: str = "Hello", **members: Any) -> dict[str, Any]:
    """A request body for the Anthropic surface."""
    return {"model": model, "max_tokens": 20, "messages": [{"role": "user", "content": text}], **members}
