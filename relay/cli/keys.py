"""``relay keys create | list | revoke``, on the Redis that is configured or on that of a running ``relay up``.

Redis and rich are imported where they are used: every command of ``relay`` loads this module.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from relay.cli.flags import with_settings
from relay.cli.over_redis import FLAGS, on_redis
from relay.core.errors import InvalidRequest
from relay.settings import Settings

if TYPE_CHECKING:
    from relay.broker.api_keys import ApiKey, ApiKeys

keys = typer.Typer(help="API keys.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
Cache = Literal["auto", "off"]
OnDisconnect = Literal["finish", "cancel"]
Log = Literal["usage", "content"]
T = TypeVar("T")


@keys.command()
@with_settings(*FLAGS)
def create(
    settings: Settings,
    name: Annotated[str, typer.Option(help="What it is for, as the list will show it.")],
    tenant: Annotated[str, typer.Option(help="Who owns its jobs and their usage.")] = "default",
    expires: Annotated[str | None, typer.Option(help="A date or time such as 2027-01-31; never if left out.")] = None,
    cache: Annotated[
        Cache | None, typer.Option(help="auto: breakpoints for requests that set none; off: never any of ours.")
    ] = None,
    on_disconnect: Annotated[
        OnDisconnect | None,
        typer.Option(help="What becomes of a native call whose client has left; cancel if not given."),
    ] = None,
    log: Annotated[
        Log | None,
        typer.Option(help="content: requests and answers are kept, where a call does not say; usage if not given."),
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="jobs:read, jobs:write, usage:read, content:read, content:write or admin, as often as need be; "
            "the first three if none."
        ),
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="See and manage all tenants in the console.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make an API key. It is shown this once."""
    from relay.broker.api_keys import ADMIN, ALL_SCOPES, SCOPES

    expires_at = _timestamp(expires) if expires else None
    scopes = tuple(dict.fromkeys([*(scope or SCOPES), *([ADMIN] if admin else [])]))
    if strange := [each for each in scopes if each not in ALL_SCOPES]:
        raise InvalidRequest(f"--scope: {strange[0]!r} is none of {', '.join(ALL_SCOPES)}")
    defaults = {"cache": cache or "", "on_disconnect": on_disconnect or "", "log": log if log == "content" else ""}
    made = _run(settings, lambda held: held.create(name, tenant, scopes=scopes, expires_at=expires_at, **defaults))
    record, key = made
    if as_json:
        typer.echo(json.dumps(_public(record) | {"key": key}))
    else:
        typer.echo(f"key {record.id} of tenant {record.tenant}; it is not shown again:", err=True)
        typer.echo(key)


@keys.command("list")
@with_settings(*FLAGS)
def list_keys(settings: Settings, as_json: AsJson = False) -> None:
    """List the API keys: all about them but the keys themselves."""
    records = _run(settings, lambda held: held.list())
    if as_json:
        typer.echo(json.dumps([_public(record) for record in records]))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("id", "name", "tenant", "ends in", "created", "state")
    for record in records:
        row = (record.id, record.name, record.tenant, record.last4, _date(record.created_at), _state(record))
        table.add_row(*row)
    Console().print(table)


@keys.command()
@with_settings(*FLAGS)
def revoke(
    settings: Settings,
    key: Annotated[str, typer.Argument(metavar="ID", help="The key's id, or enough of its beginning.")],
    as_json: AsJson = False,
) -> None:
    """Put an API key out of use, for good; it is out everywhere within 10 s."""
    record = _run(settings, lambda held: held.revoke(key))
    typer.echo(json.dumps(_public(record)) if as_json else f"key {record.id} ({record.name}) is revoked")


def _run(settings: Settings, use: Callable[[ApiKeys], Coroutine[Any, Any, T]]) -> T:
    from relay.broker.api_keys import ApiKeys

    return on_redis(settings, lambda redis: use(ApiKeys(redis)))


def _public(record: ApiKey) -> dict[str, Any]:
    """A record as machines get it; times as ISO 8601."""
    times = {name: _iso(getattr(record, name)) for name in ("created_at", "expires_at", "revoked_at")}
    return {"id": record.id, "name": record.name, "tenant": record.tenant, "scopes": record.scopes} | {
        "last4": record.last4,
        "state": _state(record),
        "cache": record.cache or None,
        "on_disconnect": record.on_disconnect or None,
        "log": record.log or None,
        **times,
    }


def _state(record: ApiKey) -> str:
    if record.revoked_at is not None:
        return f"revoked {_date(record.revoked_at)}"
    if record.expires_at is None:
        return "active"
    over = record.expires_at <= datetime.now(UTC).timestamp()
    return f"{'expired' if over else 'active until'} {_date(record.expires_at)}"


def _timestamp(text: str) -> int:
    """Unix seconds; a time without a zone is UTC, so that it means the same on every machine."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(
            f"--expires: {text!r} is not a date or time such as 2027-01-31 or 2027-01-31T12:00"
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment <= datetime.now(UTC):
        raise InvalidRequest(f"--expires: {text} is in the past")
    return int(moment.timestamp())


def _iso(timestamp: int | None) -> str | None:
    return None if timestamp is None else datetime.fromtimestamp(timestamp, UTC).isoformat()


def _date(timestamp: int) -> str:
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d")
