"""What may stand in the envelope of ``POST /v1/jobs`` beside the request itself, and what it means.

The request's own bytes are not here: they are never parsed into a model, only looked at (``submission``).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from relay.core.errors import InvalidRequest
from relay.core.job import OnDisconnect, Priority
from relay.core.webhook_target import check
from relay.ingress.submission import Terms

# Bodies are kept in Redis until they are sent.
RUN_AT_MAX_S = 7 * 86_400
# OpenAI's limits for metadata.
PAIRS_MAX, KEY_CHARS_MAX, VALUE_CHARS_MAX = 16, 64, 512
URL_CHARS_MAX = 2048

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _moment(value: object) -> datetime:
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise ValueError("Input should be a time as RFC 3339 has it, such as 2027-01-31T12:00:00Z")
    return datetime.fromisoformat(value.upper())


Moment = Annotated[datetime, BeforeValidator(_moment)]
Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=KEY_CHARS_MAX)],
        Annotated[str, StringConstraints(max_length=VALUE_CHARS_MAX)],
    ],
    Field(max_length=PAIRS_MAX),
]


class NewJob(BaseModel):
    """A request, and what the relay is to do with it."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    endpoint: Literal[
        "/v1/messages",
        "/v1/chat/completions",
        "/v1/messages/count_tokens",
        "/messages",
        "/chat/completions",
        "/messages/count_tokens",
    ] = Field(description="Where the request would have been sent.")
    metadata: Metadata = Field({}, description="Up to 16 pairs of your own, by which jobs can be listed.")
    priority: Priority = "normal"
    run_at: Moment | None = Field(None, description="When to run it, within a week; a time that has passed means now.")
    expires_in: Annotated[int, Field(strict=True, ge=1)] | None = Field(
        None,
        description="Seconds it may wait for a worker, from when it may run; then it fails with the code `expired`.",
    )
    on_disconnect: OnDisconnect = Field("finish", description="Whether it is finished when nobody reads it.")
    webhook: Annotated[str, StringConstraints(max_length=URL_CHARS_MAX)] | None = Field(
        None, description="https URL that is told when the job has ended, as Standard Webhooks has it."
    )
    cache: Literal["auto", "off"] | None = Field(
        None, description="Breakpoints where the request sets none, or none of ours; as the header `x-relay-cache`."
    )
    log: str | None = Field(
        None,
        description="`content`: the ledger keeps the request and its answer, with `; ttl=<seconds>` for so long; "
        "`usage`: neither. As the header `x-relay-log`.",
        examples=["content; ttl=86400"],
    )

    @classmethod
    def of(cls, options: dict[str, Any]) -> NewJob:
        """Raises ``InvalidRequest`` naming the member that is wrong."""
        try:
            return cls.model_validate(options)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"]))[:200]
            message = first["msg"].removeprefix("Value error, ")
            raise InvalidRequest(f"{where}: {message}.", param=where) from error

    def terms(self, now_ms: int, wait_max_s: float, *, allow_private: bool = False) -> Terms:
        """Raises ``InvalidRequest`` for times that are too far away, and for a webhook that may not go there."""
        if self.webhook is not None:
            _check_target(self.webhook, allow_private)
        run_at_ms = unix_ms(self.run_at) if self.run_at else 0
        if run_at_ms > now_ms + RUN_AT_MAX_S * 1000:
            latest = datetime.fromtimestamp(now_ms // 1000 + RUN_AT_MAX_S, UTC).isoformat()
            raise InvalidRequest(f"run_at: {self.run_at} is too far away; the latest is {latest}.", param="run_at")
        if (self.expires_in or 0) > wait_max_s:
            raise InvalidRequest(
                f"expires_in: {self.expires_in} is too long; a job waits for a worker {wait_max_s:.0f} s at most.",
                param="expires_in",
            )
        return Terms(
            on_disconnect=self.on_disconnect,
            metadata=self.metadata,
            priority=self.priority,
            run_at_ms=run_at_ms if run_at_ms > now_ms else 0,
            expires_in_s=self.expires_in or 0,
            webhook=self.webhook or "",
        )


def _check_target(webhook: str, allow_private: bool) -> None:
    try:
        check(webhook, allow_private=allow_private)
    except ValueError as error:
        raise InvalidRequest(f"webhook: {error}.", param="webhook") from error


def unix_ms(moment: datetime) -> int:
    """Unix milliseconds, whatever the zone it was given in."""
    return int((moment - _EPOCH).total_seconds() * 1000)


_EPOCH = datetime.fromtimestamp(0, UTC)
