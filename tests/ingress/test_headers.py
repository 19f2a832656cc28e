"""Which headers cross the ingress."""

from __future__ import annotations

import pytest

from relay.core.errors import InvalidRequest
from relay.ingress.headers import app_of, by_name, from_provider, to_provider, trace_of


def test_a_header_that_came_twice_is_one_list() -> None:
    lines = [(b"anthropic-beta", b"a"), (b"host", b"x"), (b"anthropic-beta", b"b, c")]
    assert by_name(lines) == {b"anthropic-beta": b"a, b, c", b"host": b"x"}


def test_only_what_is_listed_goes_to_the_provider() -> None:
    said = {b"anthropic-beta": b"a", b"x-api-key": b"secret", b"authorization": b"secret", b"cookie": b"secret"}
    assert to_provider({**said, b"tracestate": b"t=1"}) == {"anthropic-beta": "a"}


def test_a_trace_goes_on_and_a_malformed_one_does_not() -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    said = {b"traceparent": parent.encode(), b"tracestate": b"t=1", b"baggage": b"user=1"}
    assert trace_of(said) == {"traceparent": parent, "tracestate": "t=1"}
    assert trace_of(said | {b"traceparent": b"\xe4"}) == trace_of({b"tracestate": b"t=1"}) == {}


@pytest.mark.parametrize("value", [b"a\xe4", b"a\x00", b"a\x1f", b"a\x7f", b"a\r\nx-more: b"])
def test_a_value_that_cannot_travel_is_refused_by_name(value: bytes) -> None:
    with pytest.raises(InvalidRequest, match="anthropic-beta"):
        to_provider({b"anthropic-beta": value})


def test_the_providers_headers_come_back_in_order() -> None:
    pairs = [("request-id", "req_1"), ("retry-after", "7"), ("x-new", "a; b"), ("x-new", "c")]
    assert from_provider(pairs, stream=False) == [(name.encode(), value.encode()) for name, value in pairs]


def test_what_belongs_to_one_hop_or_to_us_does_not_come_back() -> None:
    hop = ["connection", "content-length", "transfer-encoding", "date", "server", "set-cookie", "x-relay-job-id"]
    assert from_provider([(name, "1") for name in hop], stream=False) == []


def test_how_a_stream_may_be_kept_on_its_way_is_for_us_to_say() -> None:
    pairs = [("cache-control", "public"), ("x-accel-buffering", "yes"), ("content-type", "text/event-stream")]
    assert from_provider(pairs, stream=True) == [(b"content-type", b"text/event-stream")]
    assert len(from_provider(pairs, stream=False)) == 3


@pytest.mark.parametrize(
    "pair", [("x-a", "b\r\nc: d"), ("x-a", "b\0"), ("x-a", "ü"), ("x a", "b"), ("", "b"), ("x:", "b")]
)
def test_what_http_does_not_allow_is_left_out(pair: tuple[str, str]) -> None:
    assert from_provider([pair, ("x-good", "")], stream=False) == [(b"x-good", b"")]


@pytest.mark.parametrize(
    ("headers", "app"),
    [
        ({b"x-title": b"  Shop \xc3\xbc "}, "Shop ü"),
        ({b"x-title": b"Shop", b"http-referer": b"https://a.example/x"}, "Shop"),
        ({b"http-referer": b"https://a.example:8443/x?y", b"referer": b"https://b.example"}, "a.example"),
        ({b"referer": b"https://b.example/page"}, "b.example"),
        ({b"referer": b"nonsense"}, ""),
        ({b"referer": b"http://[::1"}, ""),
        ({b"x-title": b"a\x1b[31m\nb"}, "a[31mb"),
        ({b"x-title": b"\xff" * 100}, "\ufffd" * 64),
        ({}, ""),
    ],
)
def test_the_application_is_known_as_gateways_know_it(headers: dict[bytes, bytes], app: str) -> None:
    assert app_of(headers) == app
