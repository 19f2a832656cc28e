"""What is wrong with a batch or a file is said clearly, in the shape of its surface, and nothing of it is kept."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.ingress.conftest import ENVIRONMENT
from tests.support import http
from tests.support.relay import Relay, message

BATCHES = "/v1/messages/batches"
LIMIT = int(ENVIRONMENT["RELAY_BODY_LIMIT_BYTES"])
GOOD = {"custom_id": "a", "params": message("claude-x")}
FORM = ("content-type", "multipart/form-data; boundary=xx")


@pytest.fixture(autouse=True)
async def _nothing_kept(redis: Redis) -> AsyncIterator[None]:
    """Not a piece of what was refused may be left."""
    before = {*await redis.keys("relay:{0}:batch:*"), *await redis.keys("relay:{0}:file:*")}
    yield
    assert {*await redis.keys("relay:{0}:batch:*"), *await redis.keys("relay:{0}:file:*")} == before


def part(name: str, value: bytes, more: str = "") -> bytes:
    return f'--xx\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value + b"\r\n"


FILE, BATCH, END = part("file", b"{}", '; filename="a.jsonl"'), part("purpose", b"batch"), b"--xx--\r\n"


def check(answer: http.Response, status: int, said: str, kind: str) -> None:
    assert answer.status == status, answer
    error = answer.json["error"]
    assert error["type"] == kind
    assert said in error["message"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty"),
        (b"[]", "JSON object"),
        ({"requests": []}, "at least 1 item"),
        ({"requests": [GOOD, {"custom_id": "b"}]}, "requests.1.params: Field required (custom_id 'b')"),
        ({"requests": [GOOD, GOOD]}, "requests.1.custom_id: 'a' is the custom_id of another request"),
        ({"requests": [{"custom_id": "s", "params": {"stream": True}}]}, "requests.0.params.stream"),
        ({"requests": [GOOD] * 3 + [7]}, "requests.1.custom_id"),
        (b'{"requests": [{"custom_id":"a","params":{}}, {"custom_id":"b","params":{}', "not valid JSON"),
    ],
)
async def test_a_message_batch_that_is_none(door: Relay, body: Any, said: str) -> None:
    check(await door.post(BATCHES, body), 400, said, "invalid_request_error")


async def test_an_item_that_is_looked_at_elsewhere_is_refused_alike(door: Relay) -> None:
    many = {"custom_id": "big", "params": message("claude-x", stream=True, padding=[1] * 300_000)}
    check(await door.post(BATCHES, {"requests": [many]}), 400, "(custom_id 'big')", "invalid_request_error")


async def test_an_item_has_the_limit_of_a_request(door: Relay) -> None:
    big, long = ({"custom_id": f"i{size}", "params": message("claude-x", "x" * size)} for size in (300_000, LIMIT))
    check(await door.post(BATCHES, {"requests": [big, long]}), 413, "requests.1 is larger", "request_too_large")


async def test_a_batch_has_a_limit_of_bytes_and_one_of_items(door: Relay) -> None:
    announced = [*door.auth, ("content-type", "application/json"), ("content-length", str(200 << 20))]
    exchange = await http.Exchange.open(door.port, http.render("POST", BATCHES, announced))
    answer = http.Response(exchange.status, exchange.headers, await exchange.body())
    await exchange.close()
    check(answer, 413, str(100 << 20), "request_too_large")
    many = {"requests": [{"custom_id": f"i{number}", "params": {}} for number in range(60)]}
    check(await door.post(BATCHES, many), 400, "A batch may have 50 requests", "invalid_request_error")


@pytest.mark.parametrize("path", [BATCHES, "/v1/batches", "/v1/files"])
async def test_a_key_is_asked_for(door: Relay, path: str) -> None:
    for method in ("GET", "POST"):
        answer = await http.request(door.port, method, path, [("content-type", "application/json")], b"{}")
        check(answer, 401, "no API key", "authentication_error") if path != "/v1/batches" or method == "GET" else None


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (FILE + END, "purpose"),
        (FILE + part("purpose", b"vision") + END, "'vision'"),
        (BATCH + END, "file: Field required"),
        (FILE + BATCH, "ends before its form does"),
        (FILE + FILE + BATCH + END, "file: There may be one only"),
        (FILE + BATCH + part("expires_after[seconds]", b"7") + END, "expires_after[seconds]"),
        (FILE + BATCH + part("other", b"x" * 5000) + END, "other"),
        (b"what?", "not valid multipart"),
    ],
)
async def test_an_upload_that_is_none(door: Relay, form: bytes, said: str) -> None:
    lines = [*door.auth, FORM]
    check(await http.request(door.port, "POST", "/v1/files", lines, form), 400, said, "invalid_request_error")


async def test_an_upload_that_says_it_is_something_else(door: Relay) -> None:
    check(await door.post("/v1/files", b"{}"), 415, "multipart/form-data", "invalid_request_error")


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"endpoint": "/v1/embeddings"}, 400, "/v1/embeddings"),
        ({"completion_window": "1h"}, 400, "completion_window"),
        ({"input_file_id": "file-0_" + "0" * 32}, 404, "No such File"),
        ({"input_file_id": "file-{x}"}, 404, "file-{x}"),
        ({"metadata": {"a": 1}}, 400, "a"),
    ],
)
async def test_an_openai_batch_that_is_none(door: Relay, change: Any, status: int, said: str) -> None:
    body = {"input_file_id": "file-0_" + "0" * 32, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    answer = await door.post("/v1/batches", json.dumps(body | change).encode())
    check(answer, status, said, "invalid_request_error" if status == 400 else "not_found_error")


@pytest.mark.parametrize("path", ["{B}/{id}", "{B}/{id}/results", "/v1/batches/{id}", "/v1/files/{id}"])
@pytest.mark.parametrize(
    "given", ["x", "msgbatch_0_" + "0" * 32, "batch_1_" + "0" * 32, "file-0_" + "0" * 32, "%7B0%7D:job:x"]
)
async def test_there_is_nothing_at_an_id_that_is_nobodys(door: Relay, path: str, given: str) -> None:
    answer = await door.get(path.replace("{B}", BATCHES).replace("{id}", given))
    check(answer, 404, "", "not_found_error")


async def test_the_documentation_knows_them(door: Relay) -> None:
    paths = (await door.get("/openapi.json")).json["paths"]
    assert {BATCHES, f"{BATCHES}/{{batch_id}}/results", "/v1/batches", "/v1/files/{file_id}/content"} <= {*paths}
    assert "multipart/form-data" in paths["/v1/files"]["post"]["requestBody"]["content"]
