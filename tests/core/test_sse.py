"""The decoder: the vectors of the standard, the shape of what is handed on, and laws for any split of any bytes."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.errors import UpstreamProtocolError
from relay.core.sse import MAX_EVENT_BYTES, Decoder, Event, parse_json

VECTORS = json.loads((Path(__file__).parent / "fixtures/sse/vectors.json").read_text())["vectors"]

# Bodies made of these meet the decoder's rules far more often than random bytes do.
PIECES = [
    *(b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b" ", b":", b"\x00", b"\xff", b"\xef\xbb\xbf"),
    *(b"data: ", b"data:", b"data", b"data: {}\n", b"event: ", b"event:x\n", b"event: ping\n", b"id: 1\n"),
    *(b"retry: 9\n", b": comment\n", b"[DONE]", b'{"a":"b:c"}', b'{"error":1}'),
    *(separator.encode() for separator in ("\u2028", "\u2029", "\u0085")),
]
bodies = st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=30).map(b"".join)
canonical_events = st.builds(
    lambda name, data: (b"event: %b\n" % name if name else b"") + b"data: %b\n\n" % data,
    st.sampled_from([b"", b"ping", b"content_block_delta", b"response.created", b"X-1"]),
    st.binary(max_size=40).map(lambda data: data.replace(b"\r", b"").replace(b"\n", b"")),
)


def decode(*chunks: bytes) -> list[Event]:
    decoder = Decoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)]


def everything(*chunks: bytes) -> tuple[list[Event], bytes]:
    """All a body gives, its end included."""
    decoder = Decoder()
    events = [event for chunk in chunks for event in decoder.feed(chunk)]
    return events + decoder.flush(), decoder.tail


def cut(body: bytes, size: int) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


# --- the standard


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_a_vector_of_the_standard_holds_for_every_split(vector: dict[str, Any]) -> None:
    """``last_event_id`` and ``retry_ms`` are left out: the relay drops both on purpose (see the module's docstring)."""
    body = base64.b64decode(vector["input_base64"]) if "input_base64" in vector else vector["input"].encode()
    expected = [(event["event"], event["data"]) for event in vector["events"]]

    splits = [[body], cut(body, 1), *([body[:at], body[at:]] for at in range(len(body) + 1))]
    for chunks in splits:
        got = [(event.name.decode() or "message", event.data.decode("utf-8", "replace")) for event in decode(*chunks)]
        assert got == expected


@given(bodies, st.data())
def test_any_split_gives_the_same_events(body: bytes, data: st.DataObject) -> None:
    whole = everything(body)
    ends = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=6)))
    chunks = [body[start:end] for start, end in zip([0, *ends], [*ends, len(body)], strict=True)]

    assert everything(*chunks) == whole
    assert everything(*cut(body, 1)) == whole


# --- what is handed on


@given(st.lists(canonical_events, max_size=8), st.integers(1, 50))
def test_canonical_events_are_handed_on_as_the_very_bytes_received(events: list[bytes], size: int) -> None:
    body = b"".join(events)

    assert [event.raw for event in decode(*cut(body, size))] == events


@given(bodies)
def test_what_is_handed_on_decodes_to_the_same_events(body: bytes) -> None:
    events, _ = everything(body)

    assert decode(b"".join(event.raw for event in events)) == events


@given(bodies)
def test_what_is_handed_on_is_safe_to_put_into_another_stream(body: bytes) -> None:
    events, _ = everything(body)

    for event in events:
        *lines, last, end = event.raw.split(b"\n")
        assert (last, end) == (b"", b"")
        assert b"\r" not in event.raw
        assert all(line.startswith((b"event: ", b"data: ")) for line in lines)
        assert [line[7:] for line in lines if line.startswith(b"event: ")] == [name for name in (event.name,) if name]


def test_odd_framing_is_rewritten() -> None:
    odd = b'id: 99-1\nretry: 1\n: hello\ndata:{"a":1,\r\nevent:x\rdata: "b":2}\nfuture: 1\n\n'

    assert decode(odd) == [Event(b"x", b'{"a":1,\n"b":2}', b'event: x\ndata: {"a":1,\ndata: "b":2}\n\n')]


def test_bad_utf8_passes_through_untouched() -> None:
    body = b'data: {"x":"\xff\xfe\x80"}\n\n'

    assert [event.raw for event in decode(body)] == [body]


@pytest.mark.parametrize("name", [b"x\x00y", b"a b", "é".encode(), b"a:b", b"x" * 65, b" x"])
def test_a_name_that_is_no_plain_word_is_dropped_and_the_event_kept(name: bytes) -> None:
    assert decode(b"event: " + name + b"\ndata: 1\n\n") == [Event(b"", b"1", b"data: 1\n\n")]


# --- the end of the body


@pytest.mark.parametrize(
    "unfinished",
    [b'data: {"a":1}', b"data: 1\n", b"data: 1\r", b"data: [DONE]", b"data:[DONE]\r\n", b"event: x\ndata: 1"],
)
def test_an_unfinished_event_whose_data_is_whole_is_kept(unfinished: bytes) -> None:
    events, tail = everything(b"data: 0\n\n" + unfinished)

    assert len(events) == 2
    assert events[1].raw.endswith(b"\n\n")
    assert tail == b""


@pytest.mark.parametrize(
    "unfinished", [b'data: {"a":', b"data: [DON", b"data: b\n", b"event: x\n", b": hm", b"dat", b'data: "\xff']
)
def test_an_unfinished_event_whose_data_is_cut_becomes_the_tail(unfinished: bytes) -> None:
    """Vectors ``unterminated-*`` would keep ``data: b``; the project's rule asks for JSON or ``[DONE]``."""
    assert everything(b"data: 0\n\n" + unfinished) == ([Event(b"", b"0", b"data: 0\n\n")], unfinished)


def test_a_name_that_was_cut_is_not_given_to_the_event() -> None:
    events, _ = everything(b'data: {"type":"message_stop"}\nevent: messag')

    assert [event.name for event in events] == [b""]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n"])
def test_json_written_outside_every_event_is_the_tail(end: bytes) -> None:
    error = b'{"error":{"code":503,"message":"high demand"}}'
    events, tail = everything(b"data: 1\n\n" + error + end)

    assert len(events) == 1
    assert tail.strip() == error


def test_a_body_of_nothing_but_a_cut_byte_order_mark_ends_quietly() -> None:
    assert everything(b"\xef\xbb") == ([], b"\xef\xbb")


# --- limits


def test_a_line_without_end_is_refused_at_the_limit() -> None:
    decoder = Decoder()
    piece = b"z" * 65536
    for _ in range(MAX_EVENT_BYTES // len(piece)):
        assert decoder.feed(piece) == []

    with pytest.raises(UpstreamProtocolError, match=str(MAX_EVENT_BYTES)):
        decoder.feed(b"z")


@pytest.mark.parametrize("excess", [0, 1])
@pytest.mark.parametrize("piece", [65536, MAX_EVENT_BYTES * 2])
def test_the_limit_is_the_same_for_an_event_in_one_piece_and_in_many(excess: int, piece: int) -> None:
    largest = b"data: " + b"z" * (MAX_EVENT_BYTES - len(b"data: \n") + excess) + b"\n\n"
    chunks = cut(b"data: 1\n\n" + largest, piece)

    if excess:
        with pytest.raises(UpstreamProtocolError):
            decode(*chunks)
    else:
        assert [event.raw for event in decode(*chunks)] == [b"data: 1\n\n", largest]


# --- JSON as providers write it


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a":"\xff","n":1}', {"a": "\ufffd", "n": 1}),
        (b'{"a":"\\ud83d","n":1}', {"a": "?", "n": 1}),
        (b'{"a":' + b"9" * 5000 + b',"n":1}', {"a": 1e20, "n": 1}),
        (b'{"n":1}\n', {"n": 1}),
    ],
)
def test_one_bad_value_does_not_hide_the_others(data: bytes, value: object) -> None:
    assert parse_json(data) == value


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100_000 + b"]" * 100_000, b"<html>", b'{"a":1e999}', b"\xff"])
def test_what_is_no_json_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(data)
