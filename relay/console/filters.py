"""Which calls somebody asks about: the query of a URL, made a ``Filter`` of the ledger.

The usage API and the dashboard's pages read it alike. A name nobody knows and a value that cannot be are errors: a
mistyped filter must not look like an empty one.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from relay.core.errors import InvalidRequest
from relay.ledger.queries import Filter
from relay.ledger.reasons import REASONS

MOST_VALUES = 50

_TIME = re.compile(r"\d{4}-\d\d-\d\d([Tt ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?([Zz]|[+ -]\d\d:\d\d)?)?", re.ASCII)


def _moment(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not _TIME.fullmatch(value):
        raise ValueError("must be a date or time such as 2027-01-31 or 2027-01-31T12:00:00Z")
    # A "+" that was not escaped comes out of a query as a space.
    moment = datetime.fromisoformat(re.sub(r" (?=\d\d:\d\d$)", "+", value.upper(), count=1) if value[10:] else value)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _reason(code: str) -> str:
    if code not in REASONS:
        raise ValueError(f"must be one of {', '.join(REASONS)}")
    return code


Moment = Annotated[datetime, BeforeValidator(_moment)]
# A database takes no NUL; the ledger cuts names at 200 characters.
Value = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
Values = Annotated[list[Value], Field(max_length=MOST_VALUES)]
Cache = Literal["hit", "partial", "write", "none", "unknown"]
Reason = Annotated[str, AfterValidator(_reason)]


class UsageFilter(BaseModel):
    """A filter may have several values (``model=a&model=b``); a call fits that has one of them."""

    model_config = ConfigDict(extra="forbid")

    since: Moment | None = Field(None, description="From this time on: a date or time, UTC if it names no zone.")
    until: Moment | None = Field(None, description="Before this time.")
    tenant: Value | None = Field(None, description="Of one tenant; others than the key's own for admins only.")
    key_id: Values = Field([], description="Id of the API key.")
    app: Values = Field([], description="`X-Title`, else the host of the `Referer`, else the key's name.")
    surface: Annotated[list[Literal["anthropic", "openai"]], Field(max_length=2)] = []
    endpoint: Values = Field([], description="`messages`, `chat_completions` or `count_tokens`.")
    provider: Values = []
    model: Values = Field([], description="As the client wrote it.")
    target: Values = Field([], description="As the provider was asked for it.")
    outcome: Values = Field([], description="`completed`, `error`, `cancelled`, …")
    cache: Annotated[list[Cache], Field(max_length=5)] = Field(
        [], description="What the prompt cache did: read (`hit`), read and written (`partial`), written (`write`)."
    )
    cache_reason: Annotated[list[Reason], Field(max_length=len(REASONS))] = Field(
        [], description=f"Why the prompt cache did not do better: {', '.join(f'`{code}`' for code in REASONS)}."
    )
    job: Value | None = Field(None, description="The calls of one job.")
    user: Value | None = Field(None, description="The application's own customer.")

    @model_validator(mode="after")
    def _in_order(self) -> UsageFilter:
        if self.since and self.until and self.since >= self.until:
            raise ValueError(f"until: {self.until.isoformat()} is not after since, {self.since.isoformat()}")
        return self

    def wanted(self, tenant: str | None) -> Filter:
        """For the ledger; ``tenant`` is the one they may ask about, None for all."""
        chosen: dict[str, Any] = {name: getattr(self, name) for name in MANY}
        return Filter(
            tenant=tenant,
            since_ms=unix_ms(self.since),
            until_ms=unix_ms(self.until),
            any_of={name: values for name, values in chosen.items() if values},
            job=self.job,
            user=self.user,
        )


MANY = ("key_id", "app", "surface", "endpoint", "provider", "model", "target", "outcome", "cache", "cache_reason")


def unix_ms(moment: datetime | None) -> int | None:
    return None if moment is None else int((moment - _EPOCH).total_seconds() * 1000)


_EPOCH = datetime.fromtimestamp(0, UTC)


def refusal(errors: list[Any]) -> InvalidRequest:
    """What pydantic found, in one line that names the filter and the value."""
    first = errors[0]
    path = [str(part) for part in first["loc"] if part not in ("query", "path", "body")]
    where = path[0] if path else ""
    if first["type"] == "extra_forbidden":
        return InvalidRequest(f"{where[:80]}: there is no such filter", param=where[:80])
    message, value = first["msg"].removeprefix("Value error, "), first.get("input")
    if isinstance(value, str | int | float):
        message += f", not {str(value)[:80]!r}"
    return InvalidRequest(f"{where}: {message}" if where else message, param=where or None)
