"""Flags for settings: hands a command its ``Settings`` and gives it one flag per setting.

A flag's value is passed on as text; the settings know what is valid and say it the same way for every source.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from relay import logs
from relay.environment import SECRETS, TABLES
from relay.settings import Settings, load

# Shown first in --help.
_OFTEN = frozenset({"host", "port", "redis_url", "data_dir", "workers", "concurrency", "log_level"})

# A secret on the command line is there for every user of the machine to read. RQ's users expect a URL flag all the
# same; one with a password belongs into RELAY_REDIS_URL.
_NO_FLAG = TABLES | (SECRETS - {"redis_url"})

Command = Callable[..., None]


def with_settings(*names: str) -> Callable[[Command], Command]:
    """Call the command with the settings first, and give it flags for ``names``, or for all that may have one."""
    chosen = names or tuple(name for name in Settings.model_fields if name not in _NO_FLAG)

    def decorate(command: Command) -> Command:
        def run(**given: Any) -> None:
            flags = {name: value for name in chosen if (value := given.pop(name)) is not None}
            settings = load(flags)
            logs.configure(settings.log_level)
            command(settings, **given)

        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        parameters += [_flag(name) for name in chosen]
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        # Typer makes a command line of what a function says of itself.
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _flag(name: str) -> inspect.Parameter:
    option = typer.Option(
        f"--{name.replace('_', '-')}",
        help=Settings.model_fields[name].description,
        metavar="VALUE",
        show_default=False,
        rich_help_panel="Settings" if name in _OFTEN else "Times and limits",
    )
    annotation = Annotated[str | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
