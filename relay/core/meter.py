"""The meter: what a worker asks about an answer while its bytes pass through.

Each dialect has one (``anthropic.py``, ``openai.py``) and both keep to the ``Meter`` protocol, so the worker has no
dialect in its conditions.  A meter only reads: it never changes or filters an event, and no input makes it raise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, TypedDict

from relay.core.sse import Event, parse_json
from relay.core.usage import Usage

Outcome = Literal["completed", "error", "truncated"]

# "inclusive": a compatible server whose Anthropic ``input_tokens`` already holds the cached tokens.  Its numbers do not
# give it away, so it is a setting of the upstream.
InputTokensSemantics = Literal["exclusive", "inclusive"]

# Ids, model names and error types go into every usage record, so a provider must not decide their size.  The longest in
# the fixtures has 27 characters.
LONGEST_NAME = 256
# The record's copy of an error text; the client gets the whole of it.
LONGEST_MESSAGE = 4096


class ProviderError(TypedDict):
    """A provider's error as its events tell it, whatever shape they have."""

    type: str | None
    message: str
    code: str | None


class Meter(Protocol):
    """Fed every event of a stream (``see``) or one whole body (``see_body``), it answers at any time."""

    @property
    def visible(self) -> bool:
        """Content has come that a client could act upon: from here on the call cannot be repeated."""

    @property
    def ended(self) -> bool:
        """The answer's terminal event has come, or an error; the rest of the body need not be waited for."""

    @property
    def outcome(self) -> Outcome:
        """How the call went if the body ended now."""

    @property
    def usage(self) -> Usage | None:
        """None if nothing was reported, which is not zero."""

    @property
    def error(self) -> ProviderError | None: ...

    @property
    def stop_reason(self) -> str | None: ...

    @property
    def refusal_category(self) -> str | None:
        """Kept beside the usage: some refusals are not billed."""

    @property
    def model(self) -> str | None:
        """The model that served, as the provider names it."""

    @property
    def message_id(self) -> str | None: ...

    def see(self, event: Event) -> None:
        """Note what one event of a stream says."""

    def see_body(self, body: bytes) -> None:
        """Note what a whole answer says, or what a stream left in ``Decoder.tail``.  No JSON says nothing."""


def object_in(data: bytes) -> dict[str, Any]:
    """The JSON object in ``data``, or an empty one: what does not parse is for the client to judge."""
    try:
        payload = parse_json(data)
    except ValueError:
        return {}
    return payload if isinstance(payload, dict) else {}


def member(payload: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The object in this member, or an empty one."""
    value = payload.get(name)
    return value if isinstance(value, dict) else {}


def text(value: object, longest: int = LONGEST_NAME) -> str | None:
    """``value`` if it is a string with something in it, cut to what a record may hold."""
    return value[:longest] if isinstance(value, str) and value else None


def error_in(payload: Mapping[str, Any]) -> ProviderError | None:
    """The error an event or a body carries: under ``error``, as object or text, or at top level beside its type."""
    inner: Any = payload.get("error")
    if not inner:
        if payload.get("type") != "error" and payload.get("object") != "error":
            return None
        inner = payload
    if not isinstance(inner, dict):
        inner = {"message": inner}
    details = inner.get("details")
    code = details.get("error_code") if isinstance(details, dict) else inner.get("code")
    kind = text(inner.get("type"))
    return ProviderError(
        # A Responses error event is of type "error" and tells its kind as the code.
        type=text(inner.get("code")) if kind in (None, "error") else kind,
        message=text(inner.get("message"), LONGEST_MESSAGE) or "",
        code=text(str(code)) if isinstance(code, str | int) else None,
    )
