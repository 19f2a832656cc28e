"""``relay jobs ls | show | tail | cancel | replay | dead | batch``: what the key's tenant has, over the API.

Rich is imported where it is used: every command of ``relay`` loads this module.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from relay.cli.flags import with_settings
from relay.cli.over_http import FLAGS, Door
from relay.core.errors import InvalidRequest, Unavailable
from relay.settings import Settings

if TYPE_CHECKING:
    from rich.table import Table

jobs = typer.Typer(help="Jobs: what waits, what runs, what became of it.", no_args_is_help=True)

Url = Annotated[str | None, typer.Option(metavar="URL", help="The relay, if it is not the configured one.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]
Ids = Annotated[list[str], typer.Argument(metavar="ID…", help="Ids of jobs.")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
Limit = Annotated[int, typer.Option(min=1, max=100_000, help="Most jobs to show, newest first.")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Look again every second, until interrupted.")]
Status = Literal["queued", "in_progress", "completed", "failed", "cancelled"]

PAGE = 100
WATCH_S = 1.0
# A tail that loses its relay comes back so often, each time after a second, before it gives up.
TAIL_RETRIES = 30

_BATCH_ENDED = ("ended", "completed", "failed", "cancelled", "expired")
_COLOURS = {"queued": "yellow", "in_progress": "cyan", "completed": "green", "failed": "red", "cancelled": "dim"}


@jobs.command()
@with_settings(*FLAGS)
def ls(
    settings: Settings,
    status: Annotated[Status | None, typer.Option(help="Only those that stand so.")] = None,
    model: Annotated[str | None, typer.Option(help="Only those of this model.")] = None,
    metadata: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only those that have it.")] = None,
    limit: Limit = 20,
    watch: Watch = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """List jobs."""
    wanted = {"status": status or "", "model": model or "", "metadata": metadata or []}
    _list(Door.of(settings, url), {name: value for name, value in wanted.items() if value}, limit, watch, as_json)


@jobs.command()
@with_settings(*FLAGS)
def dead(settings: Settings, limit: Limit = 20, watch: Watch = False, as_json: AsJson = False, url: Url = None) -> None:
    """List failed jobs, which can be replayed."""
    _list(Door.of(settings, url), {"status": "failed"}, limit, watch, as_json)


@jobs.command()
@with_settings(*FLAGS)
def show(settings: Settings, job: Id, as_json: AsJson = False, url: Url = None) -> None:
    """Show all about a job."""
    found = Door.of(settings, url).ask("GET", _path(job))
    if as_json:
        typer.echo(json.dumps(found))
        return
    for name, value in _flat(found):
        typer.echo(f"{name:24} {value}")


@jobs.command()
@with_settings(*FLAGS)
def tail(
    settings: Settings,
    job: Id,
    events: Annotated[bool, typer.Option("--events", help="The events themselves, not the text in them.")] = False,
    url: Url = None,
) -> None:
    """Print a job's answer from its beginning, and as it comes."""
    door = Door.of(settings, url)
    for name, data in _tail(door, f"{_path(job)}/stream"):
        if events:
            typer.echo(f"{name} {data}".lstrip())
        elif name == "error" or data.startswith('{"error"'):
            raise Unavailable(str(json.loads(data)["error"]["message"]))
        else:
            typer.echo(_text(data), nl=False)
    typer.echo()


@jobs.command()
@with_settings(*FLAGS)
def cancel(settings: Settings, job: Ids, url: Url = None) -> None:
    """Cancel jobs; one that runs ends when its worker hears of it."""
    door = Door.of(settings, url)
    for each in job:
        typer.echo(f"{each} {door.ask('POST', f'{_path(each)}/cancel')['status']}")


@jobs.command()
@with_settings(*FLAGS)
def replay(settings: Settings, job: Ids, url: Url = None) -> None:
    """Run failed jobs again, as new ones."""
    door = Door.of(settings, url)
    for each in job:
        typer.echo(f"{each} replayed as {door.ask('POST', f'{_path(each)}/replay')['id']}")


@jobs.command()
@with_settings(*FLAGS)
def batch(
    settings: Settings,
    batch: Annotated[str, typer.Argument(metavar="ID", help="The batch's id, of either provider's form.")],
    watch: Watch = False,
    url: Url = None,
) -> None:
    """Show how far a batch is; with --watch until it has ended."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    door, path = Door.of(settings, url), _batch_path(batch)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("", total=None)
        while True:
            found, told = door.look(path, "x-relay-batch-progress")
            status = found.get("processing_status") or found["status"]
            done, _, total = told.partition("/")
            progress.update(bar, description=status, completed=int(done or 0), total=int(total or 0))
            if not watch or status in _BATCH_ENDED:
                return
            time.sleep(WATCH_S)


# -- lists ---------------------------------------------------------------------------------------------------------


def _list(door: Door, query: dict[str, Any], limit: int, watch: bool, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(list(_found(door, query, limit))))
        return
    from rich.console import Console
    from rich.live import Live

    if not watch:
        Console().print(_table(_found(door, query, limit)))
        return
    with Live(_table(_found(door, query, limit)), auto_refresh=False) as live:
        try:
            while True:
                time.sleep(WATCH_S)
                live.update(_table(_found(door, query, limit)), refresh=True)
        except KeyboardInterrupt:
            pass


def _found(door: Door, query: dict[str, Any], limit: int) -> Iterator[dict[str, Any]]:
    """The newest jobs, page by page."""
    after = ""
    while limit > 0:
        page = door.ask("GET", "/v1/jobs", query | {"limit": min(limit, PAGE)} | ({"after": after} if after else {}))
        yield from page["data"]
        limit -= len(page["data"])
        if not page["has_more"]:
            return
        after = page["last_id"]


def _table(found: Iterator[dict[str, Any]]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table("id", "status", "model", "created", "took", "error")
    for job in found:
        status, timings = job["status"], job["timings"]
        error = f"{job['error']['code']}: {job['error']['message']}" if job["error"] else ""
        began_ms, ended_ms = timings["created_ms"], timings["ended_ms"]
        took = f"{(ended_ms - began_ms) / 1000:.1f} s" if ended_ms else ""
        colour = _COLOURS[status]
        row = (job["id"], f"[{colour}]{status}[/]", escape(job["model"]), _time(began_ms), took, escape(error))
        table.add_row(*row)
    return table


def _time(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


# -- one job -------------------------------------------------------------------------------------------------------


def _path(job: str) -> str:
    if not job.isascii() or not job.replace("-", "").isalnum():
        raise InvalidRequest(f"{job!r} is not the id of a job")
    return f"/v1/jobs/{job}"


def _batch_path(batch: str) -> str:
    if not batch.isascii() or not batch.replace("_", "").isalnum():
        raise InvalidRequest(f"{batch!r} is not the id of a batch")
    return f"/v1/messages/batches/{batch}" if batch.startswith("msgbatch_") else f"/v1/batches/{batch}"


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from _flat(inner, f"{prefix}{name}.")
        elif inner is not None:
            yield f"{prefix}{name}", inner


def _tail(door: Door, path: str) -> Iterator[tuple[str, str]]:
    """Name and data of every event, once, however often the connection is lost on the way."""
    seen, failures = "", 0
    while True:
        try:
            for number, name, data in door.events(path, seen):
                seen, failures = number, 0
                yield name, data
            return
        except Unavailable:
            failures += 1
            if failures > TAIL_RETRIES or not seen:
                raise
            time.sleep(1)


def _text(data: str) -> str:
    """What an event adds to the answer's text, in either dialect."""
    try:
        event = json.loads(data)
        if "choices" in event:
            return event["choices"][0]["delta"].get("content") or "" if event["choices"] else ""
        return event.get("delta", {}).get("text") or ""
    except (ValueError, AttributeError, KeyError, TypeError):
        return ""
