"""The result of an item, as one line of the file its client downloads.

The provider's answer is put in as it came: only line breaks between its values become blanks, since a line may have
none. The ingress calls this for each item that has ended.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import orjson

from relay.core.errors import UpstreamProtocolError, body_of
from relay.core.job import Dialect

Kind = Literal["succeeded", "errored", "canceled", "expired"]
KINDS: tuple[Kind, ...] = ("succeeded", "errored", "canceled", "expired")


class Outcome(NamedTuple):
    """How an item ended.  ``status`` and ``body`` are the answer's, or those of an error of ours."""

    kind: Kind
    status: int = 0
    body: bytes = b""
    request_id: str = ""


class Line(NamedTuple):
    """``kind`` is how the item is counted; ``for_errors``: the line belongs into the error file, where there is one."""

    kind: Kind
    data: bytes
    for_errors: bool


CANCELED, EXPIRED = Outcome("canceled"), Outcome("expired")

# The words of OpenAI's error file for what was never run.
_NOT_RUN = {
    "canceled": ("batch_cancelled", "This request was not executed before the batch was cancelled."),
    "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
}


def line_of(surface: Dialect, custom_id: str, job_id: str, outcome: Outcome) -> Line:
    """The line, with its line break."""
    if outcome.body:
        outcome = _told_in_json(surface, job_id, outcome)
    if surface == "anthropic":
        return Line(outcome.kind, _anthropic(custom_id, outcome), False)
    return Line(outcome.kind, _openai(custom_id, job_id, outcome), outcome.kind != "succeeded")


def _told_in_json(surface: Dialect, job_id: str, outcome: Outcome) -> Outcome:
    """An answer that is no JSON object would spoil the file for every other item."""
    try:
        is_object = isinstance(orjson.loads(outcome.body), dict)
    except orjson.JSONDecodeError:
        is_object = False
    if is_object:
        return outcome
    error = UpstreamProtocolError(f"The provider's answer (status {outcome.status}) is no JSON object.")
    return Outcome("errored", error.status, body_of(error, surface, job_id), outcome.request_id)


def _anthropic(custom_id: str, outcome: Outcome) -> bytes:
    result: dict[str, Any] = {"type": outcome.kind}
    if outcome.kind == "succeeded":
        result["message"] = _verbatim(outcome.body)
    elif outcome.kind == "errored":
        result["error"] = _verbatim(outcome.body)
    return _dump({"custom_id": custom_id, "result": result})


def _openai(custom_id: str, job_id: str, outcome: Outcome) -> bytes:
    line: dict[str, Any] = {"id": f"batch_req_{job_id[-32:]}", "custom_id": custom_id, "response": None, "error": None}
    if outcome.kind in _NOT_RUN:
        code, message = _NOT_RUN[outcome.kind]
        line["error"] = {"code": code, "message": message}
    else:
        request_id = outcome.request_id or job_id
        line["response"] = {
            "status_code": outcome.status,
            "request_id": request_id,
            "body": _verbatim(outcome.body),
        }
    return _dump(line)


def _verbatim(body: bytes) -> orjson.Fragment:
    return orjson.Fragment(body.replace(b"\n", b" ").replace(b"\r", b" "))


def _dump(line: dict[str, Any]) -> bytes:
    return orjson.dumps(line) + b"\n"
