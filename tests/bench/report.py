"""The figures, as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tests.bench.system import Measured

PARTS = ("ingress", "worker", "redis")
# Above this other programs had so much of the machine that the figures are theirs as well.
DISTURBED_CORES = 0.3


def show(results: Sequence[Measured], workers: int, console: Console) -> None:
    """Print what was measured."""
    who = f"1 ingress, {workers} worker{'s' * (workers > 1)}, Redis with its append-only file"
    loads = [result for result in results if not result.workload.holds]
    holds = [result for result in results if result.workload.holds]
    if loads:
        console.print(_speed(loads, f"CPU and delay: {who}"))
    if holds:
        console.print(_memory(holds, f"Memory per open stream, KB: {who}"))
    for line in _remarks(results):
        console.print(line)


def _speed(results: Sequence[Measured], title: str) -> Table:
    made = table(title, "per second", "CPU", "", *PARTS, "first later", "events later")
    for result in results:
        load, workload = result.load, result.workload
        per_s = load["events" if workload.streams else "requests"] / load["window_s"]
        if workload.streams:
            (cpu, *parts), unit = _shares(result.cpu_s, load["events"], 1e6), "µs/event"
        else:
            (cpu, *parts), unit = _shares(result.cpu_s, load["requests"], 1e3), "ms/request"
        later = [_added(load[name], result.direct[name]) for name in ("first_ms", "delay_ms")]
        made.add_row(workload.name, f"{per_s:,.0f}", cpu, unit, *parts, *later)
    made.caption = "later: by how many ms than the same load without the relay, p50 / p99"
    return made


def _memory(results: Sequence[Measured], title: str) -> Table:
    made = table(title, "open", "delivered", "memory", *PARTS)
    for result in results:
        load, workload = result.load, result.workload
        offered = workload.connections * load["window_s"] * 1000 / workload.gap_ms
        memory = _shares(result.memory, workload.connections, 1 / 1024)
        made.add_row(workload.name, f"{load['open']:,}", f"{min(1.0, load['events'] / offered):.0%}", *memory)
    return made


def _remarks(results: Iterable[Measured]) -> Iterable[str]:
    for result in results:
        load, name = result.load, result.workload.name
        yield f"{name}: {result.workload.what}"
        if load["errors"]:
            yield f"  [red]{load['errors']} errors, the first: {load['complaint']}[/red]"
        if result.foreign_cores > DISTURBED_CORES:
            yield f"  [yellow]disturbed: other programs used {result.foreign_cores:.1f} cores meanwhile[/yellow]"


def table(title: str, *columns: str) -> Table:
    """An empty table: a column of names, then these."""
    made = Table(title=title, box=SIMPLE_HEAD, title_justify="left", caption_justify="left", min_width=len(title))
    made.add_column("", no_wrap=True)
    for column in columns:
        made.add_column(column, justify="right" if column else "left", no_wrap=True)
    return made


def _shares(by_part: Mapping[str, float], count: int, scale: float) -> list[str]:
    """The whole per item, then each part's share of it."""
    parts = [by_part[part] * scale / max(1, count) for part in PARTS]
    return [_number(value) for value in (sum(parts), *parts)]


def _added(through: Sequence[float], straight: Sequence[float]) -> str:
    return " / ".join(f"{a - b:.1f}" for a, b in zip(through, straight, strict=False))


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"
