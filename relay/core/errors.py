"""Every error the relay can answer with, and its form on each surface.

    RelayError                     status  code                   whose fault
    ├── ClientError                                               the caller's
    │   ├── InvalidRequest            400  invalid_request
    │   ├── Unauthenticated           401  unauthenticated
    │   ├── Forbidden                 403  forbidden
    │   ├── NotFound                  404  not_found
    │   ├── MethodNotAllowed          405  method_not_allowed
    │   ├── RequestTimeout            408  request_timeout
    │   ├── Conflict                  409  conflict               (the job is not in a state for this)
    │   ├── Gone                      410  gone
    │   ├── TooLarge                  413  too_large
    │   ├── UnsupportedMediaType      415  unsupported_media_type
    │   ├── UnprocessableEntity       422  unprocessable_entity   (an idempotency key that belongs to another request)
    │   ├── TooManyRequests           429  too_many_requests
    │   ├── BudgetExceeded            429  budget_exceeded        (the key's or the tenant's, until its period is over)
    │   └── Cancelled                 499  cancelled
    ├── ServerError                                               ours
    │   ├── Internal                  500  internal
    │   ├── Unavailable               503  unavailable
    │   ├── Interrupted               503  interrupted            (a worker died or was drained in mid-stream)
    │   ├── WorkerLost                503  worker_lost            (every allowed attempt lost its worker)
    │   ├── JobLost                   503  job_lost               (Redis forgot the job)
    │   └── Expired                   504  expired                (no worker took the job in time)
    └── UpstreamError                                             the provider's
        ├── UpstreamUnreachable       502  upstream_unreachable
        ├── UpstreamProtocolError     502  upstream_protocol_error
        ├── UpstreamTruncated         502  upstream_truncated
        └── UpstreamTimeout           504  upstream_timeout

A provider's own error answer is not in this tree: its status, headers and body travel to the client as they came.
Messages name the value that was wrong, and never a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import orjson

Surface = Literal["anthropic", "openai", "relay"]


class RelayError(Exception):
    """An error with an HTTP status, a stable ``code`` and the retry advice that belongs to it.

    ``param`` names the offending member or header. ``retry_after_s`` becomes a ``Retry-After`` header.
    ``was_retried``: the relay has tried again itself, and the client need not.
    """

    status = 500
    code = "internal"
    words: ClassVar[Mapping[str, str]] = {}  # for the code, on the surfaces that have one of their own
    was_retried = False

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class ClientError(RelayError):
    """The caller can fix it; the same request again fails again."""


class InvalidRequest(ClientError):
    status, code = 400, "invalid_request"


class Unauthenticated(ClientError):
    status, code = 401, "unauthenticated"


class Forbidden(ClientError):
    status, code = 403, "forbidden"


class NotFound(ClientError):
    status, code = 404, "not_found"


class MethodNotAllowed(ClientError):
    status, code = 405, "method_not_allowed"


class RequestTimeout(ClientError):
    status, code = 408, "request_timeout"


class Conflict(ClientError):
    status, code = 409, "conflict"


class Gone(ClientError):
    status, code = 410, "gone"


class TooLarge(ClientError):
    status, code = 413, "too_large"


class UnsupportedMediaType(ClientError):
    status, code = 415, "unsupported_media_type"


class UnprocessableEntity(ClientError):
    status, code = 422, "unprocessable_entity"


class TooManyRequests(ClientError):
    status, code = 429, "too_many_requests"


class BudgetExceeded(ClientError):
    """An SDK that comes back in a second would only hammer: the words are those at which clients give up."""

    status, code = 429, "budget_exceeded"
    words: ClassVar = {"anthropic": "enforced_spend_limit_reached", "openai": "insufficient_quota"}


class Cancelled(ClientError):
    # 499 is nginx's "client closed request"; the job was cancelled on the client's word.
    status, code = 499, "cancelled"


class ServerError(RelayError):
    """Our fault; a retry may help."""


class Internal(ServerError):
    status, code = 500, "internal"


class Unavailable(ServerError):
    status, code = 503, "unavailable"


class Interrupted(ServerError):
    status, code = 503, "interrupted"


class WorkerLost(ServerError):
    status, code = 503, "worker_lost"


class JobLost(ServerError):
    status, code = 503, "job_lost"


class Expired(ServerError):
    status, code = 504, "expired"


class UpstreamError(RelayError):
    """The provider broke its side of the protocol."""

    status = 502


class UpstreamUnreachable(UpstreamError):
    status, code = 502, "upstream_unreachable"


class UpstreamProtocolError(UpstreamError):
    status, code = 502, "upstream_protocol_error"


class UpstreamTruncated(UpstreamError):
    status, code = 502, "upstream_truncated"


class UpstreamTimeout(UpstreamError):
    status, code = 504, "upstream_timeout"


def _leaves(cls: type[RelayError]) -> list[type[RelayError]]:
    """The errors at the ends of the tree: the classes between them share a code that is not theirs."""
    return [leaf for child in cls.__subclasses__() for leaf in _leaves(child)] or [cls]


BY_CODE: dict[str, type[RelayError]] = {cls.code: cls for cls in _leaves(RelayError)}


def from_code(code: str, message: str) -> RelayError:
    """The error with this ``code`` (as stored in a job's end); an unknown code is an ``Internal``."""
    return BY_CODE.get(code, Internal)(message)


# HTTP status → error type, per surface.  Source: the providers' error pages and SDK types.
ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_OPENAI_TYPES = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}


def _anthropic(error: RelayError, request_id: str | None) -> dict[str, Any]:
    fallback = "invalid_request_error" if error.status < 500 else "api_error"
    inner = {
        "type": ANTHROPIC_TYPES.get(error.status, fallback),
        "message": error.message,
        "details": {"error_code": error.words.get("anthropic", error.code)},
    }
    return {"type": "error", "error": inner, "request_id": request_id}


def _openai(error: RelayError, request_id: str | None) -> dict[str, Any]:
    fallback = "invalid_request_error" if error.status < 500 else "server_error"
    word = error.words.get("openai")
    kind = word or _OPENAI_TYPES.get(error.status, fallback)
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": word or error.code}}


def _problem(error: RelayError, request_id: str | None) -> dict[str, Any]:
    """RFC 9457 problem details, for the relay's own endpoints."""
    body: dict[str, Any] = {
        "type": f"urn:relay:error:{error.code}",
        "title": error.code.replace("_", " ").capitalize(),
        "status": error.status,
        "detail": error.message,
        "code": error.code,
    }
    if error.param:
        body["param"] = error.param
    if request_id:
        body["request_id"] = request_id
    return body


_FORMS = {"anthropic": _anthropic, "openai": _openai, "relay": _problem}


def body_of(error: RelayError, surface: Surface, request_id: str | None = None) -> bytes:
    """The JSON error body in the surface's own shape."""
    return orjson.dumps(_FORMS[surface](error, request_id))


def event_of(error: RelayError, surface: Surface, request_id: str | None = None) -> bytes:
    """The same error as one SSE event, for a stream whose 200 is already out.

    OpenAI's form has no ``event:`` line: its Python SDK reads ``data:`` events only.
    """
    name = b"" if surface == "openai" else b"event: error\n"
    return name + b"data: " + body_of(error, surface, request_id) + b"\n\n"
