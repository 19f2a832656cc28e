"""Processes that an earlier run left behind: a record of what runs, and the means to stop it the next time.

A process id alone says nothing, numbers are used again. So the record holds when each process started, and only one
that still has the recorded start time is ever touched.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson

# SIGTERM first: an orphaned Redis writes its file out. Its parent is dead, so nobody waits for a long drain.
TERM_S = 5.0
_POLL_S = 0.05


class Record:
    """The file with the running processes of one data directory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._processes: dict[str, tuple[int, str]] = {}

    def add(self, name: str, pid: int) -> None:
        """Note that ``name`` runs as ``pid``; an earlier process of that name is gone."""
        if birth := birth_of(pid):
            self._processes[name] = (pid, birth)
            self._write()

    def remove(self, name: str) -> None:
        if self._processes.pop(name, None):
            self._write()

    def stop_leftovers(self) -> list[str]:
        """Stop what the record's last writer left running; answers the names. The caller holds the directory's lock."""
        running = {name: (pid, birth) for name, pid, birth in self._read() if birth_of(pid) == birth}
        for order, patience_s in ((signal.SIGTERM, TERM_S), (signal.SIGKILL, TERM_S)):
            alive = {pid: birth for pid, birth in running.values() if birth_of(pid) == birth}
            for pid in alive:
                _signal(pid, order)
                _signal(pid, signal.SIGCONT)  # a frozen one could not obey
            _wait_gone(alive, patience_s)
        self._path.unlink(missing_ok=True)
        return list(running)

    def _read(self) -> list[tuple[str, int, str]]:
        try:
            stored = orjson.loads(self._path.read_bytes())
            return [(name, int(pid), str(birth)) for name, (pid, birth) in stored.items()]
        except FileNotFoundError:
            return []
        except (orjson.JSONDecodeError, AttributeError, TypeError, ValueError):
            return []  # cut short by the same death that left the processes; the kernel has stopped those

    def _write(self) -> None:
        draft = self._path.with_suffix(".new")
        draft.write_bytes(orjson.dumps(self._processes))
        draft.replace(self._path)


def birth_of(pid: int) -> str | None:
    """When a process started, in a form that no other process of the same number shares; None when there is none."""
    if sys.platform == "linux":
        try:
            # The name, in parentheses, may itself hold anything; state is field 3, the start in ticks field 22.
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] == "Z" else f"{boot} {fields[19]}"
    listed = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return listed.stdout.strip() or None


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _wait_gone(alive: dict[int, str], patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while any(birth_of(pid) == birth for pid, birth in alive.items()) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
