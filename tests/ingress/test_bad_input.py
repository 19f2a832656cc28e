"""What is wrong with a request is said clearly, in the shape of its surface, and nothing is enqueued."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import pytest

from tests.ingress.conftest import ENVIRONMENT
from tests.support import http
from tests.support.relay import Relay, message

pytestmark = pytest.mark.usefixtures("refused")

LIMIT = int(ENVIRONMENT["RELAY_BODY_LIMIT_BYTES"])
GOOD = b'{"model":"claude-x","messages":[],"max_tokens":5}'
TYPE = ("content-type", "application/json")
SURFACES = {"/v1/messages": "anthropic", "/v1/messages/count_tokens": "anthropic", "/v1/chat/completions": "openai"}


class Bad(NamedTuple):
    what: str
    body: bytes
    status: int
    said: str


BODIES = [
    Bad("empty", b"", 400, "empty"),
    Bad("not JSON", b"{'model': 1}", 400, "not valid JSON"),
    Bad("cut off", b'{"model":"claude-x","messages":[', 400, "not valid JSON"),
    Bad("not an object", b'["model"]', 400, "JSON object"),
    Bad("no model", b'{"messages":[]}', 400, "model"),
    Bad("a model that is no text", b'{"model":7,"messages":[]}', 400, "model"),
    Bad("a model nobody serves", b'{"model":"mistral-\\u00e9","messages":[]}', 404, "mistral-é"),
    Bad("invalid UTF-8", b'{"model":"\xff","messages":[]}', 400, "UTF-8"),
    Bad("nested 10,000 deep", b'{"model":"claude-x","messages":' + b"[" * 10_000 + b"]" * 10_000 + b"}", 400, "deep"),
    Bad("NaN", b'{"model":"claude-x","messages":[],"n":NaN}', 400, "NaN"),
]


@pytest.mark.parametrize("path", SURFACES)
@pytest.mark.parametrize("bad", BODIES, ids=lambda bad: bad.what)
async def test_a_body_that_is_wrong(door: Relay, path: str, bad: Bad) -> None:
    answer = await door.post(path, bad.body)
    check_error(answer, SURFACES[path], bad.status)
    assert bad.said in error_of(answer)["message"]


async def test_a_prompt_with_too_many_breakpoints(door: Relay) -> None:
    marked = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}
    answer = await door.post("/v1/messages", message("claude-x", system=[marked] * 5))
    check_error(answer, "anthropic", 400)
    assert "Found 5" in error_of(answer)["message"]


@pytest.mark.parametrize("padding", [b"", b" " * (2 << 20)], ids=["looked at here", "looked at elsewhere"])
async def test_a_model_to_be_renamed_in_a_hundred_places(door: Relay, padding: bytes) -> None:
    body = b'{%b"messages":[]}' % (b'"model":"anthropic/claude-x",' * 100)
    answer = await door.post("/v1/messages", body + padding)
    check_error(answer, "anthropic", 400)
    assert "64 times" in error_of(answer)["message"]


async def test_the_same_is_said_of_a_body_that_is_looked_at_elsewhere(door: Relay) -> None:
    padding = b" " * (2 << 20)
    for bad in BODIES[1:]:
        answer = await door.post("/v1/messages", bad.body + padding)
        check_error(answer, "anthropic", bad.status)
        assert bad.said in error_of(answer)["message"], bad.what


@pytest.mark.parametrize("path", SURFACES)
@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "none"),
        ([("content-type", "text/plain")], "text/plain"),
        ([("content-type", "multipart/form-data; boundary=x")], "multipart/form-data"),
        ([("content-type", "application/jsonp")], "application/jsonp"),
        ([TYPE, ("content-encoding", "gzip")], "gzip"),
    ],
)
async def test_a_body_that_says_it_is_something_else(
    door: Relay, path: str, lines: list[tuple[str, str]], said: str
) -> None:
    answer = await http.request(door.port, "POST", path, [*door.auth, *lines], GOOD)
    check_error(answer, SURFACES[path], 415)
    assert said in error_of(answer)["message"]


@pytest.mark.parametrize("path", SURFACES)
@pytest.mark.parametrize(
    "lines",
    [
        [],
        [("x-api-key", "")],
        [("x-api-key", "hunter2")],
        [("x-api-key", "hünter2")],
        [("x-api-key", "x" * 5000)],
        [("x-api-key", "rk_00000000_" + "0" * 64 + "_00000000")],
        [("authorization", "Bearer hunter2")],
        [("authorization", "Bearer")],
        [("authorization", "Basic a2V5OmtleQ==")],
    ],
)
async def test_a_key_that_is_missing_or_wrong(door: Relay, path: str, lines: list[tuple[str, str]]) -> None:
    answer = await http.request(door.port, "POST", path, [*lines, TYPE], GOOD)
    check_error(answer, SURFACES[path], 401)
    assert b"nter2" not in answer.body


async def test_the_key_in_x_api_key_counts_when_there_are_two(door: Relay) -> None:
    lines = [("x-api-key", "hunter2"), ("authorization", f"Bearer {door.key}"), TYPE]
    check_error(await http.request(door.port, "POST", "/v1/messages", lines, GOOD), "anthropic", 401)


async def test_a_body_over_the_limit_is_refused_before_it_is_read(door: Relay) -> None:
    lines = [*door.auth, TYPE, ("content-length", str(LIMIT + 1))]
    exchange = await http.Exchange.open(door.port, http.render("POST", "/v1/messages", lines))
    answer = http.Response(exchange.status, exchange.headers, await exchange.body())
    await exchange.close()
    check_error(answer, "anthropic", 413)
    assert str(LIMIT) in error_of(answer)["message"]
    assert answer.headers.get("connection") == "close"


async def test_a_client_that_goes_on_sending_still_gets_to_read_why(door: Relay) -> None:
    lines = [*door.auth, TYPE, ("content-length", str(2 * LIMIT))]
    exchange = await http.Exchange.open(door.port, http.render("POST", "/v1/messages", lines) + b" " * LIMIT)
    assert exchange.status == 413
    exchange.writer.write(b" " * LIMIT)
    await exchange.writer.drain()
    assert b"limit" in await exchange.body()
    await exchange.close()


async def test_a_chunked_body_is_refused_when_it_passes_the_limit(door: Relay) -> None:
    chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    lines = [("transfer-encoding", "chunked")]
    answer = await door.raw("POST", "/v1/messages", lines, chunk * (LIMIT // (1 << 20) + 1))
    check_error(answer, "anthropic", 413)


async def test_a_body_of_exactly_the_limit_is_looked_at(door: Relay) -> None:
    answer = await door.post("/v1/messages", b"[" + b" " * (LIMIT - 2) + b"]")
    check_error(answer, "anthropic", 400)
    assert "JSON object" in error_of(answer)["message"]


async def test_a_client_that_leaves_within_its_body_leaves_nothing(door: Relay) -> None:
    lines = [*door.auth, TYPE, ("content-length", str(len(GOOD)))]
    exchange = await http.Exchange.send(door.port, http.render("POST", "/v1/messages", lines) + GOOD[:20])
    await exchange.close()
    assert (await door.get("/healthz")).status == 200


@pytest.mark.parametrize("header", ["anthropic-version", "anthropic-beta"])
async def test_a_header_that_could_not_travel_on(door: Relay, header: str) -> None:
    answer = await http.request(door.port, "POST", "/v1/messages", [*door.auth, TYPE, (header, "ä")], GOOD)
    check_error(answer, "anthropic", 400)
    assert header in error_of(answer)["message"]


@pytest.mark.parametrize("header", ["x-api-key", "authorization", "content-type", "anthropic-beta", "x-any"])
@pytest.mark.parametrize("value", ["a\0b", "a\x01b", "a\x7fb", "\xff\xfe", "a" * 20_000])
async def test_no_header_value_breaks_anything(door: Relay, header: str, value: str) -> None:
    lines = [*door.auth, TYPE, (header, value)]
    answer = await http.request(door.port, "POST", "/v1/messages", lines, b"[]")
    check_error(answer, "anthropic", {400, 401, 415})


async def test_a_query_that_could_not_travel_on(door: Relay) -> None:
    answer = await http.request(door.port, "POST", "/v1/messages?a=\xe4", [*door.auth, TYPE], GOOD)
    check_error(answer, "relay", 400)


async def test_a_model_whose_tokens_nobody_counts_is_named_with_its_provider(door: Relay) -> None:
    answer = await door.post("/v1/messages/count_tokens", message("gpt-5"))
    check_error(answer, "anthropic", 400)
    assert all(word in error_of(answer)["message"] for word in ("'gpt-5'", "'openai'"))


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
async def test_another_method_is_told_the_right_one(door: Relay, method: str) -> None:
    answer = await http.request(door.port, method, "/v1/messages", [*door.auth])
    check_error(answer, "anthropic", 405)
    assert answer.headers.get("allow") == "POST, OPTIONS"


async def test_options_says_what_is_allowed(door: Relay) -> None:
    for path, allowed in (("/v1/messages", "POST, OPTIONS"), ("/healthz", "GET, HEAD, OPTIONS")):
        answer = await http.request(door.port, "OPTIONS", path)
        assert (answer.status, answer.headers.get("allow")) == (204, allowed)


@pytest.mark.parametrize(
    ("path", "surface"),
    [
        ("/v1/messages/others", "anthropic"),
        ("/v1/complete", "anthropic"),
        ("/v1/chat/other", "openai"),
        ("/v1/embeddings", "openai"),
        ("/v1/messages/", "anthropic"),
        ("/", "relay"),
        ("/v1/job", "relay"),
        ("/%ff%00", "relay"),
        ("/" + "a" * 5000, "relay"),
    ],
)
async def test_a_path_that_is_none(door: Relay, path: str, surface: str) -> None:
    check_error(await http.request(door.port, "GET", path, door.auth), surface, 404)


NOT_HTTP = {
    "bytes": (b"\0\0\0\0\r\n\r\n", "relay"),
    "a version to come": (b"GET / HTTP/9.9\r\n\r\n", "relay"),
    "a path in Latin-1": (b"GET \xff HTTP/1.1\r\nhost: a\r\n\r\n", "relay"),
    "two lengths": (b"POST /v1/messages HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello", "anthropic"),
    "a length and none": (
        b"POST /chat/completions HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        "openai",
    ),
    "a length that is none": (b"POST /v1/messages HTTP/1.1\r\ncontent-length: 5x\r\n\r\nhello", "anthropic"),
    "an endless length": (b"POST /v1/messages HTTP/1.1\r\ncontent-length: %b\r\n\r\n" % (b"9" * 5000), "anthropic"),
    "a folded header": (b"POST /v1/messages HTTP/1.1\r\nx-a: b\r\n c\r\n\r\n", "anthropic"),
}


@pytest.mark.parametrize(("raw", "surface"), NOT_HTTP.values(), ids=NOT_HTTP)
async def test_what_is_no_http_gets_an_answer_all_the_same(door: Relay, raw: bytes, surface: str) -> None:
    exchange = await http.Exchange.open(door.port, raw)
    answer = http.Response(exchange.status, exchange.headers, await exchange.body())
    await exchange.close()
    check_error(answer, surface, 400)


def check_error(answer: http.Response, surface: str, status: int | Iterable[int]) -> None:
    """The status, and a body that the surface's SDK can read."""
    assert answer.status in ({status} if isinstance(status, int) else set(status)), answer
    error = error_of(answer)
    assert error["message" if surface != "relay" else "detail"]
    if surface == "anthropic":
        assert answer.json["type"] == "error"
        assert error["type"].endswith("_error") or error["type"] == "request_too_large"
        assert answer.json["request_id"] == answer.headers.get("request-id")
    elif surface == "openai":
        assert set(error) == {"message", "type", "param", "code"}
        assert answer.headers.get("x-request-id")
    else:
        assert answer.headers.get("content-type") == "application/problem+json"
        assert error["status"] == answer.status


def error_of(answer: http.Response) -> dict[str, Any]:
    error: dict[str, Any] = answer.json.get("error", answer.json)
    return error
