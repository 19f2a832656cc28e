"""Frames as bytes for readers."""

from __future__ import annotations

import orjson
import pytest

from relay.core.frame import BODY, END, EVENTS, Cursor, Frame
from relay.ingress.stream import Head, as_error, numbered, says_nothing

FIRST, SECOND = b'event: a\ndata: {"n":1}\n\n', b"data: 2\n\n"
SSE = ["content-type", "text/event-stream"]


def head(status: int, *headers: list[str]) -> Head:
    return Head.decode(orjson.dumps({"status": status, "headers": headers}))


def test_every_event_of_a_frame_gets_its_own_id() -> None:
    frame = Frame(7, 12, 2, EVENTS, FIRST + SECOND)
    assert numbered(frame) == b"id: 7-11\n" + FIRST + b"id: 7-12\n" + SECOND


@pytest.mark.parametrize(
    ("answer", "is_stream"),
    [
        (head(200, SSE), True),
        (head(200, ["request-id", "r"], ["content-type", "Text/Event-Stream; charset=utf-8"]), True),
        (head(200, ["content-type", "application/json"]), False),
        (head(200), False),
        (head(429, SSE), False),
    ],
)
def test_a_stream_is_what_says_so_and_was_accepted(answer: Head, is_stream: bool) -> None:
    assert answer.is_stream is is_stream


def test_a_status_that_is_none_becomes_one_that_is() -> None:
    assert [head(status).status for status in (200, 599, 600, 999, 0)] == [200, 599, 502, 502, 502]


@pytest.mark.parametrize(("surface", "name"), [("anthropic", b"event: error\n"), ("openai", b"")])
def test_a_providers_error_object_is_the_data_of_an_event(surface: str, name: bytes) -> None:
    body = b'{"error":\r\n {"message": "no\xe2\x80\xa8"}}'
    event = as_error(surface, head(500), body)  # type: ignore[arg-type]
    assert event == name + b'data: {"error":\ndata:  {"message": "no\xe2\x80\xa8"}}\n\n'


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'"x"', b"\xff"])
def test_what_is_no_error_object_is_put_into_one(body: bytes) -> None:
    assert b"upstream_protocol_error" in as_error("anthropic", head(503), body)


def test_an_end_that_was_seen_or_says_nothing_is_nothing_new() -> None:
    quiet = Frame(7, 5, 0, END, b'{"state":"done"}')
    loud = Frame(7, 5, 0, END, b'{"state":"failed","error":{"code":"interrupted","message":"m"}}')
    assert says_nothing([quiet], Cursor(7, 4))
    assert says_nothing([loud], Cursor(7, 5))
    assert not says_nothing([loud], Cursor(7, 4))
    assert not says_nothing([loud], Cursor(7, 9)), "a failover forgot what the reader was shown; the end is news"
    assert not says_nothing([Frame(7, 4, 1, BODY, b"{}"), quiet], Cursor(7, 3))
