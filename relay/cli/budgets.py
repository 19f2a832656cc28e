"""``relay budgets set | list | remove``: what keys and tenants may spend in a day and in a month."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from relay.cli.flags import with_settings
from relay.cli.over_redis import FLAGS, on_link, on_redis
from relay.core.budget import KEY, TENANT, Standing, amount, parse, whose
from relay.core.errors import InvalidRequest, NotFound
from relay.settings import Settings

if TYPE_CHECKING:
    from relay.broker.budgets import Account, Budgets

budgets = typer.Typer(help="Budgets of keys and tenants: what is over a hard one is refused.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
Holder = Annotated[
    str, typer.Argument(metavar="WHOSE", help="tenant:NAME, or key:ID with enough of the id's beginning.")
]
T = TypeVar("T")


@budgets.command("set")
@with_settings(*FLAGS)
def set_budget(
    settings: Settings,
    holder: Holder,
    bounds: Annotated[
        list[str],
        typer.Argument(metavar="BOUND...", help="'20 USD a day', '5M tokens a month', 'soft 16 USD a day' and so on."),
    ],
) -> None:
    """Set all bounds of a key or a tenant at once, from the next call on; what was spent stays spent."""
    try:
        budget = parse(bounds)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
    found = _holder(settings, holder)
    _run(settings, lambda held: held.set(found, budget))
    typer.echo(f"{whose(found)}: {budget.words}")


@budgets.command("list")
@with_settings(*FLAGS)
def list_budgets(settings: Settings, as_json: AsJson = False) -> None:
    """List the budgets, and what is spent of them in the day and the month that is now, in UTC."""
    accounts = _run(settings, lambda held: held.accounts())
    if as_json:
        typer.echo(json.dumps([_public(account) for account in accounts]))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("whose", "bound", "spent", "used", "ends (UTC)", "state")
    for account in accounts:
        for standing in account.standings:
            unit, spent = standing.bound.unit, amount(standing.bound.unit, standing.spent)
            row = (whose(account.holder), standing.bound.words, spent, f"{standing.ratio:.0%}", _end(standing))
            table.add_row(*row, _state(standing, account.unpriced if unit == "money" else 0))
    Console().print(table)


budgets.command("ls", hidden=True)(list_budgets)


@budgets.command()
@with_settings(*FLAGS)
def remove(settings: Settings, holder: Holder) -> None:
    """Take a budget away."""
    # Of those that have one: a key that is gone may have left its budget.
    held = [each for each in _run(settings, lambda budgets: budgets.all()) if _is_meant(holder, each)]
    if len(held) > 1:
        raise NotFound(f"{len(held)} API keys with a budget have an id that begins with {holder.removeprefix(KEY)!r}")
    if not held:
        typer.echo(f"{whose(holder)}: had no budget")
        return
    _run(settings, lambda budgets: budgets.remove(held[0]))
    typer.echo(f"{whose(held[0])}: no budget any more")


def _is_meant(text: str, holder: str) -> bool:
    return holder == text or (text.startswith(KEY) and text != KEY and holder.startswith(text))


def _holder(settings: Settings, text: str) -> str:
    """Raises ``InvalidRequest``, and ``NotFound`` unless exactly one key has that id."""
    kind, colon, name = text.partition(":")
    if not name or kind + colon not in (KEY, TENANT):
        raise InvalidRequest(f"{text!r} is neither tenant:NAME nor key:ID")
    from relay.broker.api_keys import ApiKeys

    records = on_redis(settings, lambda redis: ApiKeys(redis).list())
    if kind + colon == TENANT:
        if not any(record.tenant == name for record in records):
            typer.echo(f"relay: no API key is of the tenant {name!r} yet", err=True)
        return text
    found = [record.id for record in records if record.id.startswith(name)]
    if len(found) != 1:
        many = f"{len(found)} API keys have an id that begins with" if found else "no API key has the id"
        raise NotFound(f"{many} {name!r}")
    return KEY + found[0]


def _run(settings: Settings, use: Callable[[Budgets], Coroutine[Any, Any, T]]) -> T:
    from relay.broker.budgets import Budgets
    from relay.broker.keys import Keys

    return on_link(settings, lambda link: use(Budgets(link, Keys(settings.partition))))


def _public(account: Account) -> dict[str, Any]:
    bounds = [
        standing.bound._asdict() | {"spent": standing.spent, "ends_at": _moment(standing).isoformat()}
        for standing in account.standings
    ]
    return {"whose": account.holder, "bounds": bounds, "unpriced_calls": account.unpriced}


def _state(standing: Standing, unpriced: int) -> str:
    state = "used up" if standing.is_over else "past its soft bound" if standing.is_past_soft else "open"
    return f"{state}; {unpriced:,} calls without a price" if unpriced else state


def _end(standing: Standing) -> str:
    return _moment(standing).strftime("%Y-%m-%d")


def _moment(standing: Standing) -> datetime:
    return datetime.fromtimestamp(standing.end_ms / 1000, UTC)
