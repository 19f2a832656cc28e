"""``relay doctor``, as the terminal shows it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Annotated

import typer

from relay.cli.flags import with_settings
from relay.cli.over_redis import url_of
from relay.settings import Settings

if TYPE_CHECKING:
    from relay.broker.checkup import Finding

_COLOURS = {"ok": "green", "warning": "yellow", "wrong": "red"}


@with_settings()
def doctor(
    settings: Settings,
    as_json: Annotated[bool, typer.Option("--json", help="One finding a line, for machines.")] = False,
) -> None:
    """Look for what is wrong, or soon will be: exit code 1 if calls cannot succeed."""
    if asyncio.run(_examined(settings, as_json)):
        raise typer.Exit(1)


async def _examined(settings: Settings, as_json: bool) -> bool:
    """Show every finding; whether something is wrong."""
    from relay.doctor import examine

    is_wrong = False
    async for finding in examine(settings, url_of(settings)):
        is_wrong |= finding.state == "wrong"
        typer.echo(json.dumps(finding._asdict())) if as_json else _show(finding)
    return is_wrong


def _show(finding: Finding) -> None:
    state = typer.style(f"{finding.state:<8}", fg=_COLOURS[finding.state])
    typer.echo(f"{state} {finding.about:<20} {finding.words}")
