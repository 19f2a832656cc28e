"""One configured provider: its dialect, its address, what it serves, and where its key is to be found.

Part of the settings of every process, so it holds references to secrets only; ``secret`` and ``static_headers``
resolve them and are for workers. It builds no request and knows no HTTP library.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    model_validator,
)

from relay.core.capabilities import Capability
from relay.core.job import Dialect, Job, Target
from relay.core.outbound import Way
from relay.core.routing import Served
from relay.reference import SettingsError, check, clean, is_reference, resolve, variable_of

# Providers are allowed to be patient, but not for ever: beyond an hour a lost connection is the likelier story.
Seconds = Annotated[float, Field(gt=0, le=3600)]

BASE_URLS: dict[Dialect, str] = {"anthropic": "https://api.anthropic.com", "openai": "https://api.openai.com"}
MODELS: dict[Dialect, tuple[str, ...]] = {
    "anthropic": ("claude-*",),
    "openai": ("gpt-*", "o1*", "o3*", "o4*", "chatgpt-*"),
}
# Anthropic reports cached tokens beside input_tokens, OpenAI inside them.
SEMANTICS: dict[Dialect, Literal["exclusive", "inclusive"]] = {"anthropic": "exclusive", "openai": "inclusive"}

# Anthropic's own member, which OpenAI refuses.
CAPABILITIES: dict[Dialect, Capability] = {"anthropic": "keep", "openai": "strip"}

_TOKEN = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_OURS = frozenset({"accept-encoding", "connection", "content-length", "content-type", "host", "transfer-encoding"})
_SECRET = frozenset({"api-key", "authorization", "cookie", "proxy-authorization", "x-api-key", "x-goog-api-key"})


def _base_url(text: str) -> str:
    """The URL up to and with its version: ``https://host`` and ``https://host/v1/`` are the same provider."""
    text = text.strip().rstrip("/")
    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError:
        raise SettingsError("is not a URL") from None
    if "@" in url.netloc:
        raise SettingsError("must not hold credentials; give the key as a reference (the value is not shown)")
    if url.query or url.fragment:
        raise SettingsError("must not have a query or a fragment (the value is not shown)")
    if url.scheme not in ("http", "https") or not url.hostname:
        raise SettingsError(f"must be http://… or https://…, not {text[:100]!r}")
    # Other OpenAI-style servers have the version elsewhere in the path (/v1beta/openai); theirs is kept as it stands.
    return text if re.search(r"/v\d", url.path) else f"{text}/v1"


def _headers(headers: dict[str, str]) -> dict[str, str]:
    checked = {}
    for name, value in headers.items():
        name = name.lower()
        if not _TOKEN.fullmatch(name):
            raise SettingsError(f"{name[:40]!r} is not a header name")
        if name in _OURS:
            raise SettingsError(f"{name} is set by the relay itself")
        if name in _SECRET:
            check(value)
        checked[name] = value if is_reference(value) else clean(value, where=name)
    return checked


def _one_or_more(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class Provider(BaseModel):
    """``[providers.NAME]`` of relay.toml, or a provider made of ANTHROPIC_… or OPENAI_… variables."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,31}$")
    dialect: Dialect = Field(description="`anthropic` or `openai`; a provider called after one speaks it.")
    base_url: Annotated[str, AfterValidator(_base_url)] = Field(description="Its address, with or without `/v1`.")
    api_key: Annotated[str, AfterValidator(check)] | None = Field(
        default=None,
        repr=False,
        description="`env:VARIABLE` or `file:PATH`, never the key itself; none for a server without.",
    )
    models: Annotated[tuple[str, ...], BeforeValidator(_one_or_more)] = Field(
        default=(), description="Names or globs it serves; by default those of its dialect."
    )
    headers: Annotated[dict[str, str], AfterValidator(_headers)] = Field(
        default={}, repr=False, description="Sent with every call; values may be references."
    )
    cache_control: Capability = Field(
        description="What it does with breakpoints: `keep`, `strip`, or OpenAI's own `explicit_breakpoints`."
    )
    stream_usage: bool = Field(default=True, description="openai: streams may be asked for their usage.")
    reasoning: Literal["drop", "extension"] = Field(
        default="drop", description="openai: whether `reasoning_content` and `thinking_blocks` may be sent back to it."
    )
    default_max_tokens: int = Field(
        default=4096,
        gt=0,
        le=10_000_000,
        description="anthropic: `max_tokens` for a translated request without a limit.",
    )
    role_system: Literal["hoist", "native"] = Field(
        default="hoist", description="anthropic: `native` where it takes system messages amid the others."
    )
    refuses_disabled_thinking: bool = Field(
        default=False, description="anthropic: its models refuse `thinking: disabled`."
    )
    anthropic_version: str = Field(
        default="2023-06-01", pattern=r"^\d{4}-\d\d-\d\d$", description="anthropic: for clients that name none."
    )
    input_tokens_semantics: Literal["exclusive", "inclusive"] = Field(
        description="anthropic: `inclusive` for a server whose `input_tokens` hold the cached ones."
    )
    connect_s: Seconds = Field(description="As `RELAY_CONNECT_S`, for this provider.")
    first_byte_s: Seconds = Field(description="As `RELAY_FIRST_BYTE_S`.")
    idle_s: Seconds = Field(description="As `RELAY_IDLE_S`.")
    total_s: Seconds = Field(description="As `RELAY_TOTAL_S`.")
    concurrency: int | None = Field(
        default=None, gt=0, le=100_000, description="Calls under way at a time; others wait in the queue."
    )
    requests_per_minute: int | None = Field(
        default=None, gt=0, le=10**9, description="Calls begun per minute, likewise."
    )
    tokens_per_minute: int | None = Field(
        default=None, gt=0, le=10**9, description="Tokens per minute, those read from the cache left out, likewise."
    )

    _sandbox_key: SecretStr | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _presets(cls, values: object) -> object:
        """What follows from the dialect; a provider called after a dialect speaks it unless it says otherwise."""
        if not isinstance(values, dict):
            return values
        dialect = values.get("dialect", values.get("name"))
        if dialect not in BASE_URLS:
            return values
        preset = {
            "dialect": dialect,
            "base_url": BASE_URLS[dialect],
            "input_tokens_semantics": SEMANTICS[dialect],
            "cache_control": CAPABILITIES[dialect],
        }
        return preset | values

    @model_validator(mode="after")
    def _own_breakpoints(self) -> Provider:
        if self.dialect == "anthropic" and self.cache_control == "explicit_breakpoints":
            raise SettingsError("cache_control = 'explicit_breakpoints' is for providers of the openai dialect")
        return self

    def way(self, job: Job, target: Target) -> Way:
        """How this provider takes a job's request.  The version is the client's own where it speaks the dialect."""
        is_native = job.surface == self.dialect
        return Way(
            surface=job.surface,
            dialect=self.dialect,
            model=target.model,
            cache_control=self.cache_control,
            auto_cache=job.auto_cache,
            stream_usage=job.stream_usage if is_native and self.stream_usage else "",
            digests=bool(job.prefixes),
            anthropic_version=self.anthropic_version,
            role_system=self.role_system,
            default_max_tokens=self.default_max_tokens,
            refuses_disabled_thinking=self.refuses_disabled_thinking,
            reasoning=self.reasoning,
        )

    def secret(self) -> SecretStr | None:
        """The provider's key, read now; None for a server without keys. Raises ``SettingsError``."""
        if self._sandbox_key is not None:
            return self._sandbox_key
        return SecretStr(resolve(self.api_key)) if self.api_key else None

    def static_headers(self) -> dict[str, str]:
        """The configured headers with their references resolved. Raises ``SettingsError``."""
        return {name: resolve(text) if is_reference(text) else text for name, text in self.headers.items()}

    def url(self, path: str) -> str:
        """The address of ``path``, as in ``messages`` or ``chat/completions``."""
        return f"{self.base_url}/{path}"

    @property
    def served(self) -> Served:
        """What the router needs to know."""
        return Served(
            self.dialect, self.models or MODELS[self.dialect], any_prefixed=not self.models and not self.is_sandbox
        )

    @property
    def is_sandbox(self) -> bool:
        return self._sandbox_key is not None

    @property
    def secret_variables(self) -> frozenset[str]:
        """The environment variables that hold this provider's secrets, for processes that must not see them."""
        references = [self.api_key or "", *self.headers.values()]
        return frozenset(filter(None, map(variable_of, references)))

    def standing_in(self, key: SecretStr) -> Provider:
        """This provider, marked as the sandbox, with its key."""
        twin = self.model_copy()
        twin._sandbox_key = key
        return twin


# -- the README's table --------------------------------------------------------------------------------------------

# Those that follow from another one, said in words.
_DEFAULTS = {
    "dialect": "the name",
    "base_url": "the vendor's",
    "cache_control": "anthropic `keep`, openai `strip`",
    "input_tokens_semantics": "`exclusive`",
    "models": "`claude-*`, `gpt-*` …",
    "headers": "–",
}


def markdown_table() -> str:
    """Every member of ``[providers.NAME]`` with its default and meaning."""
    rows = ["| member | default | meaning |", "| --- | --- | --- |"]
    for name, field in Provider.model_fields.items():
        if name != "name":
            default = field.default
            known = "–" if default is None or field.is_required() else f"`{str(default).lower()}`"
            rows.append(f"| `{name}` | {_DEFAULTS.get(name, known)} | {field.description} |")
    return "\n".join(rows) + "\n"
