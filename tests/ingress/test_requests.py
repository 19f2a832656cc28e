"""What a request says of itself."""

from __future__ import annotations

import pytest

from relay.core.errors import UnsupportedMediaType
from relay.ingress.requests import check_content_type, presented


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({}, None),
        ({b"x-api-key": b"k"}, "k"),
        ({b"authorization": b"Bearer k"}, "k"),
        ({b"authorization": b"BEARER   k "}, "k"),
        ({b"x-api-key": b"k", b"authorization": b"Bearer other"}, "k"),
        ({b"x-api-key": b"", b"authorization": b"Bearer k"}, "k"),
        ({b"authorization": b"Basic k"}, None),
        ({b"authorization": b"k"}, None),
        ({b"x-api-key": b"\xff\xfe"}, "ÿþ"),
    ],
)
def test_the_key_of_a_request(headers: dict[bytes, bytes], key: str | None) -> None:
    assert (presented(headers) or None) == key


@pytest.mark.parametrize("kind", [b"application/json", b"Application/JSON", b"application/json; charset=utf-8"])
def test_json_is_taken_by_any_of_its_names(kind: bytes) -> None:
    check_content_type({b"content-type": kind, b"content-encoding": b"identity"})


@pytest.mark.parametrize("kind", [b"", b"text/plain", b"application/json2", b"\xff", b"x" * 500])
def test_anything_else_is_named_and_refused(kind: bytes) -> None:
    with pytest.raises(UnsupportedMediaType) as refused:
        check_content_type({b"content-type": kind} if kind else {})
    assert refused.value.param == "content-type"
    assert (kind.decode("latin-1")[:80] or "none") in refused.value.message
    assert len(refused.value.message) < 200


def test_an_encoded_body_is_named_and_refused() -> None:
    with pytest.raises(UnsupportedMediaType, match="br"):
        check_content_type({b"content-type": b"application/json", b"content-encoding": b"br"})
