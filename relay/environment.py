"""Where settings come from besides flags: RELAY_… variables, ``…_FILE`` variants, provider variables, relay.toml.

Knows names and sources, not what a value means; ``relay.settings`` puts them in order. A name nobody knows is an
error here, because a mistyped limit that silently keeps its default is found out on the worst day.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, TomlConfigSettingsSource

from relay.provider import BASE_URLS
from relay.reference import SettingsError, clean, read

PREFIX = "RELAY_"

# In relay.toml only: a table does not fit into a variable.
TABLES = frozenset({"providers", "models"})

# May have a …_FILE variant, and are shown to nobody. The URLs are here because they may hold a password.
SECRETS = frozenset({"api_key", "sandbox_key", "redis_url", "ledger_url"})


def variable(field: str) -> str:
    return PREFIX + field.upper()


def check_names(environ: Mapping[str, str], fields: Iterable[str]) -> None:
    """Refuse RELAY_… variables that are no setting. Raises ``SettingsError``."""
    settable = set(fields) - TABLES
    known = {f"{PREFIX}CONFIG"} | {variable(name) for name in settable}
    known |= {f"{variable(name)}_FILE" for name in SECRETS & settable}
    for name in sorted(environ):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            raise SettingsError(f"{name}: there is no such setting{did_you_mean(name.upper(), known)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def config_path() -> Path | None:
    """The relay.toml to read: RELAY_CONFIG, else the one in the working directory, if any."""
    if named := os.environ.get(f"{PREFIX}CONFIG"):
        path = Path(named).expanduser()
        if not path.is_file():
            raise SettingsError(f"{PREFIX}CONFIG: there is no file {named}")
        return path
    path = Path("relay.toml")
    return path if path.is_file() else None


class Toml(TomlConfigSettingsSource):
    """relay.toml, if there is one."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        path = config_path()
        try:
            super().__init__(settings_cls, toml_file=path)
        except (ValueError, OSError) as error:
            raise SettingsError(f"{path}: {error}") from None


class SecretFiles(PydanticBaseSettingsSource):
    """``RELAY_API_KEY_FILE`` and its like: the value is what the file holds."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        path = _one_of(variable(field_name))
        return (clean(read(Path(path)), where=path) if path else None), field_name, False

    def __call__(self) -> dict[str, Any]:
        fields = self.settings_cls.model_fields
        values = {name: self.get_field_value(fields[name], name)[0] for name in sorted(SECRETS & fields.keys())}
        return {name: value for name, value in values.items() if value is not None}


class ProviderVariables(PydanticBaseSettingsSource):
    """ANTHROPIC_API_KEY, ANTHROPIC_BASE_URL, … as provider tables. A base URL alone is a server without keys."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self()["providers"], field_name, True

    def __call__(self) -> dict[str, Any]:
        tables: dict[str, dict[str, str]] = {}
        for name in BASE_URLS:
            key, url = key_variable(name), base_url_variable(name)
            table: dict[str, str] = {}
            if path := _one_of(key):
                table["api_key"] = f"file:{path}"
            elif os.environ.get(key):
                table["api_key"] = f"env:{key}"
            if os.environ.get(url):
                table["base_url"] = os.environ[url]
            if table:
                tables[name] = table
        return {"providers": tables} if tables else {}


def key_variable(provider: str) -> str:
    return f"{provider.upper()}_API_KEY"


def base_url_variable(provider: str) -> str:
    return f"{provider.upper()}_BASE_URL"


def _one_of(name: str) -> str | None:
    """The path in ``NAME_FILE``, unless ``NAME`` is set as well: then nobody could say which one counts."""
    path = os.environ.get(f"{name}_FILE")
    if path and os.environ.get(name):
        raise SettingsError(f"{name} and {name}_FILE are both set; unset one of them")
    return path or None
