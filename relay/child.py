"""A process beside this one, for bodies so big that looking at them would hold up every stream of this one.

``Child.ask`` is what ingress and workers call, with a line of facts and a body; the child runs ``serve`` with one
function.  It is started when first needed and let go when not needed for a while.  The pipe is deliberate: a process
pool pickles 30 MB on the way and stalls the loop for 30 ms, the pipe's longest stall was 4 ms (both measured).  The
child ends when its input does, so it cannot outlive us, and knows none of our secrets.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import sys
from collections.abc import Callable
from typing import Any

import orjson

from relay.core.errors import Internal, RelayError, Unavailable, from_code

Json = dict[str, Any]
Work = Callable[[Json, bytes], tuple[Json, bytes]]

# A MiB of many small values takes 41 to 53 ms to look at, one of prose 1 ms, one of nothing but brackets up to 300: so
# at this size some 12 ms, 60 at worst.
BIG_BYTES = 256 << 10
# Most big prompts are prose. One that looks like it stays here: 400 KB take 0.25 ms, and 1.8 ms by way of the child.
BIG_PROSE_BYTES = 1 << 20

_SAMPLES, _SAMPLE_BYTES = 32, 256  # 8 KB, which take 10 µs

# What Python itself goes by. Among the rest are the operator's secrets, under whatever name.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "TMPDIR")

# 30 MB of small values take 3 to 4 s, with digests 10, on busy cores up to 19. What takes longer is hardly a prompt,
# and others wait behind it.
CHILD_S = 20.0
# A child that has parsed 30 MB keeps some 150 MB; starting another costs 0.1 s.
IDLE_S = 10.0


def is_big(body: bytes) -> bool:
    """Whether parsing this body would hold up the streams of this process."""
    return len(body) > BIG_BYTES and (len(body) > BIG_PROSE_BYTES or not _is_prose(body))


def _is_prose(body: bytes) -> bool:
    """By samples, at places that nobody can know: at most every 32nd character begins or parts a JSON value.

    Prose has a comma in 60 characters. A MiB with as many values as pass takes 12 ms.
    """
    step = len(body) // _SAMPLES
    sample = b"".join([body[at : at + _SAMPLE_BYTES] for at in range(random.randrange(step), len(body), step)])
    return sample.count(b",") + sample.count(b"[") + sample.count(b"{") <= len(sample) // 32


class Child:
    """The process, from here.  ``module`` calls ``serve`` when it is run.  ``close`` it at the end."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._process: asyncio.subprocess.Process | None = None
        self._busy = asyncio.Lock()  # one big body at a time: two would only share the core
        self._idle: asyncio.TimerHandle | None = None

    async def ask(self, facts: Json, body: bytes) -> tuple[Json, bytes]:
        """The child's answer.  Raises the ``RelayError`` it raised; ``Unavailable`` when it could not tell."""
        async with self._busy:
            try:
                async with asyncio.timeout(CHILD_S):
                    answer, answered = await self._ask(facts, body)
            except (OSError, ValueError, EOFError, TimeoutError) as error:
                self.close()
                raise Unavailable("The relay could not look at this request now.", retry_after_s=1) from error
            except BaseException:
                self.close()  # a half told question must not meet the next one's answer
                raise
        if refused := answer.get("refused"):
            refusal = from_code(refused["code"], refused["message"])
            refusal.param = refused["param"]
            raise refusal
        return answer, answered

    def close(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()

    async def _ask(self, facts: Json, body: bytes) -> tuple[Json, bytes]:
        if self._idle is not None:
            self._idle.cancel()
        if self._process is None or self._process.returncode is not None:
            self._process = await _start(self._module)
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        stdin.write(orjson.dumps({"facts": facts, "size": len(body)}) + b"\n")
        stdin.write(body)
        await stdin.drain()
        answer = orjson.loads(await stdout.readline())
        answered = await stdout.readexactly(answer["size"])
        self._idle = asyncio.get_running_loop().call_later(IDLE_S, self.close)
        return answer["facts"], answered


async def _start(module: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    command = (sys.executable, "-P", "-m", module)
    return await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, env=environment)


def serve(work: Work) -> None:
    """The child: a line of JSON and a body in, a line of JSON and a body out.

    Millions of objects come and go with each body, none of them garbage, and the collector would walk them again and
    again: 30 MB of small values took 3.7 s of CPU with it, 2.9 s without. So it runs between bodies only.
    """
    gc.freeze()
    gc.disable()
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for our parent, whose end is the end of our input
        signal.signal(number, signal.SIG_IGN)
    questions, answers = sys.stdin.buffer, sys.stdout.buffer
    while line := questions.readline():
        question = orjson.loads(line)
        facts, answered = _answered(work, question["facts"], questions.read(question["size"]))
        answers.write(orjson.dumps({"facts": facts, "size": len(answered)}) + b"\n")
        answers.write(answered)
        answers.flush()
        gc.collect()  # a refusal and what it refuses hold each other


def _answered(work: Work, facts: Json, body: bytes) -> tuple[Json, bytes]:
    try:
        return work(facts, body)
    except RelayError as error:
        refusal = error
    except Exception as error:
        refusal = Internal(f"The relay failed on this request ({type(error).__name__}).")
    return {"refused": {"code": refusal.code, "message": refusal.message, "param": refusal.param}}, b""
