"""The errors a provider answers with, and their names in both dialects.

These are the provider's errors, not the relay's (``relay/core/errors.py``): the relay must hand them on as they come.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple


class Refusal(Exception):
    """An HTTP error answer.  ``code`` and ``param`` are OpenAI's members; Anthropic has ``code`` in its details."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})


class _Names(NamedTuple):
    anthropic: str
    openai: str
    openai_code: str | None = None


_BY_STATUS: Final[dict[int, _Names]] = {
    400: _Names("invalid_request_error", "invalid_request_error"),
    401: _Names("authentication_error", "invalid_request_error", "invalid_api_key"),
    403: _Names("permission_error", "request_forbidden"),
    404: _Names("not_found_error", "invalid_request_error", "model_not_found"),
    413: _Names("request_too_large", "invalid_request_error", "request_too_large"),
    429: _Names("rate_limit_error", "requests", "rate_limit_exceeded"),
    500: _Names("api_error", "server_error"),
    503: _Names("api_error", "server_error"),
    504: _Names("timeout_error", "server_error"),
    529: _Names("overloaded_error", "server_error"),
}

# OpenAI says an empty account by the type as well as by the code.
_INSUFFICIENT_QUOTA: Final = "insufficient_quota"


def anthropic_body(refusal: Refusal, request_id: str | None) -> dict[str, Any]:
    error: dict[str, Any] = {"type": _BY_STATUS[refusal.status].anthropic, "message": refusal.message}
    if refusal.code:
        error["details"] = {"error_code": refusal.code}
    body: dict[str, Any] = {"type": "error", "error": error}
    if request_id:
        body["request_id"] = request_id
    return body


def openai_body(refusal: Refusal) -> dict[str, Any]:
    names = _BY_STATUS[refusal.status]
    code = refusal.code or names.openai_code
    kind = code if code == _INSUFFICIENT_QUOTA else names.openai
    return {"error": {"message": refusal.message, "type": kind, "param": refusal.param, "code": code}}
