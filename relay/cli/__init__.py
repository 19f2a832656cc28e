"""The command line of the relay: one command for each process, and those that ask about or change what they keep.

Reads the settings and hands them to what does the work. Imports of that work stand inside the commands: an ingress
never loads a worker's world, and ``relay version`` loads none.
"""

from __future__ import annotations

import sys
from importlib import metadata
from io import TextIOWrapper
from typing import Annotated

import typer

from relay.cli.budgets import budgets
from relay.cli.doctor import doctor
from relay.cli.flags import with_settings
from relay.cli.jobs import jobs
from relay.cli.keys import keys
from relay.cli.limits import limits
from relay.cli.usage import usage
from relay.cli.webhooks import webhooks
from relay.core.errors import RelayError
from relay.environment import SECRETS, TABLES
from relay.reference import SettingsError
from relay.settings import Settings, markdown_table

app = typer.Typer(
    help="A streaming relay for LLM requests on Redis and RQ.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its tracebacks show the values of variables
)
app.add_typer(budgets, name="budgets")
app.add_typer(keys, name="keys")
app.add_typer(jobs, name="jobs")
app.add_typer(limits, name="limits")
app.add_typer(usage, name="usage")
app.add_typer(webhooks, name="webhooks")
app.command()(doctor)


def main() -> None:
    """The ``relay`` command. What the operator can mend is one line on standard error, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without our dashes is no reason to die
    try:
        app()
    except (SettingsError, RelayError) as error:
        sys.stderr.write(f"relay: {error}\n")
        sys.exit(2 if isinstance(error, SettingsError) else 1)


@app.command()
@with_settings()
def up(settings: Settings) -> None:
    """Run the whole relay on this machine: Redis, ingress, workers and, without a provider, the sandbox."""
    from relay.local import up as everything
    from relay.local.supervisor import StartError

    try:
        everything.run(settings)
    except StartError as error:
        sys.exit(f"relay: {error}")


@app.command()
@with_settings()
def serve(settings: Settings) -> None:
    """Run an ingress: HTTP in, SSE out."""
    from relay.ingress import main as ingress

    ingress.run(settings)


@app.command()
@with_settings()
def work(settings: Settings) -> None:
    """Run a worker: it takes jobs from the queue and calls providers."""
    settings.check_secrets()
    from workers import main as worker

    worker.run(settings)


@app.command()
@with_settings()
def ledger(settings: Settings) -> None:
    """Run a ledger: it takes usage records into the database and prices them."""
    from relay.ledger import main as books

    books.run(settings)


@app.command()
@with_settings()
def console(settings: Settings) -> None:
    """Run a console: the usage API and the dashboard."""
    from relay.console import main as pages

    pages.run(settings)


@app.command()
@with_settings("sandbox_port", "sandbox_gap_ms", "log_level")
def sandbox(settings: Settings) -> None:
    """Run the sandbox provider, on the loopback address only."""
    from relay.sandbox import main as provider

    provider.run(settings)


@app.command()
@with_settings()
def health(
    settings: Settings, process: Annotated[str, typer.Argument(metavar="ingress|worker|ledger|console")]
) -> None:
    """Whether the process in this container is well: exit code 0 or 1."""
    from relay import health as checks

    known = {"ingress": checks.ingress, "worker": checks.worker, "ledger": checks.ledger, "console": checks.console}
    check = known.get(process)
    if check is None:
        sys.exit(f"relay: no health check for {process!r}; there is {', '.join(known)}")
    if trouble := check(settings):
        sys.exit(f"relay: {process}: {trouble}")


@app.command("settings")
@with_settings()
def show_settings(
    settings: Settings,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the README's table of all settings.")] = False,
) -> None:
    """Show the settings in force."""
    if markdown:
        typer.echo(markdown_table(), nl=False)
        return
    for name in Settings.model_fields:
        if name not in TABLES:
            value = getattr(settings, name)
            typer.echo(f"{name} = {'(not shown)' if name in SECRETS and value else value}")
    for provider in settings.providers.values():
        served = " ".join(provider.served.models)
        typer.echo(f"provider {provider.name}: {provider.dialect} at {provider.base_url}, serves {served}")


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(metadata.version("llm-relay"))
