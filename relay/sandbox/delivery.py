"""Carries out the steps of one answer on the wire, and keeps the books while it does.

The only place of the sandbox that waits.  It decides nothing: the steps say what is sent and when (``faults.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from starlette.types import Receive, Scope, Send

from relay.sandbox import faults
from relay.sandbox.accounts import Accounts, Call
from relay.sandbox.cache import Plan, PrefixCache

# A stalled answer waits for the client to give up.  An hour is far beyond any client's patience.
_STALL_S: Final = 3600

# Longer waits also look for the client; shorter ones do not, because a plain sleep costs a quarter of the CPU.
_WATCHED_WAIT_S: Final = 1.0

# Back-to-back events give way to other streams after this many.
_EVENTS_BEFORE_YIELD: Final = 32


@dataclass(slots=True)
class Delivery:
    """An ASGI answer.  ``outcome`` is how the call ends if the client stays to the end."""

    status: int
    headers: dict[str, str]
    steps: Iterable[faults.Step]
    call: Call
    accounts: Accounts
    outcome: str = "completed"
    plan: Plan | None = None
    cache: PrefixCache | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(_wait_until_gone(receive))
        outcome = "client_gone"
        try:
            if await self._play(send, gone):
                outcome = self.outcome
        except asyncio.CancelledError:
            # The server stops and waits no longer.  Returning closes the connection; raising would add a traceback.
            outcome = "stopped"
        finally:
            gone.cancel()
            self.accounts.end(self.call, outcome)

    async def _play(self, send: Send, gone: asyncio.Task[None]) -> bool:
        """True once everything was sent that should be; False if the client left before."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        for number, step in enumerate(self.steps):
            match step:
                case faults.Stall():
                    await asyncio.wait({gone}, timeout=_STALL_S)
                    return True
                case faults.Cut():
                    return True  # returning in mid-body makes the server close the connection
            # Due times, not gaps, so that the pace does not slip by what sending costs; but never a burst to catch up.
            due = max(due + step.wait_s, loop.time())
            if step.wait_s or number % _EVENTS_BEFORE_YIELD == 0:
                await _pause(due - loop.time(), gone)
            if gone.done():
                return False
            self._book(step)
            await self._open(send)
            await send({"type": "http.response.body", "body": step.data, "more_body": True})
        await self._open(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return True

    async def _open(self, send: Send) -> None:
        if self.call.status is None:
            self.call.status = self.status
            headers = [(name.encode(), value.encode()) for name, value in self.headers.items()]
            await send({"type": "http.response.start", "status": self.status, "headers": headers})

    def _book(self, step: faults.Send) -> None:
        if step.tokens is None or self.plan is None:
            return
        if self.cache is not None:  # the answer begins: from now on its prefix can be read
            self.cache.begin(self.plan)
            self.cache = None
            self.accounts.bill_input(self.call, self.plan)
        self.accounts.bill_output(self.call, step.tokens)


async def _pause(seconds: float, gone: asyncio.Task[None]) -> None:
    if seconds > _WATCHED_WAIT_S:
        await asyncio.wait({gone}, timeout=seconds)
    else:
        await asyncio.sleep(max(0, seconds))


async def _wait_until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
