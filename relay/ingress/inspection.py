"""Looking at a request's body, in a process of its own where that would hold up every stream of this one.

``Inspector.inspect`` is what the handlers call. A big body goes through a pipe to a child, which is started when first
needed and let go when not needed for a while. The pipe is deliberate: a process pool pickles 30 MB
on the way and stalls the loop for 30 ms, the pipe's longest stall was 4 ms (both measured). The child runs this very
module; it ends when its input does, so it cannot outlive the ingress.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import sys
from dataclasses import dataclass, replace
from typing import Any

import orjson

from relay.core import pieces
from relay.core.body import Endpoint, model_spans, peek, prefixes
from relay.core.document import Span
from relay.core.errors import Internal, RelayError, Unavailable, from_code
from relay.core.job import Dialect
from relay.core.pieces import Prefix

# A MiB of many small values takes 41 to 53 ms to look at, one of prose 1 ms, one of nothing but brackets up to 300: so
# at this size some 12 ms, 60 at worst.
BIG_BYTES = 256 << 10
# Most big prompts are prose. One that looks like it stays here: 400 KB take 0.25 ms, and 1.8 ms by way of the child.
BIG_PROSE_BYTES = 1 << 20
# With the prefixes to be found, a MiB takes up to 2 s: each value on the way to a marker is read on its own.
BIG_DIGESTED_BYTES = 16 << 10

_SAMPLES, _SAMPLE_BYTES = 32, 256  # 8 KB, which take 10 µs

# 30 MB of small values take 3 to 4 s, with digests 10, on busy cores up to 19. What takes longer is hardly a prompt,
# and others wait behind it.
CHILD_S = 20.0
# A child that has parsed 30 MB keeps some 150 MB; starting another costs 0.1 s.
IDLE_S = 10.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What the ingress has to know of a body."""

    model: str
    stream: bool
    marker_ttls: tuple[str, ...]
    model_spans: tuple[Span, ...] = ()  # found in every big body, and in no small one
    prefixes: tuple[Prefix, ...] = ()  # only where their digests were asked for
    digests: str = ""

    @classmethod
    def decode(cls, answer: dict[str, Any]) -> Facts:
        """From the child's JSON."""
        return cls(
            model=answer["model"],
            stream=answer["stream"],
            marker_ttls=tuple(answer["marker_ttls"]),
            model_spans=tuple((start, end) for start, end in answer["model_spans"]),
            prefixes=tuple(map(Prefix.decode, answer["prefixes"])),
            digests=answer["digests"],
        )


def inspect(body: bytes, surface: Dialect, endpoint: Endpoint, digests: bool) -> Facts:
    """The facts of a request.  Raises ``InvalidRequest``."""
    seen = peek(body, surface, endpoint)
    facts = Facts(seen.model, seen.stream, seen.marker_ttls)
    if not digests:
        return facts
    found = prefixes(body, surface)
    return replace(facts, prefixes=found, digests=pieces.digests(found, [body]))


def is_big(body: bytes, digests: bool) -> bool:
    """Whether looking at this body would hold up the streams of this process."""
    if digests:
        return len(body) > BIG_DIGESTED_BYTES
    return len(body) > BIG_BYTES and (len(body) > BIG_PROSE_BYTES or not _is_prose(body))


def _is_prose(body: bytes) -> bool:
    """By samples, at places that nobody can know: at most every 32nd character begins or parts a JSON value.

    Prose has a comma in 60 characters. A MiB with as many values as pass takes 12 ms.
    """
    step = len(body) // _SAMPLES
    sample = b"".join([body[at : at + _SAMPLE_BYTES] for at in range(random.randrange(step), len(body), step)])
    return sample.count(b",") + sample.count(b"[") + sample.count(b"{") <= len(sample) // 32


class Inspector:
    """The two ways to inspect a body.  ``close`` it at the end."""

    def __init__(self) -> None:
        self._child: asyncio.subprocess.Process | None = None
        self._busy = asyncio.Lock()  # one big body at a time: two would only share the core
        self._idle: asyncio.TimerHandle | None = None

    async def inspect(self, body: bytes, surface: Dialect, endpoint: Endpoint, digests: bool) -> Facts:
        """The facts of a request.  Raises ``InvalidRequest``; ``Unavailable`` when the child could not tell."""
        if not is_big(body, digests):
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
        return Facts.decode(answer)

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
    """The child: a line of JSON and a body in, a line of JSON out.

    Millions of objects come and go with each body, none of them garbage, and the collector would walk them again and
    again: 30 MB of small values took 3.7 s of CPU with it, 2.9 s without. So it runs between bodies only.
    """
    gc.freeze()
    gc.disable()
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the ingress, whose end is the end of our input
        signal.signal(number, signal.SIG_IGN)
    questions, answers = sys.stdin.buffer, sys.stdout.buffer
    while line := questions.readline():
        question = orjson.loads(line)
        body = questions.read(question.pop("size"))
        answers.write(_answer(body, **question) + b"\n")
        answers.flush()
        gc.collect()  # a refusal and what it refuses hold each other


def _answer(body: bytes, surface: Dialect, endpoint: Endpoint, digests: bool) -> bytes:
    try:
        facts = inspect(body, surface, endpoint, digests)
        return orjson.dumps(replace(facts, model_spans=model_spans(body)))  # whether they are needed, routing decides
    except RelayError as error:
        refusal = error
    except Exception as error:
        refusal = Internal(f"The relay failed on this request ({type(error).__name__}).")
    return orjson.dumps({"code": refusal.code, "message": refusal.message, "param": refusal.param})


if __name__ == "__main__":
    main()
