"""The provider's bill against the ledger's.  ``python -m tests.bench reconcile [--calls 5000] [--kills 500]``.

Mixed calls go to the sandbox, which keeps books of its own, while workers and ledgers are killed with -9. When all is
quiet every call is looked up on both sides. Exit code 1 on any difference.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from sqlalchemy import func, select

from relay.core.pricing import PriceTable
from relay.core.pricing_overrides import parse
from relay.core.usage import Buckets
from relay.ledger.database import open_engine, url_of
from relay.ledger.tables import HOUR_MS, daily, rejected
from relay.settings import load
from tests.bench.books import KINDS, Books, Law, named_once, reported, same_sums, told, total
from tests.bench.campaign import PRICES, Campaign, campaign
from tests.bench.report import table
from tests.ledger.records import stored_calls, stored_sums, summed

NANO_PER_DOLLAR = 10**9
SHOWN_OF_A_LAW = 10
NAMES = {"work": "workers", "ledger": "ledgers"}


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a campaign."""

    books: Books
    laws: list[Law]
    ends: Counter[tuple[str, str]]
    kills: Counter[str]
    took_s: float

    @property
    def agrees(self) -> bool:
        return not any(law.broken for law in self.laws)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench reconcile", description=__doc__.split("\n")[0])
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=500, help="of workers and ledgers, at random moments")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="relay-reconcile-") as directory:
        result = asyncio.run(reconcile(Path(directory), options.calls, options.kills, options.seed))
    show(result, Console(width=max(120, Console().width)))
    return 0 if result.agrees else 1


async def reconcile(directory: Path, calls: int, kills: int, seed: int = 1) -> Result:
    """Run a campaign and compare the two sides."""
    began = time.monotonic()
    async with campaign(directory, seed) as run:
        await run.calls(calls, kills)
        await run.drained()
        listed, booked = await run.books()
    engine = open_engine(url_of(load({"data_dir": directory / "data"})))
    try:
        rows = stored_calls(engine)
        hours, days = stored_sums(engine), stored_sums(engine, daily, "day")
        with engine.connect() as connection:
            aside = connection.scalar(select(func.count()).select_from(rejected)) or 0
    finally:
        engine.dispose()
    books = Books(
        {call["call_id"]: call for call in listed}, {row["call"]: row for row in rows}, PriceTable(parse(PRICES))
    )
    laws = [
        named_once(listed, booked),
        *books.reconcile(),
        same_sums("hourly rollups are the sums of their rows", hours, summed(rows, HOUR_MS)),
        same_sums("daily ones too", days, summed(rows, 24 * HOUR_MS)),
        _none_aside(aside),
        *_outside(run),
    ]
    return Result(books, laws, run.ends, run.fleet.kills, time.monotonic() - began)


def _none_aside(aside: int) -> Law:
    law = Law("nothing was rejected")
    law.check(not aside, f"{aside} records kept aside")
    return law


def _outside(run: Campaign) -> list[Law]:
    """What has nothing to do with money and would be a pity to overlook."""
    ended = Law("an explicit end for every client")
    for (kind, end), count in run.ends.items():
        for _ in range(count):
            ended.check(not end.startswith(("forgotten", "broken off")), f"{kind}: {end}")
    quiet = Law("no traceback in any process")
    quiet.checked, quiet.broken = run.fleet.kills.total(), run.fleet.complaints
    return [ended, quiet]


# -- on the screen -------------------------------------------------------------------------------------------------


def show(result: Result, console: Console) -> None:
    kills = " and ".join(f"{result.kills[kind]} of {name}" for kind, name in NAMES.items())
    console.print(f"{result.ends.total():,} calls in {result.took_s:,.0f} s, with {kills} by kill -9\n")
    for each in (_asked(result.ends), _compared(result.books), _held(result.laws)):
        console.print(each, "")
    for law in result.laws:
        for line in law.broken[:SHOWN_OF_A_LAW]:
            console.print(f"[red]{law.text}[/red]: {line}", highlight=False, soft_wrap=True)
    console.print("[green]The bills agree.[/green]" if result.agrees else "[red]The bills differ.[/red]")


def _asked(ends: Counter[tuple[str, str]]) -> Table:
    words = ["answered", "error", "refused", "left", "job", "cancelled job"]
    words += sorted({end for _, end in ends} - set(words))
    made = table("What clients asked for, and how it went", *words)
    for kind in sorted({kind for kind, _ in ends}):
        made.add_row(kind, *(_number(ends[kind, word]) for word in words))
    return made


def _compared(books: Books) -> Table:
    made = table(
        "Tokens and money", "", "calls", "uncached", "cache read", "written 5 m", "written 1 h", "output", "dollars"
    )
    for kind in KINDS:
        pairs = list(books.pairs(kind))
        spent = sum(amounts.cost for call, row in pairs if (amounts := books.charged(call, row)))
        cost = sum(row["cost"] or 0 for _, row in pairs)
        theirs, ours = total(told(call) for call, _ in pairs), total(reported(row) for _, row in pairs)
        made.add_row(kind, "provider", _number(len(pairs)), *map(_number, theirs), _dollars(spent))
        made.add_row("", "ledger", _number(len(pairs)), *map(_number, ours), _dollars(cost))
        gap = Buckets(*(a - b for a, b in zip(theirs, ours, strict=True)))
        made.add_row("", "beyond what was heard", "", *map(_number, gap), _dollars(spent - cost), end_section=True)
    missed = len(books.rows.keys() - books.calls.keys())
    late = sum(row["v"] > 1 for row in books.rows.values())
    made.caption = f"{missed:,} unknown rows more are of calls that never arrived; {late:,} rows were put right by a "
    made.caption += "worker that had lost its job"
    return made


def _held(laws: list[Law]) -> Table:
    made = table("What must hold", "looked at", "differences")
    for law in laws:
        made.add_row(law.text, _number(law.checked), f"[red]{len(law.broken)}[/red]" if law.broken else "0")
    return made


def _number(value: int) -> str:
    return f"{value:,}" if value else "–"


def _dollars(nano: int) -> str:
    return f"{nano / NANO_PER_DOLLAR:,.9f}" if nano else "–"
