"""Looking at a request's body, in a process of its own where that would hold up every stream of this one.

``Inspector.inspect`` is what the handlers call. Above ``BIG_BYTES`` the body goes through a pipe to a child, which is
started when first needed and let go when not needed for a while. The pipe is deliberate: a process pool pickles 30 MB
on the way and stalls the loop for 30 ms, the pipe's longest stall was 4 ms (both measured). The child runs this very
module; it ends when its input does, so it cannot outlive the ingress.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from relay.core.body import Endpoint, digest_header, peek, prefix_digests
from relay.core.errors import Internal, RelayError, Unavailable, from_code
from relay.core.job import Dialect

# Parsing costs up to 12 ms for a MiB of many small values, 1 ms for one of prose: the longest stall of the loop wanted.
BIG_BYTES = 1 << 20

# The slowest MiB seen took 15 ms, so this is five times what the largest body allowed, 256 MiB, can take.
CHILD_S = 20.0
# A child that has parsed 30 MB keeps some 150 MB; starting another costs 0.1 s.
IDLE_S = 10.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What the ingress has to know of a body; ``digests`` only where they were asked for."""

    model: str
    stream: bool
    marker_ttls: tuple[str, ...]
    digests: str = ""


def inspect(body: bytes, surface: Dialect, endpoint: Endpoint, digests: bool) -> Facts:
    """The facts of a request.  Raises ``InvalidRequest``."""
    seen = peek(body, surface, endpoint)
    shown = digest_header(prefix_digests(body, surface)) if digests else ""
    return Facts(seen.model, seen.stream, seen.marker_ttls, shown)


class Inspector:
    """The two ways to inspect a body.  ``close`` it at the end."""

    def __init__(self) -> None:
        self._child: asyncio.subprocess.Process | None = None
        self._busy = asyncio.Lock()  # one big body at a time: two would only share the core
        self._idle: asyncio.TimerHandle | None = None

    async def inspect(self, body: bytes, surface: Dialect, endpoint: Endpoint, digests: bool) -> Facts:
        """The facts of a request.  Raises ``InvalidRequest``; ``Unavailable`` when the child could not tell."""
        if len(body) <= BIG_BYTES:
            return inspect(body, surface, endpoint, digests)
        async with self._busy:
            try:
                async with asyncio.timeout(CHILD_S):
                    answer = await self._ask(body, surface, endpoint, digests)
            except (OSError, ValueError, TimeoutError) as error:
                self._let_go()
                raise Unavailable("The relay could not look at this request now.", retry_after_s=1) from error
            except BaseException:
                self._let_go()  # a half told question must not meet the next one's answer
                raise
        if "code" in answer:
            refusal = from_code(answer["code"], answer["message"])
            refusal.param = answer["param"]
            raise refusal
        return Facts(**answer | {"marker_ttls": tuple(answer["marker_ttls"])})

    def close(self) -> None:
        self._let_go()

    async def _ask(self, body: bytes, surface: Dialect, endpoint: Endpoint, digests: bool) -> dict[str, Any]:
        if self._idle is not None:
            self._idle.cancel()
        if self._child is None or self._child.returncode is not None:
            self._child = await _start()
        child = self._child
        assert child.stdin is not None and child.stdout is not None
        question = {"surface": surface, "endpoint": endpoint, "digests": digests, "size": len(body)}
        child.stdin.write(orjson.dumps(question) + b"\n")
        child.stdin.write(body)
        await child.stdin.drain()
        answer: dict[str, Any] = orjson.loads(await child.stdout.readline())
        self._idle = asyncio.get_running_loop().call_later(IDLE_S, self._let_go)
        return answer

    def _let_go(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        child, self._child = self._child, None
        if child is not None and child.returncode is None:
            child.kill()


async def _start() -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    # Our own settings may hold secrets; the child needs none.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
    command = (sys.executable, "-P", "-m", __name__)
    return await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, env=environment)


def main() -> None:
    """The child: a line of JSON and a body in, a line of JSON out."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the ingress, whose end is the end of our input
        signal.signal(number, signal.SIG_IGN)
    questions, answers = sys.stdin.buffer, sys.stdout.buffer
    while line := questions.readline():
        question = orjson.loads(line)
        body = questions.read(question.pop("size"))
        answers.write(_answer(body, **question) + b"\n")
        answers.flush()


def _answer(body: bytes, surface: Dialect, endpoint: Endpoint, digests: bool) -> bytes:
    try:
        return orjson.dumps(asdict(inspect(body, surface, endpoint, digests)))
    except RelayError as error:
        refusal = error
    except Exception as error:
        refusal = Internal(f"The relay failed on this request ({type(error).__name__}).")
    return orjson.dumps({"code": refusal.code, "message": refusal.message, "param": refusal.param})


if __name__ == "__main__":
    main()
