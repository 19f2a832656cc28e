"""Waiting for a condition, the one thing tests do instead of sleeping."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

# Twenty times the slowest start seen on a busy two-core machine would still be a hang for whoever watches.
TIMEOUT_S = 15.0


async def wait_until(
    predicate: Callable[[], Any], timeout_s: float = TIMEOUT_S, *, what: str = "", every_s: float = 0.01
) -> Any:
    """The first true answer of the predicate, which may be async; ``AssertionError`` when none came in time."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        answer = predicate()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what or inspect.getsource(predicate).strip()}")
        await asyncio.sleep(every_s)
