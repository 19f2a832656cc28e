"""What an item of a batch must be."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from relay.core.batch.items import Fault, anthropic_item, job_id, openai_item
from relay.core.errors import InvalidRequest

CHAT = "/v1/chat/completions"
BATCH = "msgbatch_0_0199a1b2c3d47e5f8a9b0c1d2e3f4a5b"


def line(**members: Any) -> bytes:
    body = {"model": "gpt-4o", "messages": []}
    return json.dumps({"custom_id": "a", "method": "POST", "url": CHAT, "body": body} | members).encode()


def test_an_anthropic_item_keeps_the_bytes_of_its_request() -> None:
    item = anthropic_item(b'{"custom_id":"a-1_B", "params" : { "max_tokens":1e1, "stream": false}}', 0)
    assert item == ("a-1_B", b'{ "max_tokens":1e1, "stream": false}')


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'{"params":{}}', "requests.7.custom_id: Field required"),
        (b'{"custom_id":"","params":{}}', "requests.7.custom_id: String should match pattern"),
        (b'{"custom_id":"a b","params":{}}', 'not "a b"'),
        (b'{"custom_id":7,"params":{}}', "requests.7.custom_id"),
        (b'{"custom_id":"x"}', "requests.7.params: Field required (custom_id 'x')"),
        (b'{"custom_id":"x","params":[]}', "requests.7.params: Input should be a valid dictionary"),
        (b'{"custom_id":"x","params":{"stream":true}}', "requests.7.params.stream: Streaming is not supported"),
        (b'{"custom_id":"x","params":{"max_tokens":0}}', "requests.7.params.max_tokens"),
        (b'{"custom_id":"x","params":{},"params":{}}', "params: The member may not be repeated"),
        (b'{"custom_id":"x",}', "requests.7: The request body is not valid JSON"),
    ],
)
def test_what_is_wrong_with_an_anthropic_item_names_it(raw: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(said)) as caught:
        anthropic_item(raw, 7)
    assert (caught.value.param or "").startswith("requests.7")


def test_a_line_keeps_the_bytes_of_its_request() -> None:
    raw = (
        b'{"body":{ "model":"\\u0041", "messages":[]},"url":"%b","method":"POST","custom_id":"\xc3\xa9"}'
        % CHAT.encode()
    )
    assert openai_item(raw, CHAT) == ("é", b'{ "model":"\\u0041", "messages":[]}')


@pytest.mark.parametrize(
    ("raw", "code", "param"),
    [
        (b"{", "invalid_json_line", None),
        (b"7", "invalid_json_line", None),
        (b'{"a":1,"a":2}', "invalid_json_line", None),
        (line(custom_id=None), "missing_required_parameter", "custom_id"),
        (line(custom_id=""), "invalid_custom_id", "custom_id"),
        (line(custom_id="x" * 513), "invalid_custom_id", "custom_id"),
        (line(custom_id="a\nb"), "invalid_custom_id", "custom_id"),
        (line(method="PUT"), "invalid_method", "method"),
        (line(url="/v1/embeddings"), "mismatched_endpoint", "url"),
        (line(body=None), "missing_required_parameter", "body"),
        (line(body={"messages": []}), "invalid_request", "body.model"),
        (line(body={"model": "x", "messages": [], "stream": True}), "invalid_request", "body.stream"),
    ],
)
def test_what_is_wrong_with_a_line(raw: bytes, code: str, param: str | None) -> None:
    with pytest.raises(Fault) as caught:
        openai_item(raw, CHAT)
    assert (caught.value.code, caught.value.param) == (code, param)


def test_the_job_of_an_item_is_always_the_same_and_of_no_other() -> None:
    ids = {job_id("0", BATCH, number) for number in range(1000)} | {job_id("0", BATCH.replace("5b", "5c"), 0)}
    assert len(ids) == 1001
    assert job_id("0", BATCH, 1) == job_id("0", BATCH, 1)
    assert all(re.fullmatch(r"0-0199a1b2c3d47[0-9a-f]{3}8[0-9a-f]{15}", each) for each in ids)
