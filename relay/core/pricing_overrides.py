"""An operator's own prices: the TOML text of ``RELAY_PRICES`` as a list of overrides.

    [[price]]
    provider = "eu-*"            # a name or a glob; all if left out
    model = "claude-*"
    like = "anthropic"           # costs what this provider publishes

    [[price]]
    provider = "anthropic"
    model = "claude-sonnet-4-6"
    since = 2026-11-01           # UTC; from always if left out
    input = 2.7                  # dollars per million tokens
    output = 13.5
    cache_read = 0.27            # these three cost what input costs if left out
    cache_write_5m = 3.375
    cache_write_1h = 5.4

The first that fits counts, so the newest and the most special stand first. The ledger's start reads the file.
"""

from __future__ import annotations

import tomllib
from datetime import date
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

# The dearest published price is 600 dollars per million; beyond this somebody has mistaken the unit.
_DEAREST = 10_000

Dollars = Annotated[Decimal, Field(ge=0, le=_DEAREST)]


class Override(BaseModel):
    """One ``[[price]]``: either ``like`` another provider or rates in dollars per million tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    provider: str = Field("*", min_length=1)
    model: str = Field("*", min_length=1)
    since: date | None = None
    like: str | None = Field(None, min_length=1)
    input: Dollars | None = None
    output: Dollars | None = None
    cache_read: Dollars | None = None
    cache_write_5m: Dollars | None = None
    cache_write_1h: Dollars | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Override:
        rates = {"input", "output", "cache_read", "cache_write_5m", "cache_write_1h"} & self.model_fields_set
        if self.like is not None and rates:
            raise ValueError(f"has both like and {min(rates)}; it takes one or the other")
        if self.like is None and not {"input", "output"} <= rates:
            raise ValueError("needs like, or input and output")
        return self

    def applies(self, provider: str, model: str, day: date) -> bool:
        started = self.since is None or day >= self.since
        return started and fnmatchcase(provider, self.provider) and fnmatchcase(model, self.model)


def parse(text: str) -> tuple[Override, ...]:
    """The overrides in a file's text, in its order. Raises ``ValueError`` with one clear line."""
    try:
        tables: dict[str, Any] = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"is no TOML: {error}") from None
    entries = tables.pop("price", [])
    if tables:
        raise ValueError(f"has {min(tables)!r}; there is only [[price]]")
    if not isinstance(entries, list):
        raise ValueError("has [price]; write [[price]]")
    return tuple(_override(number, entry) for number, entry in enumerate(entries, 1))


def _override(number: int, entry: Any) -> Override:
    try:
        return Override.model_validate(entry)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        member = ".".join(str(part) for part in problem["loc"])
        said = problem["msg"].removeprefix("Value error, ")
        value = problem.get("input")
        shown = f", not {str(value)[:60]!r}" if isinstance(value, str | int | float | Decimal) else ""
        raise ValueError(f"[[price]] number {number}: {f'{member}: ' if member else ''}{said}{shown}") from None
