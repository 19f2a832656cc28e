"""A program on the leash does not outlive its parent."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

from relay.local import leash
from relay.local.leftovers import birth_of
from tests.support.wait import wait_until

PAUSE = "import signal; signal.pause()"

# Starts a program on the leash, tells its pid, and waits to be killed.
PARENT = f"""
import os, signal, subprocess, sys
child = subprocess.Popen([sys.executable, {leash.__file__!r}, str(os.getpid()), sys.executable, "-c", {PAUSE!r}])
print(child.pid, flush=True)
signal.pause()
"""


async def test_a_killed_parent_takes_its_child_with_it() -> None:
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout
    child = int(await parent.stdout.readline())
    assert birth_of(child)
    parent.kill()
    await parent.wait()
    await wait_until(lambda: birth_of(child) is None)


def test_a_program_whose_parent_is_gone_already_is_not_started() -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    command = [sys.executable, leash.__file__, gone.stdout.strip(), sys.executable, "-c", "print('started')"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")


def test_the_program_takes_the_place_of_the_leash() -> None:
    command = [
        sys.executable,
        leash.__file__,
        str(os.getpid()),
        sys.executable,
        "-c",
        "import os; print(os.getpid())",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        printed, _ = process.communicate()
    assert int(printed) == process.pid
