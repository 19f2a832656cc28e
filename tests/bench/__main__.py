"""``python -m tests.bench``: measure, and print what was measured.

``python -m tests.bench reconcile`` and ``python -m tests.bench ledger`` are commands of their own, with ``--help``.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from tests.bench import ledger, reconcile
from tests.bench.report import show
from tests.bench.system import Measured, running
from tests.bench.workloads import WORKLOADS, Workload

COMMANDS = {"reconcile": reconcile.main, "ledger": ledger.main}


def main() -> None:
    if len(sys.argv) > 1 and (command := COMMANDS.get(sys.argv[1])):
        sys.exit(command(sys.argv[2:]))
    names = [workload.name for workload in WORKLOADS]
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure the relay on this machine.")
    parser.add_argument("--only", default=",".join(names), help=f"workloads, of {', '.join(names)}")
    parser.add_argument("--scale", type=float, default=1.0, help="lengthens or shortens the measured windows")
    parser.add_argument("--workers", type=int, default=1, help="worker processes")
    options = parser.parse_args()
    wanted = options.only.split(",")
    if unknown := set(wanted) - set(names):
        parser.error(f"no such workload: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    chosen = [workload.scaled(options.scale) for workload in WORKLOADS if workload.name in wanted]
    show(asyncio.run(_measure(chosen, options.workers)), options.workers, Console(width=max(110, Console().width)))


async def _measure(workloads: list[Workload], workers: int) -> list[Measured]:
    """Those that wait on memory get a system of their own: what an earlier load left behind is not theirs."""
    results = []
    progress = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as directory:
        groups = [[each for each in workloads if not each.holds], *([each] for each in workloads if each.holds)]
        for i, group in enumerate(filter(None, groups)):
            part = Path(directory) / str(i)
            part.mkdir()
            async with running(part, workers) as system:
                for workload in group:
                    progress.print(f"measuring {workload.name} …")
                    results.append(await system.measure(workload))
    return results


if __name__ == "__main__":
    main()
