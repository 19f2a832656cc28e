"""A provider's error in the form of the other surface: as a whole answer, or as the last event of a stream.

The translators and the worker call it where surface and provider differ in dialect.  It decides nothing about retries,
and the relay's own errors have their forms in ``relay.core.errors``.

The HTTP status stays the provider's, but for 529, which OpenAI's surface does not know.  The error's type follows from
the status, its code is kept; ``param`` has no place on Anthropic's surface and is dropped there.
"""

from __future__ import annotations

import re
from calendar import timegm
from collections.abc import Callable, Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import orjson

from relay.core.errors import ANTHROPIC_TYPES, BY_CODE, body_of, from_code
from relay.core.job import Dialect
from relay.core.meter import error_in, object_in

# What a word means as a status; any other (api_error, server_error) is a 500.  A stream that failed after its 200 has
# nothing else to go by.
_STATUS_OF = {
    # Anthropic's types; OpenAI's surface and its compatible servers share some.
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
    # OpenAI's types and codes.
    "context_length_exceeded": 400,
    "invalid_api_key": 401,
    "model_not_found": 404,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "tokens": 429,
    "requests": 429,
}

# Any other status is an invalid_request_error below 500, else an api_error.  OpenAI's 503 means that it is overloaded.
_ANTHROPIC_TYPES = ANTHROPIC_TYPES | {503: "overloaded_error"}

# Any other status is a server_error.
_OPENAI_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}
_OPENAI_STATUS = {529: 503}

_FAILURE = re.compile("[45][0-9][0-9]")

# Where each surface's SDKs look for the id of a request.
_REQUEST_ID = {"anthropic": "request-id", "openai": "x-request-id"}


class ErrorAnswer(NamedTuple):
    """An error as an HTTP answer."""

    status: int
    body: bytes


class _Fault(NamedTuple):
    """What a provider says went wrong, in words of no dialect."""

    status: int
    kind: str | None
    message: str
    code: str | None


def error_answer(surface: Dialect, status: int, body: bytes, request_id: str | None = None) -> ErrorAnswer:
    """The error answer of a provider that speaks the other dialect.  ``status`` may be 200, the body then tells."""
    fault = _fault(object_in(body), None if status == 200 else status)
    payload = _FORMS[surface](fault)
    if surface == "anthropic":
        payload["request_id"] = request_id
    shown = _OPENAI_STATUS.get(fault.status, fault.status) if surface == "openai" else fault.status
    return ErrorAnswer(shown, orjson.dumps(payload))


def kept_error(surface: Dialect, code: str, message: str, status: int | None, request_id: str) -> ErrorAnswer:
    """The error a job ended in, where what its provider said of it is not kept, or was never an answer.

    ``code`` is ours, or the provider's own word; ``status`` is that of its answer, which may have begun with 200.
    """
    if code in BY_CODE:
        error = from_code(code, message)
        return ErrorAnswer(error.status, body_of(error, surface, request_id))
    told = orjson.dumps({"error": {"type": code, "message": message}})
    return error_answer(surface, max(200, status or 0), told, request_id)


def error_event(surface: Dialect, payload: Mapping[str, Any]) -> bytes:
    """The same as the last event of a stream, from the data of the event in which the provider said it."""
    name = b"event: error\n" if surface == "anthropic" else b""
    return name + b"data: " + orjson.dumps(_FORMS[surface](_fault(payload, None))) + b"\n\n"


def headers_between(surface: Dialect, headers: Iterable[tuple[str, str]], now_s: float) -> list[tuple[str, str]]:
    """An answer's headers for the SDKs of the surface; ``now_s`` is Unix time.

    The request's id is told under the surface's name too, and a ``retry-after`` that is a date becomes seconds.  The
    rate limits stay as they are: their names say whose they are.
    """
    found = [(name, _seconds(value, now_s) if name.lower() == "retry-after" else value) for name, value in headers]
    ids = {name.lower(): value for name, value in found if name.lower() in _REQUEST_ID.values()}
    ours = _REQUEST_ID[surface]
    return found if ours in ids else found + [(ours, value) for value in ids.values()]


def _fault(payload: Mapping[str, Any], status: int | None) -> _Fault:
    inner = payload.get("error") or payload
    error = error_in({"error": inner})
    kind, code = (error["type"], error["code"]) if error else (None, None)
    status = status or status_of(kind, code)
    # The meter keeps the beginning of a message for the record; the client gets the whole.  ``detail`` is FastAPI's.
    message = (inner.get("message") or inner.get("detail")) if isinstance(inner, Mapping) else inner
    if not isinstance(message, str):
        message = f"The provider failed with status {status} and did not say why."
    return _Fault(status, kind, message, code)


def status_of(kind: str | None, code: str | None) -> int:
    """The code is the finer word; gateways write the status itself there."""
    if code and _FAILURE.fullmatch(code):
        return int(code)
    return _STATUS_OF.get(code or "") or _STATUS_OF.get(kind or "") or 500


def _anthropic_type(status: int) -> str:
    return _ANTHROPIC_TYPES.get(status) or ("invalid_request_error" if status < 500 else "api_error")


def _anthropic_form(fault: _Fault) -> dict[str, Any]:
    error: dict[str, Any] = {"type": _anthropic_type(fault.status), "message": fault.message}
    if fault.code:
        error["details"] = {"error_code": fault.code}
    return {"type": "error", "error": error}


def _openai_form(fault: _Fault) -> dict[str, Any]:
    code = fault.code or fault.kind or _anthropic_type(fault.status)
    kind = _OPENAI_TYPES.get(fault.status, "server_error")
    return {"error": {"message": fault.message, "type": kind, "param": None, "code": code}}


_FORMS: dict[Dialect, Callable[[_Fault], dict[str, Any]]] = {"anthropic": _anthropic_form, "openai": _openai_form}


def _seconds(retry_after: str, now_s: float) -> str:
    """RFC 9110 allows a date; not every client reads one."""
    try:
        until_s = timegm(parsedate_to_datetime(retry_after).utctimetuple())
    except (ValueError, OverflowError):
        return retry_after
    return str(max(0, round(until_s - now_s)))
