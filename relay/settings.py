"""Everything an operator can set, in one frozen model.

Flags over environment over relay.toml. Made once per process by its entry point and handed down; nothing else reads
the environment. It resolves no provider secret and opens no connection. README's table is made from it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from relay import environment
from relay.core.origins import origins_of
from relay.core.routing import Router
from relay.provider import BASE_URLS, Provider, Seconds
from relay.reference import SettingsError, clean

__all__ = ["Provider", "Settings", "SettingsError", "load", "markdown_table"]

Retention = Annotated[float, Field(gt=0, le=90 * 86_400)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


def _cores() -> int:
    """The cores this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class Settings(BaseSettings):
    """One process's settings. Make it with ``load``, which turns what pydantic says into one clear line."""

    model_config = SettingsConfigDict(
        env_prefix=environment.PREFIX,
        env_ignore_empty=True,  # compose files pass variables on that nobody set
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        validate_default=True,
    )

    host: str = Field("127.0.0.1", min_length=1, description="Address the HTTP server listens on.")
    port: Port = Field(8080, description="Port the HTTP server listens on; 0 takes a free one.")
    console_port: Port = Field(
        8081, description="Port of the console; `relay up` takes the one after its own, or a free one, if not set."
    )
    metrics_port: Port = Field(
        0, description="Port at which a worker shows `/metrics`, or the first free one behind it; 0: none."
    )
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        repr=False,
        description="Redis 7.0 or Valkey 7.2 at least; `relay up` starts one of its own when this is not set.",
    )
    data_dir: Path = Field(
        Path(".relay"), description="What `relay up` keeps: its Redis' append-only file, the first API key."
    )
    workers: int = Field(default_factory=_cores, ge=1, le=256, description="Worker processes of `relay up`.")
    concurrency: int = Field(1000, ge=1, le=20_000, description="Jobs one worker process runs at a time.")
    api_key: SecretStr | None = Field(None, description="A first API key, given instead of made.")
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = Field(
        "info", description="Least level that is logged."
    )
    partition: str = Field(
        "0", pattern=r"^[a-z0-9]{1,16}$", description="The partition this process serves; part of every job id."
    )
    queue: Name = Field("relay", description="Name of the RQ queue.")
    queue_limit: int = Field(
        50_000, ge=1, le=10_000_000, description="Jobs that may wait; beyond it new ones get 429 with Retry-After."
    )
    tenant_queue_limit: int = Field(
        10_000, ge=1, le=10_000_000, description="Jobs of one tenant that may wait; beyond it new ones get 429."
    )
    # One value in Redis may have 512 MiB; half of that leaves room for everything around it.
    body_limit_bytes: int = Field(
        32 * 2**20, ge=1024, le=256 * 2**20, description="Largest request body; beyond it 413."
    )
    lease_s: Seconds = Field(15, description="How long a worker owns a job without a sign of life.")
    max_claims: int = Field(3, ge=1, le=100, description="Workers that may lose a job before it is given up.")
    drain_s: Seconds = Field(30, description="After SIGTERM, how long running streams may go on.")
    connect_s: Seconds = Field(5, description="Longest wait for a connection to a provider.")
    first_byte_s: Seconds = Field(120, description="Longest wait for the first byte of a provider's answer.")
    idle_s: Seconds = Field(60, description="Longest pause between two events of a provider's stream, pings aside.")
    total_s: Seconds = Field(900, description="Longest provider call.")
    retries: int = Field(
        2, ge=0, le=10, description="How often a call that failed before any output is made again, for each target."
    )
    retry_s: Seconds = Field(60, description="How long after a target's first call another one may begin.")
    open_wait_s: Seconds = Field(10, description="How long a stream's 200 waits for the provider's own status.")
    heartbeat_s: Seconds = Field(15, description="Silence on an open stream after which a comment is sent.")
    abandon_grace_s: Seconds = Field(
        10, description="How long a job outlives its last reader if it is to be cancelled."
    )
    flush_ms: float = Field(5, ge=0, le=1000, description="Least time between two flushes of a worker's events.")
    auto_cache: str = Field(
        "",
        description="Models (names or globs, with commas between) whose requests get breakpoints if they set none.",
    )
    cors_origins: str = Field(
        "",
        description="Origins, with commas between, whose pages may use the relay from a browser, "
        "such as `https://app.example.com`.",
    )
    webhook_allow_private: bool = Field(
        False, description="Let webhooks go to private addresses, over plain http and to any port, too."
    )
    webhook_timeout_s: Seconds = Field(10, description="Longest delivery of a webhook.")
    webhook_retry_s: Seconds = Field(
        5, description="Pause after the first delivery of a webhook that failed; it grows fourfold, up to 4 h."
    )
    webhook_give_up_s: Retention = Field(86_400, description="How long a webhook that fails is tried again.")
    pending_ttl_s: Retention = Field(86_400, description="How long a job may wait for a worker before it is dropped.")
    log_ttl_s: Retention = Field(3600, description="How long a job's events can be replayed after its end.")
    result_ttl_s: Retention = Field(86_400, description="How long a job and its result are kept after its end.")
    dead_ttl_s: Retention = Field(604_800, description="How long jobs that failed for good are kept for replay.")
    # Redis holds it all: 10,000 requests of 1 KB took 55 MB of it at most.
    batch_limit_bytes: int = Field(
        100 * 2**20, ge=1024, le=1024 * 2**20, description="Largest batch, and largest uploaded file; beyond it 413."
    )
    batch_limit_items: int = Field(50_000, ge=1, le=1_000_000, description="Most requests of a batch.")
    batch_window_s: Retention = Field(
        86_400, description="How long a batch may take: a request of it that has not begun by then expires."
    )
    batch_ttl_s: Retention = Field(
        604_800, description="How long a batch and its results are kept after its end, and an uploaded file."
    )
    usage_maxlen: int = Field(1_000_000, ge=1000, le=100_000_000, description="Records kept in the usage stream.")
    usage_ttl_s: Retention = Field(
        3600, description="How long a record stays in the usage stream after the ledger has stored it, about."
    )
    fingerprint_ttl_s: Retention = Field(
        86_400,
        gt=3600,
        description="How long the ledger keeps fingerprints of prompts, to tell why a cache did not hit; "
        "longer than the longest time in a cache, an hour.",
    )
    content_ttl_s: Retention = Field(
        2_592_000, description="How long content is kept where a call asked for it; also the longest it may ask for."
    )
    content_limit_bytes: int = Field(
        2**20, ge=1024, le=256 * 2**20, description="Largest request, and largest answer, whose content is kept."
    )
    ledger_url: str | None = Field(
        None,
        repr=False,
        description="The ledger's database, `postgresql://…` or `sqlite:///…`; else SQLite in the data directory.",
    )
    prices: Path | None = Field(None, description="TOML file with prices of your own, by provider and model.")
    sandbox_port: Port = Field(
        8089, description="Port of the sandbox provider, always on 127.0.0.1; `relay up` takes a free one if not set."
    )
    sandbox_gap_ms: float = Field(20, ge=0, le=60_000, description="Time between two events of a sandbox stream.")
    sandbox_key: SecretStr = Field(
        SecretStr("sandbox"), description="Key the sandbox asks for; `relay up` makes a new one each time if not set."
    )
    # Last, because they take what they leave out from the settings above.
    providers: dict[str, Provider] = {}
    models: dict[str, tuple[str, ...]] = {}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (
            init_settings,
            env_settings,
            environment.SecretFiles(settings_cls),
            environment.ProviderVariables(settings_cls),
            environment.Toml(settings_cls),
        )

    @field_validator("api_key", "sandbox_key", mode="after")
    @classmethod
    def _usable_key(cls, key: SecretStr | None) -> SecretStr | None:
        return key and SecretStr(clean(key.get_secret_value(), where="the key"))

    @field_validator("cors_origins", mode="after")
    @classmethod
    def _origins(cls, text: str) -> str:
        origins_of(text)
        return text

    @field_validator("redis_url", mode="after")
    @classmethod
    def _redis_url(cls, url: str) -> str:
        if urlsplit(url).scheme not in ("redis", "rediss", "unix"):
            raise SettingsError("must be redis://…, rediss://… or unix://… (the value is not shown)")
        return url

    @field_validator("data_dir", mode="after")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return path.expanduser().absolute()

    @field_validator("providers", mode="before")
    @classmethod
    def _complete(cls, tables: Any, info: ValidationInfo) -> Any:
        """Give each table its name and the limits it leaves to the relay; with no table at all, the sandbox's."""
        limits = {name: info.data.get(name, 1) for name in ("connect_s", "first_byte_s", "idle_s", "total_s")}
        if not isinstance(tables, Mapping):
            return tables
        if tables:
            return {
                name: limits | {"name": name} | dict(table) if isinstance(table, Mapping) else table
                for name, table in tables.items()
            }
        url, key = f"http://127.0.0.1:{info.data.get('sandbox_port')}", info.data.get("sandbox_key")
        return {
            name: Provider(name=name, base_url=url, **limits).standing_in(key or SecretStr("")) for name in BASE_URLS
        }

    @field_validator("providers", mode="after")
    @classmethod
    def _not_ourselves(cls, providers: dict[str, Provider], info: ValidationInfo) -> dict[str, Provider]:
        """Refuse a provider that is this very relay: the SDKs' variable for us is the one we read for them."""
        for name, provider in providers.items():
            url = urlsplit(provider.base_url)
            here = url.hostname in ("localhost", "127.0.0.1", "::1") and url.port == info.data.get("port")
            if here and not provider.is_sandbox:
                raise SettingsError(f"{name}.base_url {provider.base_url} is this relay itself")
        return providers

    @field_validator("models", mode="before")
    @classmethod
    def _lists(cls, aliases: Any) -> Any:
        if not isinstance(aliases, Mapping):
            return aliases
        return {alias: (target,) if isinstance(target, str) else target for alias, target in aliases.items()}

    @field_validator("models", mode="after")
    @classmethod
    def _resolvable(cls, aliases: dict[str, tuple[str, ...]], info: ValidationInfo) -> dict[str, tuple[str, ...]]:
        if "providers" in info.data:
            _router(info.data["providers"], aliases)
        return aliases

    @property
    def sandbox(self) -> bool:
        """True when no provider is configured and the sandbox stands in."""
        return any(provider.is_sandbox for provider in self.providers.values())

    def check_secrets(self) -> None:
        """Find out at the start, not at the first call, that a provider's secret is missing or unusable."""
        for provider in self.providers.values():
            try:
                provider.secret()
                provider.static_headers()
            except SettingsError as error:
                raise SettingsError(f"provider {provider.name}: {error}") from None

    def router(self) -> Router:
        """Which provider serves which model."""
        return _router(self.providers, self.models)


def load(flags: Mapping[str, Any] | None = None) -> Settings:
    """The settings of this process. Raises ``SettingsError``."""
    environment.check_names(os.environ, Settings.model_fields)
    flags = flags or {}
    try:
        return Settings(**flags)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        raise SettingsError("; ".join(_line(problem, flags) for problem in found)) from None


def _router(providers: Mapping[str, Provider], aliases: Mapping[str, tuple[str, ...]]) -> Router:
    return Router({name: provider.served for name, provider in providers.items()}, aliases)


def _line(problem: ErrorDetails, flags: Mapping[str, Any]) -> str:
    """``RELAY_PORT: …, not 99999``: the setting as the operator wrote it, the rule, the value unless secret."""
    path = [str(part) for part in problem["loc"]]
    where = _where(path, flags)
    if problem["type"] == "extra_forbidden":
        known = Settings.model_fields if len(path) == 1 else Provider.model_fields
        return f"{where}: there is no such setting{environment.did_you_mean(path[-1], known)}"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    value = problem.get("input")
    # Our own rules word their values themselves, with care for what may be secret in them.
    shown = problem["type"] != "value_error" and path[0] not in environment.SECRETS and "headers" not in path
    return (
        f"{where}: {message}, not {str(value)[:60]!r}"
        if shown and isinstance(value, str | int | float)
        else f"{where}: {message}"
    )


def _where(path: list[str], flags: Mapping[str, Any]) -> str:
    name = path[0]
    if name in flags:
        return f"--{name.replace('_', '-')}"
    for variable in (environment.variable(name), f"{environment.variable(name)}_FILE"):
        if os.environ.get(variable):
            return variable
    if name == "providers" and path[1:2] and path[-1] in ("api_key", "base_url"):
        variable = f"{path[1]}_{path[-1]}".upper()
        if os.environ.get(variable):
            return variable
    return f"{environment.config_path() or 'settings'}: {'.'.join(path)}"


# -- the README's table --------------------------------------------------------------------------------------------

_SHOWN = {"workers": "one per core", "body_limit_bytes": "33554432 (32 MiB)", "api_key": "made by `relay up`"}

_PROVIDER_VARIABLES = (
    (
        "ANTHROPIC_API_KEY, OPENAI_API_KEY",
        "Keys of the providers `anthropic` and `openai`; each has a `…_FILE` variant.",
    ),
    ("ANTHROPIC_BASE_URL, OPENAI_BASE_URL", "Their addresses; one alone configures a server that needs no key."),
    ("RELAY_CONFIG", "Path of `relay.toml`; `./relay.toml` is read if there is one."),
)


def markdown_table() -> str:
    """Every setting with its default and meaning."""
    rows = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        if name in environment.TABLES:
            continue
        variable = f"`{environment.variable(name)}`" + (" *" if name in environment.SECRETS else "")
        rows.append(f"| {variable} | {_default(name)} | {field.description} |")
    for names, meaning in _PROVIDER_VARIABLES:
        rows.append(f"| {', '.join(f'`{name}`' for name in names.split(', '))} | – | {meaning} |")
    return "\n".join([*rows, "", r"\* has a `…_FILE` variant that names a file with the value."]) + "\n"


def _default(name: str) -> str:
    default = Settings.model_fields[name].default
    if name in _SHOWN:
        return _SHOWN[name]
    return "–" if default is None or isinstance(default, SecretStr) else f"`{default}`"
