"""The workers and ledgers of a campaign: killed, frozen, started again, stopped at last."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tests.support.oracles import check_quiet
from tests.support.processes import Process, python
from tests.support.wait import wait_until

LEASE_S = 3
# Starts that come all at once on a busy machine; 1 s each on a quiet one.
START_S = 120


class Fleet:
    """Whatever is killed is started again at once. ``complaints``: what a process printed that no process should."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.running: list[Process] = []
        self.kills: Counter[str] = Counter()
        self.complaints: list[str] = []
        self._kinds: dict[Process, str] = {}
        self._frozen: set[Process] = set()
        self._directory = directory
        self._environment = environment

    def start(self, kind: str) -> None:
        name = f"{kind}-{len(self._kinds)}"
        process = Process(name, python("-m", "relay", kind), self._directory, self._environment)
        self._kinds[process] = kind
        self.running.append(process)

    async def ready(self) -> None:
        await asyncio.gather(*[process.ready(START_S) for process in self.running])

    async def kill_one(self, dice: random.Random) -> None:
        """SIGKILL one, most often while it is at work; another of its kind goes on, or nothing would ever get done."""
        await wait_until(self._spare, START_S, what="a process can be spared", every_s=0.05)
        process = dice.choice(self._spare() if dice.random() < 0.9 else self.running)
        kind = self._kinds[process]
        self.running.remove(process)
        await process.kill()
        self._look_at(process)
        self.kills[kind] += 1
        self.start(kind)

    async def freeze_one(self, dice: random.Random) -> None:
        """Stop a worker for longer than its lease, and let it go on."""
        workers = [process for process in self._at_work() if self._kinds[process] == "work"]
        if not workers:
            return
        process = dice.choice(workers)
        self._frozen.add(process)
        process.send(signal.SIGSTOP)
        await asyncio.sleep(LEASE_S + 2)
        process.send(signal.SIGCONT)
        self._frozen.remove(process)

    async def stop(self, kind: str) -> None:
        """Stop those of a kind as an operator would."""
        leaving = [process for process in self.running if self._kinds[process] == kind]
        self.running = [process for process in self.running if process not in leaving]
        await asyncio.gather(*[process.stop() for process in leaving])
        for process in leaving:
            self._look_at(process)

    def _spare(self) -> list[Process]:
        at_work = self._at_work()
        count = Counter(self._kinds[process] for process in at_work)
        return [process for process in at_work if count[self._kinds[process]] > 1]

    def _at_work(self) -> list[Process]:
        return [process for process in self.running if process.ready_line and process not in self._frozen]

    def _look_at(self, process: Process) -> None:
        try:
            check_quiet(process)
        except AssertionError as complaint:
            self.complaints.append(str(complaint))
