"""Keeping programs running, shown with small ones."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from relay.local.leftovers import Record, birth_of
from relay.local.supervisor import Child, Program, StartError, start_all, stop_all
from tests.support.wait import wait_until

# Says that it is ready, then works until it is told to stop.
STEADY = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [15])
print("ready steady", flush=True)
signal.sigwait([15])
"""
# Ends well on the second SIGTERM only.
DAWDLER = f"{STEADY}print('draining', flush=True)\nsignal.sigwait([15])"
STUBBORN = "import signal; signal.signal(15, signal.SIG_IGN); print('ready', 'stubborn', flush=True); signal.pause()"


class Stage:
    """Starts children, remembers what was said, and leaves none of them behind."""

    def __init__(self, directory: Path) -> None:
        self.said: list[str] = []
        self.children: list[Child] = []
        self.record = Record(directory / "processes.json")
        self.hurry = asyncio.Event()

    def child(self, code: str, name: str = "it", stop_s: float = 10, probe: Callable[[], bool] | None = None) -> Child:
        command = (sys.executable, "-I", "-c", code)
        program = Program(name, command, {"PATH": os.environ["PATH"]}, stop_s, probe)
        child = Child(program, lambda who, line: self.said.append(f"{who}: {line}"), self.record)
        self.children.append(child)
        return child


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    for child in stage.children:
        child.kill()
    await stop_all(stage.children, stage.hurry)


def pid_of(child: Child) -> int:
    assert child._process is not None
    return child._process.pid


async def test_a_program_is_ready_when_it_says_so(stage: Stage) -> None:
    child = stage.child("print('loading', flush=True);" + STEADY)
    await child.start()
    assert child.ready_line == "ready steady"
    assert stage.said == ["it: loading"]


async def test_a_program_without_words_is_ready_when_its_probe_says_so(stage: Stage, tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    await stage.child(f"open({str(sign)!r}, 'w'); import signal; signal.pause()", probe=sign.exists).start()
    assert sign.exists()


async def test_a_program_that_ends_before_it_was_ready_is_an_error(stage: Stage) -> None:
    with pytest.raises(StartError, match="it did not start: ended with exit code 3"):
        await stage.child("print('no such file'); raise SystemExit(3)").start()
    assert stage.said == ["it: no such file"]


async def test_a_program_that_is_not_there_is_an_error(stage: Stage) -> None:
    child = Child(Program("it", ("/no/such/program",), {}), lambda *_: None, stage.record)
    with pytest.raises(StartError, match="it did not start"):
        await child.start()


async def test_one_that_fails_fails_the_whole_start(stage: Stage) -> None:
    with pytest.raises(StartError, match="bad did not start"):
        await start_all([stage.child(STEADY, "good"), stage.child("raise SystemExit(1)", "bad")])


async def test_a_dead_program_is_started_again_and_said_so(stage: Stage) -> None:
    child = stage.child(STEADY)
    await child.start()
    first = pid_of(child)
    os.kill(first, signal.SIGKILL)
    await wait_until(lambda: "it: is back" in stage.said)
    assert stage.said == ["it: killed by Killed (signal 9); starting it again in 0.2 s", "it: is back"]
    assert pid_of(child) != first


async def test_the_waits_between_starts_grow(stage: Stage) -> None:
    child = stage.child("import signal; print('ready x', flush=True); raise SystemExit(7)")
    await child.start()
    waits = ["0.2", "0.4", "0.8"]
    expected = [f"it: ended with exit code 7; starting it again in {wait} s" for wait in waits]
    await wait_until(lambda: [line for line in stage.said if "again" in line] == expected)


async def test_a_program_that_is_waiting_to_be_started_again_stops_at_once(stage: Stage) -> None:
    child = stage.child("print('ready x', flush=True); raise SystemExit(7)")
    await child.start()
    await wait_until(lambda: any("0.8" in line for line in stage.said))
    async with asyncio.timeout(0.5):
        await child.stop(stage.hurry)


async def test_a_stop_is_asked_for_politely_and_is_not_called_a_death(stage: Stage) -> None:
    child = stage.child("import atexit; atexit.register(print, 'goodbye');" + STEADY)
    await child.start()
    await child.stop(stage.hurry)
    assert stage.said == ["it: goodbye"]


async def test_a_program_that_does_not_stop_is_killed_when_its_time_is_up(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.local.supervisor.HURRY_S", 0.1)
    child = stage.child(STUBBORN, stop_s=0.1)
    await child.start()
    await child.stop(stage.hurry)
    assert birth_of(pid_of(child)) is None
    assert stage.said == ["it: does not stop; killed"]


async def test_hurrying_asks_a_second_time(stage: Stage) -> None:
    child = stage.child(DAWDLER, stop_s=60)
    await child.start()
    stopping = asyncio.create_task(child.stop(stage.hurry))
    await wait_until(lambda: stage.said == ["it: draining"])
    stage.hurry.set()
    async with asyncio.timeout(3):
        await stopping
    assert stage.said == ["it: draining"]


async def test_a_stop_during_the_start_leaves_nothing_running(stage: Stage) -> None:
    child = stage.child("import signal; signal.pause()")
    starting = asyncio.create_task(child.start())
    await asyncio.sleep(0)  # it has begun, and waits for the ready line that never comes
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await child.stop(stage.hurry)
    assert child._process is None or birth_of(pid_of(child)) is None


async def test_a_kill_takes_what_the_program_started_with_it(stage: Stage) -> None:
    grandchild = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()']);"
    )
    child = stage.child(grandchild + "print(p.pid, flush=True);" + STEADY)
    await child.start()
    pid = int(stage.said[0].removeprefix("it: "))
    assert birth_of(pid)
    child.kill()
    await wait_until(lambda: birth_of(pid) is None)


async def test_long_and_strange_output_is_passed_on(stage: Stage) -> None:
    await stage.child(
        r"import sys; sys.stdout.buffer.write(b'a' * 300_000 + b'\n\xff\n'); sys.stdout.flush();" + STEADY
    ).start()
    assert "".join(line.removeprefix("it: ") for line in stage.said) == "a" * 300_000 + "\ufffd"


async def test_ctrl_c_in_the_terminal_does_not_reach_a_program(stage: Stage) -> None:
    child = stage.child(STEADY)
    await child.start()
    assert os.getpgid(pid_of(child)) == pid_of(child) != os.getpgid(0)


async def test_the_record_holds_what_runs_and_nothing_else(stage: Stage, tmp_path: Path) -> None:
    child = stage.child(STEADY)
    await child.start()
    assert str(pid_of(child)) in (tmp_path / "processes.json").read_text()
    await child.stop(stage.hurry)
    assert (tmp_path / "processes.json").read_text() == "{}"
