"""Envelopes: the request inside is found as it stood, and everything wrong is named."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.envelope import OPTIONS_BYTES_MAX, unwrap
from relay.core.errors import InvalidRequest

REQUESTS = [
    b"{}",
    b'{ "model" : "x",\r\n\t"n": 1e2 , "n":1.0,"text":"\\u00e9\xc3\xa9 }" }',
    b'{"deep": {"body": {"endpoint": 1}}, "big": 123456789012345678901234567890}',
]


@pytest.mark.parametrize("request_body", REQUESTS)
@pytest.mark.parametrize("around", [b'{"endpoint":"e","body":%b}', b'\n{ "body" : %b , "endpoint":"e" }\n'])
def test_the_request_is_the_bytes_that_stood_in_the_envelope(around: bytes, request_body: bytes) -> None:
    raw = around % request_body
    options, (start, end) = unwrap(raw)
    assert raw[start:end] == request_body
    assert options == {"endpoint": "e"}


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")), max_size=4))
def test_whatever_the_request_says_it_comes_out_as_it_went_in(members: dict[str, str]) -> None:
    body = orjson.dumps(members)
    raw = b'{"metadata":{"body":"{}"},"body":%b,"endpoint":"/v1/messages"}' % body
    _, (start, end) = unwrap(raw)
    assert raw[start:end] == body


@pytest.mark.parametrize(
    ("raw", "said", "param"),
    [
        (b"", "empty", None),
        (b"[]", "JSON object", None),
        (b'{"endpoint":"e","body":{}', "not valid JSON", None),
        (b'{"endpoint":"e"}', "body", "body"),
        (b'{"endpoint":"e","body":"{}"}', "body", "body"),
        (b'{"endpoint":"e","body":{},"metdata":{}}', "metdata", "metdata"),
        (b'{"endpoint":"e","body":{},"body":{}}', "repeated", "body"),
        (b'{"endpoint":"\\ud800","body":{}}', "Unicode", None),
        (b'{"endpoint":"e","body":{},"metadata":"%b"}' % (b"x" * OPTIONS_BYTES_MAX), "beside", None),
    ],
)
def test_what_is_no_envelope_is_refused(raw: bytes, said: str, param: str | None) -> None:
    with pytest.raises(InvalidRequest, match=said) as refused:
        unwrap(raw)
    assert refused.value.param == param
