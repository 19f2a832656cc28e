"""Keeps programs running: starts them, passes their output on, restarts the dead, stops them in order.

Knows nothing of the relay: ``up`` says which programs there are. A program is ready when it prints a line that
begins with ``ready `` (that line is kept for the caller, all others are passed on) or when its probe says so.
Each runs in a session of its own, so that Ctrl-C reaches only the supervisor, which then stops them in its own order.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from relay.local import leash
from relay.local.leftovers import Record

READY = "ready "

FIRST_DELAY_S, MAX_DELAY_S = 0.2, 10.0
STABLE_S = 60.0  # a program that ran this long starts again without the delay of earlier deaths

START_S = 30.0  # a loaded machine takes a few seconds; ten times that means it never will
HURRY_S = 5.0  # between the second SIGTERM and SIGKILL
ECHO_S = 1.1  # RQ takes a second signal within a second for an echo of the first

_PROBE_EVERY_S = 0.02
_LINE_BYTES = 64 * 1024  # longer lines are passed on in pieces


class StartError(Exception):
    """A program ended, or said nothing, before it was ever ready."""


@dataclass(frozen=True, slots=True)
class Program:
    """What to run. ``command[0]`` is an absolute path; ``stop_s`` is how long it may take after SIGTERM."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    stop_s: float = 10.0
    probe: Callable[[], bool] | None = None  # asked over and over, so it must answer quickly


class Child:
    """One program, kept running from ``start`` to ``stop``."""

    def __init__(self, program: Program, say: Callable[[str, str], None], record: Record) -> None:
        self.program = program
        self.ready_line = ""
        self._say = say
        self._record = record
        self._process: asyncio.subprocess.Process | None = None
        self._ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._life: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it and wait until it is ready for the first time. Raises ``StartError``."""
        self._life = asyncio.create_task(self._keep(), name=self.program.name)
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait({ready, self._life}, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if self._life.done():
            self._life.result()
        if not self._ready.is_set():
            raise StartError(f"{self.program.name} was not ready within {START_S:g} s")

    async def stop(self, hurry: asyncio.Event) -> None:
        """SIGTERM, then SIGKILL when its time is up; ``hurry`` cuts that time short with a second SIGTERM."""
        self._stopping.set()
        if self._life is None or self._life.done():
            return
        clock = asyncio.get_running_loop().time
        asked = clock()
        self._signal(signal.SIGTERM)
        hurried = asyncio.create_task(hurry.wait())
        try:
            await asyncio.wait({self._life, hurried}, timeout=self.program.stop_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hurried.cancel()
        if not self._life.done():
            await asyncio.wait({self._life}, timeout=max(0.0, asked + ECHO_S - clock()))
            self._signal(signal.SIGTERM)
            await asyncio.wait({self._life}, timeout=HURRY_S)
        if not self._life.done():
            self._say(self.program.name, "does not stop; killed")
            self.kill()
            await asyncio.wait({self._life})

    def kill(self) -> None:
        """SIGKILL, for it and for whatever it started."""
        self._stopping.set()
        self._signal(signal.SIGKILL, os.killpg)

    def _signal(self, number: signal.Signals, send: Callable[[int, int], None] = os.kill) -> None:
        # Not Process.send_signal: that reaps a process that has just died, and its exit code is lost (CPython 87744).
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                send(self._process.pid, number)

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        delay_s = FIRST_DELAY_S
        while not self._stopping.is_set():
            started = loop.time()
            how = await self._run()
            if self._stopping.is_set():
                return
            if not self._ready.is_set():
                raise StartError(f"{self.program.name} did not start: {how}")
            if loop.time() - started >= STABLE_S:
                delay_s = FIRST_DELAY_S
            self._say(self.program.name, f"{how}; starting it again in {delay_s:g} s")
            await _wait(self._stopping, delay_s)
            delay_s = min(2 * delay_s, MAX_DELAY_S)

    async def _run(self) -> str:
        """One life of the process; answers how it ended."""
        try:
            self._process = process = await self._spawn()
        except OSError as error:
            return f"could not be started: {error}"
        self._record.add(self.program.name, process.pid)
        if self._stopping.is_set():  # asked to stop while it was being started
            self._signal(signal.SIGTERM)
        assert process.stdout is not None
        helpers = [asyncio.create_task(self._pass_on(process.stdout))]
        if self.program.probe:
            helpers.append(asyncio.create_task(self._probe(self.program.probe)))
        try:
            code = await process.wait()
            # What it printed last is still on its way; a grandchild may hold the pipe open for ever.
            await asyncio.wait(helpers[:1], timeout=1)
        finally:
            self._record.remove(self.program.name)
            for helper in helpers:
                helper.cancel()
        return f"killed by {signal.strsignal(-code)} (signal {-code})" if code < 0 else f"ended with exit code {code}"

    async def _spawn(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), *self.program.command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(self.program.environment),
            start_new_session=True,
            umask=0o077,  # Redis would leave the clients' prompts readable for everybody in its file
        )

    async def _pass_on(self, output: asyncio.StreamReader) -> None:
        held = b""
        while piece := await output.read(_LINE_BYTES):
            *lines, held = (held + piece).split(b"\n")
            if len(held) >= _LINE_BYTES:
                lines, held = [*lines, held], b""
            for line in lines:
                self._line(line.decode(errors="replace").rstrip())
        if held:
            self._line(held.decode(errors="replace").rstrip())

    def _line(self, line: str) -> None:
        if line.startswith(READY):
            self._is_ready(line)
        else:
            self._say(self.program.name, line)

    async def _probe(self, probe: Callable[[], bool]) -> None:
        while not await asyncio.to_thread(probe):  # noqa: ASYNC110 - a server tells nobody that it is up
            await asyncio.sleep(_PROBE_EVERY_S)
        self._is_ready("")

    def _is_ready(self, line: str) -> None:
        if self._ready.is_set():
            self._say(self.program.name, "is back")
        self.ready_line = line
        self._ready.set()


async def start_all(children: Sequence[Child]) -> None:
    """Start them together. Raises the ``StartError`` of the first that fails; the caller stops the others."""
    await asyncio.gather(*[child.start() for child in children])


async def stop_all(children: Sequence[Child], hurry: asyncio.Event) -> None:
    """Stop them together and wait for the last."""
    await asyncio.gather(*[child.stop(hurry) for child in children])


def python(*arguments: str) -> tuple[str, ...]:
    """The command for a program of our own. ``-P``: a directory called ``workers`` where we stand is not ours."""
    return (sys.executable, "-P", "-m", "relay", *arguments)


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    """Until the event or the time is over, whichever comes first."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
