"""A provider's error on the other surface: as an answer and as an event, with status, type, code and headers."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from relay.core.meter import error_in
from relay.core.translate.errors_between import error_answer, error_event, headers_between
from tests.support.fixtures import ErrorAnswer, errors, transcripts

NOW_S = 1795176000.0  # 2026-11-20T12:00:00Z


def on_openai(status: int, body: Any) -> tuple[int, dict[str, Any]]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    shown = error_answer("openai", status, raw, "req_1")
    payload = json.loads(shown.body)
    assert payload.keys() == {"error"}
    return shown.status, payload["error"]


def on_anthropic(status: int, body: Any) -> tuple[int, dict[str, Any]]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    shown = error_answer("anthropic", status, raw, "req_1")
    payload = json.loads(shown.body)
    error = payload.pop("error")
    assert payload == {"type": "error", "request_id": "req_1"}
    return shown.status, error


# --- the recorded answers


@pytest.mark.parametrize("fixture", errors("anthropic"), ids=lambda each: each.name)
def test_a_recorded_error_of_anthropics_on_openais_surface(fixture: ErrorAnswer) -> None:
    expected = fixture.expected["openai_surface"]
    status, error = on_openai(fixture.status, fixture.body)
    now_s = datetime.fromisoformat(fixture.expected.get("now", "2026-11-20T12:00:00Z")).timestamp()
    headers = dict(headers_between("openai", fixture.headers, now_s))

    assert status == expected["status"]
    assert error["message"] == (fixture.expected["message"] or error["message"])
    assert {name: error[name] for name in expected["error"]} == expected["error"]
    assert headers.get("retry-after") == expected["retry_after_header"]
    assert headers.get("x-request-id") == fixture.expected["request_id"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("400-context-length", "invalid_request_error"),
        ("400-unknown-parameter", "invalid_request_error"),
        ("401", "authentication_error"),
        ("403-region", "permission_error"),
        ("404-model", "not_found_error"),
        ("429-rate-limit", "rate_limit_error"),
        ("429-insufficient-quota", "rate_limit_error"),
        ("500", "api_error"),
        ("503", "overloaded_error"),
    ],
)
def test_a_recorded_error_of_openais_on_anthropics_surface(name: str, kind: str) -> None:
    fixture = next(each for each in errors("openai") if each.name == name)
    code = fixture.expected["code"]

    status, error = on_anthropic(fixture.status, fixture.body)

    details = {"details": {"error_code": code}} if code else {}
    assert error == {"type": kind, "message": fixture.expected["message"], **details}
    assert status == fixture.status
    headers = dict(headers_between("anthropic", fixture.headers, NOW_S))
    assert headers["request-id"] == fixture.expected["request_id"]
    assert headers.get("retry-after") == dict(fixture.headers).get("retry-after")


def test_every_recorded_error_of_openais_is_checked() -> None:
    assert len(errors("openai")) == 9


# --- types by status


@pytest.mark.parametrize(
    ("status", "shown", "kind"),
    [
        (400, 400, "invalid_request_error"),
        (401, 401, "authentication_error"),
        (402, 402, "insufficient_quota"),
        (403, 403, "permission_error"),
        (404, 404, "not_found_error"),
        (409, 409, "conflict_error"),
        (413, 413, "invalid_request_error"),
        (429, 429, "rate_limit_error"),
        (500, 500, "server_error"),
        (502, 502, "server_error"),
        (504, 504, "server_error"),
        (529, 503, "server_error"),
    ],
)
def test_openais_surface_has_a_type_for_every_status(status: int, shown: int, kind: str) -> None:
    answered, error = on_openai(status, {"type": "error", "error": {"type": "x_error", "message": "m"}})

    assert (answered, error) == (shown, {"message": "m", "type": kind, "param": None, "code": "x_error"})


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (409, "conflict_error"),
        (413, "request_too_large"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (499, "invalid_request_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ],
)
def test_anthropics_surface_has_a_type_for_every_status(status: int, kind: str) -> None:
    answered, error = on_anthropic(status, {"error": {"message": "m", "type": "whatever", "code": None}})

    assert (answered, error) == (status, {"type": kind, "message": "m"})


def test_a_body_that_is_no_json_says_at_least_its_status() -> None:
    message = "The provider failed with status 413 and did not say why."

    assert on_anthropic(413, b"<html>") == (413, {"type": "request_too_large", "message": message})
    told = {"message": message, "type": "invalid_request_error", "param": None, "code": "request_too_large"}
    assert on_openai(413, b"<html>") == (413, told)


# --- an error inside a 200


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("invalid_request_error", 400),
        ("authentication_error", 401),
        ("billing_error", 402),
        ("permission_error", 403),
        ("not_found_error", 404),
        ("conflict_error", 409),
        ("request_too_large", 413),
        ("rate_limit_error", 429),
        ("api_error", 500),
        ("timeout_error", 504),
        ("overloaded_error", 529),
        ("context_length_exceeded", 400),
        ("invalid_api_key", 401),
        ("model_not_found", 404),
        ("rate_limit_exceeded", 429),
        ("insufficient_quota", 429),
        ("tokens", 429),
        ("requests", 429),
        ("server_error", 500),
        ("from_the_future", 500),
    ],
)
def test_a_word_stands_for_its_status(word: str, status: int) -> None:
    assert on_anthropic(200, {"error": {"type": word, "message": "m"}})[0] == status
    assert on_anthropic(200, {"error": {"code": word, "message": "m"}})[0] == status
    shown = 503 if status == 529 else status
    assert on_openai(200, {"type": "error", "error": {"type": word, "message": "m"}})[0] == shown


@pytest.mark.parametrize(
    ("code", "status"), [(502, 502), ("504", 504), (404, 404), (200, 429), ("0404", 429), (600, 429), ("5020", 429)]
)
def test_a_code_may_be_the_status_itself(code: Any, status: int) -> None:
    assert on_anthropic(200, {"error": {"code": code, "type": "rate_limit_error"}})[0] == status


def test_the_code_is_the_finer_word() -> None:
    error = {"type": "invalid_request_error", "code": "invalid_api_key", "message": "m"}

    status, told = on_anthropic(200, {"error": error})

    assert (status, told["type"]) == (401, "authentication_error")
    assert told["details"] == {"error_code": "invalid_api_key"}


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"error": "just text"}, "just text"),
        ({"object": "error", "message": "vLLM's", "code": 400}, "vLLM's"),
        ({"detail": "FastAPI's"}, "FastAPI's"),
        ({"type": "error", "message": "at top level", "code": "x"}, "at top level"),
    ],
)
def test_the_message_is_found_in_every_shape(payload: Any, message: str) -> None:
    assert on_anthropic(400, payload)[1]["message"] == message
    assert on_openai(400, payload)[1]["message"] == message


def test_the_whole_message_is_told_where_the_record_keeps_its_beginning() -> None:
    payload = {"error": {"message": "x" * 10_000}}
    record = error_in(payload)

    assert record and len(record["message"]) == 4096
    assert len(on_anthropic(400, payload)[1]["message"]) == 10_000


# --- as an event


def test_an_event_has_the_form_of_its_surface() -> None:
    overloaded = {"type": "error", "error": {"type": "overloaded_error", "message": "Busy"}}

    told = b'{"error":{"message":"Busy","type":"server_error","param":null,"code":"overloaded_error"}}'
    assert error_event("openai", overloaded) == b"data: " + told + b"\n\n"
    told = b'{"type":"error","error":{"type":"overloaded_error","message":"Busy"}}'
    assert error_event("anthropic", overloaded) == b"event: error\ndata: " + told + b"\n\n"


def test_a_spending_limit_keeps_its_code() -> None:
    details = {"error_code": "enforced_spend_limit_reached"}
    error = {"type": "rate_limit_error", "message": "m", "details": details}

    told = json.loads(error_event("openai", {"type": "error", "error": error})[6:])["error"]

    assert told["code"] == "enforced_spend_limit_reached"


@pytest.mark.parametrize("name", ["error-mid-stream", "error-mid-stream-event-name", "error-openrouter-style"])
def test_a_recorded_error_in_mid_stream_means_its_status(name: str) -> None:
    stream = next(each for each in transcripts("openai") if each.name == name)
    [event] = [line for line in stream.stream.decode().splitlines() if '"error":{' in line]

    status, error = on_anthropic(200, event.removeprefix("data: ").encode())

    assert status == stream.expected["error"]["http_status"]
    assert error["message"] == stream.expected["error"]["message"]


# --- headers


def test_headers_keep_their_order_and_the_rate_limits_their_names() -> None:
    headers = [("Request-Id", "r"), ("anthropic-ratelimit-requests-limit", "5"), ("Retry-After", "3")]

    assert headers_between("openai", headers, NOW_S) == [*headers, ("x-request-id", "r")]
    assert headers_between("anthropic", headers, NOW_S) == headers


def test_both_names_of_the_id_are_left_as_they_are() -> None:
    headers = [("x-request-id", "a"), ("request-id", "b")]

    assert headers_between("openai", headers, NOW_S) == headers_between("anthropic", headers, NOW_S) == headers
    assert headers_between("openai", [("x", "y")], NOW_S) == [("x", "y")]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("17", "17"),
        ("1.5", "1.5"),
        ("Fri, 20 Nov 2026 12:00:25 GMT", "25"),
        ("Fri, 20 Nov 2026 12:00:25 -0000", "25"),
        ("Fri, 20 Nov 2026 11:59:00 GMT", "0"),
        ("soon", "soon"),
        ("Fri, 31 Dec 9999 23:59:59 -2300", "Fri, 31 Dec 9999 23:59:59 -2300"),
    ],
)
def test_a_date_to_retry_after_becomes_seconds(value: str, seconds: str) -> None:
    assert headers_between("openai", [("retry-after", value)], NOW_S) == [("retry-after", seconds)]
    assert headers_between("openai", [("date", value)], NOW_S) == [("date", value)]
