"""A TCP proxy that hurts: put it between a worker (or an ingress) and Redis, or before a provider.

    async with ChaosProxy(redis.port) as proxy:
        proxy.arm(SCRIPT.sha, "lose_reply")

Faults, per read from the client: by the probabilities in ``faults``, or armed for the next reads that hold a pattern:

    lose_reply  the request reaches the server, then both sides are cut before the reply: it happened, nobody knows
    lose_req    the request is dropped and the connection cut: it did not happen
    hold        the request waits for ``hold_s`` or until ``release``: a frozen peer, a half-open link
    deaf        from now on nothing from the server reaches this client, though the connection stays open

``latency_s`` delays each way. As a process of its own it takes JSON commands, one per line, on standard input:
{"set": {"latency_s": 0.2}}, {"arm": ["BLMOVE", "lose_reply", 1]}, {"partition": 3}, {"target": 6380}, {"cut": true};
each is answered by a line with the counts of faults done:

    python -m tests.support.chaos TARGET_PORT PORT
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

READ_BYTES = 1 << 16
OPENING_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Faults:
    """Probabilities per read from the client, and two times."""

    lose_req: float = 0.0
    lose_reply: float = 0.0
    hold: float = 0.0
    deaf: float = 0.0
    hold_s: float = 1.0
    latency_s: float = 0.0


class ChaosProxy:
    """``counts`` says how often each fault struck; a lost reply counts once the server is done with its request."""

    def __init__(self, target_port: int, faults: Faults | None = None, *, seed: int = 0) -> None:
        self.target_port = target_port
        self.faults = faults or Faults()
        self.counts: Counter[str] = Counter()
        self.port = 0
        self._random = random.Random(seed)
        self._armed: list[tuple[bytes, str]] = []
        self._released = asyncio.Event()
        self._partitioned = False
        self._pairs: dict[_Pair, asyncio.Task[None]] = {}
        self._server: asyncio.Server | None = None

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server
        self._server.close()
        for task in list(self._pairs.values()):
            task.cancel()
        await asyncio.gather(*self._pairs.values(), return_exceptions=True)
        await self._server.wait_closed()

    async def __aenter__(self) -> ChaosProxy:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def set(self, **faults: float) -> None:
        self.faults = replace(self.faults, **faults)

    def arm(self, pattern: bytes | str, fault: str, times: int = 1) -> None:
        """Let the next ``times`` reads that contain ``pattern`` suffer ``fault``."""
        raw = pattern.encode() if isinstance(pattern, str) else pattern
        self._armed += [(raw, fault)] * times

    def release(self) -> None:
        """Let go of everything that is held."""
        self._released.set()
        self._released = asyncio.Event()

    def deafen(self, opening: str = "") -> None:
        """Let no more bytes from the server through, on connections that began with ``opening`` among their words."""
        for pair in self._pairs:
            if opening.encode() in pair.opening:
                self.counts["deaf"] += 1
                pair.deaf = True

    def cut(self) -> None:
        """Drop every connection, once."""
        for pair in list(self._pairs):
            pair.abort()

    def partition(self) -> None:
        """Drop every connection and take no new one until ``heal``."""
        self._partitioned = True
        self.cut()

    def heal(self) -> None:
        self._partitioned = False

    def fault_for(self, data: bytes) -> str:
        """The fault this read is to suffer, or nothing."""
        for i, (pattern, fault) in enumerate(self._armed):
            if pattern in data:
                del self._armed[i]
                return fault
        dice, faults = self._random.random(), self.faults
        for fault in ("lose_req", "lose_reply", "hold"):
            dice -= getattr(faults, fault)
            if dice < 0:
                return fault
        return ""

    def strikes_deaf(self) -> bool:
        return self._random.random() < self.faults.deaf

    async def held(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self.faults.hold_s):
                await self._released.wait()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._partitioned:
            writer.transport.abort()
            return
        try:
            server = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task
        pair = _Pair(self, (reader, writer), server)
        self._pairs[pair] = task
        try:
            await pair.run()
        except asyncio.CancelledError:
            pass  # ``stop``; asyncio would report a cancelled connection task as an error.
        finally:
            del self._pairs[pair]


Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Pair:
    """One client's connection and its connection to the server."""

    def __init__(self, proxy: ChaosProxy, client: Ends, server: Ends) -> None:
        self.deaf = False
        self.opening = b""  # the first the client said
        self._proxy = proxy
        self._client = client
        self._server = server
        self._reply_lost = False

    def abort(self) -> None:
        for _, writer in (self._client, self._server):
            writer.transport.abort()

    async def run(self) -> None:
        ways = [asyncio.ensure_future(self._up()), asyncio.ensure_future(self._down())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.abort()
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _up(self) -> None:
        proxy, (reader, _), (_, writer) = self._proxy, self._client, self._server
        while data := await reader.read(READ_BYTES):
            if proxy.faults.latency_s:
                await asyncio.sleep(proxy.faults.latency_s)
            if len(self.opening) < OPENING_BYTES:
                self.opening += data
            fault = proxy.fault_for(data)
            if fault and fault != "lose_reply":
                proxy.counts[fault] += 1
            if fault == "lose_req":
                return
            if fault == "deaf":
                self.deaf = True
            if fault == "hold":
                await proxy.held()
            # Nothing is passed back from here on: a client that died meanwhile must not end the pair too early.
            self._reply_lost = fault == "lose_reply"
            writer.write(data)
            await writer.drain()
            if self._reply_lost:
                writer.write_eof()  # the server works off what it has and closes, which ends ``_down``
                await asyncio.Event().wait()

    async def _down(self) -> None:
        proxy, (_, writer), (reader, _) = self._proxy, self._client, self._server
        while data := await reader.read(READ_BYTES):
            if proxy.strikes_deaf():
                proxy.counts["deaf"] += 1
                self.deaf = True
            if self.deaf or self._reply_lost:
                continue
            if proxy.faults.latency_s:
                await asyncio.sleep(proxy.faults.latency_s)
            writer.write(data)
            await writer.drain()
        if self._reply_lost:
            proxy.counts["lose_reply"] += 1  # now it has happened


async def _obey(proxy: ChaosProxy, command: dict[str, Any]) -> None:
    if "set" in command:
        proxy.set(**command["set"])
    if "arm" in command:
        proxy.arm(*command["arm"])
    if "target" in command:
        proxy.target_port = command["target"]
        proxy.cut()
    if "cut" in command:
        proxy.cut()
    if "partition" in command:
        proxy.partition()
        await asyncio.sleep(command["partition"])
        proxy.heal()


async def _main(target_port: int, port: int) -> None:
    proxy = ChaosProxy(target_port)
    await proxy.start(port)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    _say(str(proxy.port))
    while line := await commands.readline():
        await _obey(proxy, json.loads(line))
        _say(json.dumps(proxy.counts))
    await proxy.stop()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), int(sys.argv[2])))
