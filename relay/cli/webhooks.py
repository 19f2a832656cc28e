"""``relay webhooks secret``: what a receiver checks the signatures of its webhooks with."""

from __future__ import annotations

from typing import Annotated

import typer

from relay.cli.flags import with_settings
from relay.cli.over_redis import FLAGS, on_link
from relay.settings import Settings

webhooks = typer.Typer(help="Webhooks.", no_args_is_help=True)


@webhooks.callback()
def _group() -> None:
    """With one command alone, typer would leave out its name."""


@webhooks.command()
@with_settings(*FLAGS)
def secret(
    settings: Settings,
    tenant: Annotated[str, typer.Option(help="Whose webhooks.")] = "default",
    rotate: Annotated[bool, typer.Option("--rotate", help="Make a new one; both sign for 24 h.")] = False,
) -> None:
    """Show a tenant's webhook secret; it is made when there is none yet."""
    from relay.broker.keys import Keys
    from relay.broker.webhooks import WebhookSecrets

    keys = Keys(settings.partition)
    newest, *older = on_link(settings, lambda link: WebhookSecrets(link, keys).of(tenant, rotate=rotate))
    if older:
        typer.echo(f"secrets made before that still sign: {len(older)}", err=True)
    typer.echo(newest)
