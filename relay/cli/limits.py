"""``relay limits set | list | remove``: how much of the queue's pace a tenant may take."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from relay.cli.flags import with_settings
from relay.cli.over_redis import FLAGS, on_link
from relay.core.errors import InvalidRequest
from relay.settings import Settings

if TYPE_CHECKING:
    from relay.broker.rate_limits import RateLimits

limits = typer.Typer(help="Limits of tenants: what is over them waits its turn.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
Tenant = Annotated[str, typer.Argument(metavar="TENANT", help="Whose jobs.")]
_MAX = 1_000_000_000
T = TypeVar("T")


@limits.command("set")
@with_settings(*FLAGS)
def set_limit(
    settings: Settings,
    tenant: Tenant,
    concurrency: Annotated[int | None, typer.Option(min=1, max=_MAX, help="Calls under way at a time.")] = None,
    requests: Annotated[int | None, typer.Option(min=1, max=_MAX, help="Calls begun per minute.")] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, max=_MAX, help="Tokens per minute, those read from the cache left out.")
    ] = None,
) -> None:
    """Set a tenant's limits, all at once: what is left out is not limited."""
    from relay.broker.rate_limits import RateLimit

    if concurrency is requests is tokens is None:
        raise InvalidRequest("give at least one of --concurrency, --requests and --tokens, or `relay limits remove`")
    limit = RateLimit(concurrency, requests, tokens)
    _run(settings, lambda held: held.set(f"tenant:{tenant}", limit))
    typer.echo(f"tenant {tenant}: {_words(limit)}")


@limits.command("list")
@with_settings(*FLAGS)
def list_limits(settings: Settings, as_json: AsJson = False) -> None:
    """List the limits; those of providers come from relay.toml."""
    found = _run(settings, lambda held: held.all())
    if as_json:
        typer.echo(json.dumps({who: limit._asdict() for who, limit in found.items()}))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("whose", "calls at a time", "calls a minute", "tokens a minute")
    for who, limit in found.items():
        table.add_row(who, *["–" if part is None else f"{part:,}" for part in limit])
    Console().print(table)


@limits.command()
@with_settings(*FLAGS)
def remove(settings: Settings, tenant: Tenant) -> None:
    """Take a tenant's limits away."""
    had = _run(settings, lambda held: held.remove(f"tenant:{tenant}"))
    typer.echo(f"tenant {tenant}: {'no limits any more' if had else 'had no limits'}")


def _run(settings: Settings, use: Callable[[RateLimits], Coroutine[Any, Any, T]]) -> T:
    from relay.broker.keys import Keys
    from relay.broker.rate_limits import RateLimits

    return on_link(settings, lambda link: use(RateLimits(link, Keys(settings.partition))))


def _words(limit: tuple[int | None, ...]) -> str:
    units = ("calls at a time", "calls a minute", "tokens a minute")
    return ", ".join(f"{part:,} {unit}" for part, unit in zip(limit, units, strict=True) if part)
