"""RQ's commands to a worker (stop-job, stop-execution, shutdown), heard on the event loop, not in RQ's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
from rq.command import PUBSUB_CHANNEL_TEMPLATE

from relay.broker.connections import Address, Link, RedisError, Wire


class Commands(Link):
    """The command channel of one worker; ``obey`` gets each command as the JSON object RQ sends."""

    def __init__(self, address: Address, worker: str, obey: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(address, f"{worker}-commands")
        self._channel = PUBSUB_CHANNEL_TEMPLATE % worker
        self._obey = obey
        self._lost = asyncio.Event()

    async def listen(self) -> None:
        """Subscribe, and again whenever the connection is lost, until cancelled.

        A command sent meanwhile is lost, as with RQ; our own cancellations also set a flag that is never lost.
        """
        while True:
            self._lost.clear()
            try:
                wire = await self.connect()
                wire.write("SUBSCRIBE", self._channel)
                await self._lost.wait()
            except RedisError:
                await asyncio.sleep(0.5)

    def receive(self, wire: Wire, reply: Any) -> None:
        if type(reply) is not list or len(reply) != 3:
            wire.answer(reply)
        elif reply[0] == b"message":
            try:
                command = orjson.loads(reply[2])
            except orjson.JSONDecodeError:
                return  # anybody may publish; only commands concern us
            if isinstance(command, dict):
                self._obey(command)

    def dropped(self, wire: Wire) -> None:
        super().dropped(wire)
        self._lost.set()
