"""``relay usage tail | summary | export``: what calls cost, read from the ledger's database.

Without the console and without a key: whoever can read the database may see all of it. SQLAlchemy and rich are
imported where they are used: every command of ``relay`` loads this module.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from relay.cli.flags import with_settings
from relay.core.errors import InvalidRequest
from relay.settings import Settings

if TYPE_CHECKING:
    from rich.table import Table

    from relay.ledger.queries import Filter, Page
    from relay.ledger.reading import Reading

usage = typer.Typer(help="What calls cost, and what caching saved.", no_args_is_help=True)

FLAGS = ("data_dir", "log_level")
# The ledger stores within a second, so a look a second misses nothing by much.
LOOK_EVERY_S = 1.0
PAGE = 1000
MOST_GROUPED_BY = 4

AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
Tenant = Annotated[str | None, typer.Option(help="Of one tenant only.")]
Since = Annotated[str, typer.Option(help="A date or time, or how long ago: 90m, 24h, 7d.")]
Model = Annotated[str | None, typer.Option(help="Of one model only, as the client wrote it.")]
App = Annotated[str | None, typer.Option(help="Of one application only.")]
Form = Literal["csv", "jsonl"]


@usage.command()
@with_settings(*FLAGS)
def tail(
    settings: Settings,
    lines: Annotated[int, typer.Option("-n", "--lines", min=1, max=PAGE, help="Calls to begin with.")] = 20,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with calls as they come.")] = False,
    tenant: Tenant = None,
    model: Model = None,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Show the newest calls."""
    with _Books(settings) as books:
        wanted = _filter(None, tenant, model, app)
        seen = books.page(wanted, None, lines).rows[::-1]
        _print_calls(seen, as_json, header=True)
        try:
            while follow:
                time.sleep(LOOK_EVERY_S)
                newer = books.newer(wanted, seen)
                _print_calls(newer, as_json, header=False)
                seen = (seen + newer)[-PAGE:]
        except KeyboardInterrupt:
            return


@usage.command()
@with_settings(*FLAGS)
def summary(
    settings: Settings,
    by: Annotated[
        list[str] | None,
        typer.Option(help="model (if left out), app, key_id, tenant, cache_reason, hour, day …; up to four."),
    ] = None,
    since: Since = "30d",
    tenant: Tenant = None,
    model: Model = None,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Add up calls by model, or by something else."""
    from relay.console.usage_views import sums_view
    from relay.ledger import queries

    groups = list(dict.fromkeys(by or ["model"]))
    if strange := [name for name in groups if name not in queries.GROUPS]:
        raise InvalidRequest(f"--by: {strange[0]!r} is none of {', '.join(queries.GROUPS)}")
    if len(groups) > MOST_GROUPED_BY:
        raise InvalidRequest(f"--by: {len(groups)} are too many, {MOST_GROUPED_BY} are the most")
    wanted = _filter(_time(since), tenant, model, app)
    with _Books(settings) as books:
        found = books.reading.ask(lambda connection: queries.summary(connection, wanted, groups))
    if as_json:
        typer.echo(json.dumps([sums_view(each, groups) for each in found]))
        return
    _print(_summary_table(groups, found))


@usage.command()
@with_settings(*FLAGS)
def export(
    settings: Settings,
    form: Annotated[Form, typer.Option("--format", help="csv for spreadsheets, jsonl for programs.")] = "csv",
    since: Since = "30d",
    tenant: Tenant = None,
    model: Model = None,
    app: App = None,
) -> None:
    """Write calls to standard output, newest first."""
    from relay.console import export as files

    wanted = _filter(_time(since), tenant, model, app)
    out = sys.stdout.buffer
    with _Books(settings) as books:
        out.write(files.head(form))
        for page in books.pages(wanted):
            out.write(files.lines(form, page.rows))
    out.flush()


class _Books:
    """The ledger's database, for as long as one command takes."""

    def __init__(self, settings: Settings) -> None:
        from relay.ledger.reading import Reading

        self.reading: Reading = Reading(settings)

    def __enter__(self) -> _Books:
        return self

    def __exit__(self, *_: object) -> None:
        self.reading.close()

    def page(self, wanted: Filter, cursor: str | None, limit: int) -> Page:
        from relay.ledger.queries import rows

        return self.reading.ask(lambda connection: rows(connection, wanted, cursor, limit))

    def pages(self, wanted: Filter) -> Iterator[Page]:
        page = self.page(wanted, None, PAGE)
        yield page
        while page.cursor:
            page = self.page(wanted, page.cursor, PAGE)
            yield page

    def newer(self, wanted: Filter, seen: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Calls that were stored since, oldest first; a long call is stored long after it began."""
        known = {row["id"] for row in seen}
        newest = max(known, default=0)
        page = self.page(wanted, None, PAGE)
        return [row for row in reversed(page.rows) if row["id"] not in known and row["id"] > newest]


def _filter(since_ms: int | None, tenant: str | None, model: str | None, app: str | None) -> Filter:
    from relay.ledger.queries import Filter

    given = {"model": model, "app": app}
    return Filter(tenant=tenant, since_ms=since_ms, any_of={name: [value] for name, value in given.items() if value})


def _time(text: str) -> int:
    """Unix milliseconds; a time without a zone is UTC."""
    units = {"m": "minutes", "h": "hours", "d": "days"}
    try:
        if text[:-1].isdecimal() and text[-1:] in units:
            moment = datetime.now(UTC) - timedelta(**{units[text[-1]]: int(text[:-1])})
        else:
            moment = datetime.fromisoformat(text)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return int(moment.timestamp() * 1000)
    except (ValueError, OverflowError):
        raise InvalidRequest(f"--since: {text!r} is no time such as 2027-01-31, and not like 24h or 7d") from None


# -- tables --------------------------------------------------------------------------------------------------------


_COLUMNS = (
    "started",
    "model",
    "app",
    "outcome",
    "cache",
    "uncached",
    "read",
    "written",
    "output",
    "cost",
    "saved",
    "time",
)


def _print_calls(rows: Sequence[dict[str, Any]], as_json: bool, *, header: bool) -> None:
    from relay.console.usage_views import call_view

    if as_json:
        for row in rows:
            typer.echo(json.dumps(call_view(row)))
    elif rows or header:
        table = _table(_COLUMNS, 5, header)
        for row in rows:
            table.add_row(*_cells(row))
        _print(table)


def _cells(row: dict[str, Any]) -> list[str]:
    from relay.console.pages import words

    tokens = [row["input_tokens"], row["cache_read_tokens"], _written(row), row["output_tokens"]]
    return [
        *(words.moment(row["started_ms"]), _plain(row["model"]), _plain(row["app"]), row["outcome"], _cache(row)),
        *(words.UNKNOWN if row["input_tokens"] is None else words.compact(count) for count in tokens),
        *(words.money(row["cost"]), words.money(row["net_saved"]), words.duration(row["total_ms"])),
    ]


def _cache(row: dict[str, Any]) -> str:
    """Why there was no hit; else what the cache did."""
    from relay.console.pages import words

    if row["cache_reason"]:
        return words.reason(row["cache_reason"], row["cache_reason_at"])
    return "" if row["cache"] == "unknown" else str(row["cache"])


def _said(name: str, value: str) -> str:
    from relay.console.pages import words

    return words.reason(value) if name == "cache_reason" else value


def _summary_table(groups: list[str], found: Sequence[dict[str, Any]]) -> Table:
    from relay.console.pages import words
    from relay.ledger.queries import STEPS

    measures = ("calls", "uncached", "read", "written", "output", "cost", "saved", "unknown")
    table = _table((*groups, *measures), len(groups), True)
    for each in found:
        names = [words.moment(each[name]) if name in STEPS else _plain(_said(name, each[name])) for name in groups]
        tokens = [each["input_tokens"], each["cache_read_tokens"], _written(each), each["output_tokens"]]
        unknown = each["unpriced"] + each["unreported"]
        table.add_row(
            *names,
            *(words.count(each["calls"]), *map(words.compact, tokens)),
            *(words.money(each["cost"]), words.money(each["net_saved"]), words.count(unknown) if unknown else ""),
        )
    return table


def _written(row: dict[str, Any]) -> int:
    return (row["cache_write_5m_tokens"] or 0) + (row["cache_write_1h_tokens"] or 0)


def _plain(text: str | None) -> str:
    """Without what a terminal would obey, or rich take for markup: clients choose these words."""
    from rich.markup import escape

    return escape("".join(char if char.isprintable() else "?" for char in text or "–"))


def _table(columns: Sequence[str], texts: int, header: bool) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD if header else None, show_header=header, pad_edge=False)
    for number, name in enumerate(columns):
        is_text = number < texts
        table.add_column(name, justify="left" if is_text else "right", no_wrap=True, overflow="ellipsis")
    return table


def _print(table: Table) -> None:
    from rich.console import Console

    console = Console()
    # In a file there is no width to fit into.
    console.print(table) if console.is_terminal else Console(width=200).print(table)
