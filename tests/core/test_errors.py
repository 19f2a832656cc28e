"""The tree of errors, and the form each has on each surface."""

import re
from typing import get_args

import orjson
import pytest

from relay.core import errors
from relay.core.errors import BY_CODE, RelayError, Surface, body_of, event_of, from_code

SURFACES: tuple[Surface, ...] = get_args(Surface)
LEAVES = sorted(BY_CODE.values(), key=lambda cls: cls.__name__)

each_error = pytest.mark.parametrize("cls", LEAVES, ids=lambda cls: cls.__name__)
each_surface = pytest.mark.parametrize("surface", SURFACES)


def payload(error: RelayError, surface: Surface) -> dict:
    parsed: dict = orjson.loads(body_of(error, surface, "req_1"))
    return parsed


def test_the_docstring_draws_the_tree_as_it_is() -> None:
    drawn = {
        (name, int(status), code)
        for name, status, code in re.findall(r"── (\w+) +(\d{3})  (\w+)", errors.__doc__ or "")
    }
    assert drawn == {(cls.__name__, cls.status, cls.code) for cls in LEAVES}


@each_error
def test_a_stored_code_becomes_its_error_again(cls: type[RelayError]) -> None:
    error = from_code(cls.code, "told so")
    assert (type(error), error.message, str(error)) == (cls, "told so", "told so")


def test_a_code_nobody_knows_is_our_own_fault() -> None:
    error = from_code("overloaded_error", "from a newer version")
    assert (type(error), error.status) == (errors.Internal, 500)


@each_error
def test_the_family_says_whose_fault_it_is(cls: type[RelayError]) -> None:
    family = {4: errors.ClientError, 5: errors.ServerError | errors.UpstreamError}[cls.status // 100]
    assert issubclass(cls, family)


@each_error
@each_surface
def test_every_surface_tells_message_and_code(cls: type[RelayError], surface: Surface) -> None:
    told = payload(cls("max_tokens is 'a lot'", param="max_tokens"), surface)
    assert "max_tokens is 'a lot'" in orjson.dumps(told).decode()
    assert f'"{cls.words.get(surface, cls.code)}"' in orjson.dumps(told).decode()


@each_error
def test_the_anthropic_form_is_that_of_its_api(cls: type[RelayError]) -> None:
    told = payload(cls("so it is"), "anthropic")
    error = told.pop("error")
    assert told == {"type": "error", "request_id": "req_1"}
    assert (error["message"], error["details"]) == ("so it is", {"error_code": cls.words.get("anthropic", cls.code)})
    assert error["type"].endswith("_error") or error["type"] == "request_too_large"


@each_error
def test_the_openai_form_is_that_of_its_api(cls: type[RelayError]) -> None:
    error = payload(cls("so it is", param="model"), "openai")["error"]
    assert {*error} == {"message", "type", "param", "code"}
    assert (error["message"], error["param"], error["code"]) == ("so it is", "model", cls.words.get("openai", cls.code))


@each_error
def test_our_own_form_is_a_problem_document(cls: type[RelayError]) -> None:
    told = payload(cls("so it is", param="limit"), "relay")
    assert told["type"].startswith("urn:relay:error:")
    assert told["title"][0].isupper()
    assert (told["status"], told["detail"], told["code"]) == (cls.status, "so it is", cls.code)
    assert (told["param"], told["request_id"]) == ("limit", "req_1")


@pytest.mark.parametrize(
    ("cls", "anthropic", "openai"),
    [
        (errors.InvalidRequest, "invalid_request_error", "invalid_request_error"),
        (errors.Unauthenticated, "authentication_error", "authentication_error"),
        (errors.Forbidden, "permission_error", "permission_error"),
        (errors.NotFound, "not_found_error", "not_found_error"),
        (errors.TooLarge, "request_too_large", "invalid_request_error"),
        (errors.TooManyRequests, "rate_limit_error", "rate_limit_error"),
        (errors.BudgetExceeded, "rate_limit_error", "insufficient_quota"),
        (errors.Unavailable, "api_error", "server_error"),
        (errors.UpstreamTimeout, "timeout_error", "server_error"),
    ],
)
def test_a_status_has_the_providers_own_word(cls: type[RelayError], anthropic: str, openai: str) -> None:
    assert payload(cls("so"), "anthropic")["error"]["type"] == anthropic
    assert payload(cls("so"), "openai")["error"]["type"] == openai


@each_error
@each_surface
def test_an_error_event_is_one_event_with_the_body_as_its_data(cls: type[RelayError], surface: Surface) -> None:
    error = cls('a "message"\nof two lines')
    event = event_of(error, surface, "req_1")
    *head, data = event.removesuffix(b"\n\n").split(b"\n")
    assert data == b"data: " + body_of(error, surface, "req_1")
    # OpenAI's Python SDK reads events without a name only.
    assert head == ([] if surface == "openai" else [b"event: error"])


def test_retry_advice_travels_with_the_error() -> None:
    error = errors.TooManyRequests("full", retry_after_s=5)
    assert error.retry_after_s == 5
    assert errors.InvalidRequest("wrong").retry_after_s is None
