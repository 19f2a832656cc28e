"""What an assembly refuses, what it costs, and that nothing else makes it raise."""

from __future__ import annotations

import json
import time
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.assembly.assembly import Assembly
from relay.core.errors import UpstreamProtocolError
from relay.core.job import Dialect
from tests.core.assembly.logs import COMPLETIONS, MESSAGES, Log, fed, payloads, snapshot_of
from tests.core.translate.odd_json import ODD, some_of, sometimes_odd
from tests.core.translate.playing import block, chunk, message_start, sse

every_dialect = pytest.mark.parametrize("dialect", ["anthropic", "openai"])


@every_dialect
def test_before_the_first_event_there_is_nothing_to_tell(dialect: Dialect) -> None:
    assert Assembly(dialect).body() is None
    assert Assembly(dialect).snapshot() == []


# --- bounds


@pytest.mark.parametrize("log", [MESSAGES[0], COMPLETIONS[0]], ids=str)
def test_past_its_limit_an_assembly_refuses_everything(log: Log) -> None:
    wide, tight = (Assembly(log.dialect, limit_bytes=len(log.stream) - less) for less in (0, 1))
    wide.feed(log.stream)
    tight.feed(log.events[0])

    with pytest.raises(UpstreamProtocolError, match="too large"):
        tight.feed(b"".join(log.events[1:]))
    for ask in (tight.body, tight.snapshot, lambda: tight.feed(b"")):
        with pytest.raises(UpstreamProtocolError, match="too large"):
            ask()


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


def test_json_nested_too_deep_to_be_written_is_refused_when_it_is_asked_for() -> None:
    start = b'data: {"type":"content_block_start","index":0,"content_block":' + nested(400) + b"}\n\n"
    assembly = fed("anthropic", [sse(message_start()), start])

    assert assembly.snapshot()[1] == start  # which needs no writing
    with pytest.raises(UpstreamProtocolError, match="nested too deep"):
        assembly.body()


@every_dialect
@pytest.mark.parametrize("depth", [100, 250, 900, 1015, 1024, 100_000])
@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        (b"", b""),
        (b'{"choices":[{"delta":', b"}]}"),
        (b'{"choices":[{"logprobs":', b"}]}"),
        (b'{"usage":', b"}"),
        (b'{"type":"message_start","message":', b"}"),
        (b'{"type":"message_delta","delta":', b"}"),
    ],
)
def test_deep_nesting_raises_nothing_but_the_one_error(
    dialect: Dialect, depth: int, opening: bytes, closing: bytes
) -> None:
    event = b"data: " + opening + nested(depth) + closing + b"\n\n"
    assembly = fed(dialect, [event, event])

    for ask in (assembly.body, assembly.snapshot):
        try:
            ask()
        except UpstreamProtocolError as error:
            assert "nested too deep" in error.message


def long_stream(dialect: Dialect, size: int, piece: str) -> bytes:
    """A stream of many small pieces."""
    text = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
    start, _ = block(0, {"type": "text", "text": ""})
    opening, one = {
        "anthropic": (sse(message_start(), start), sse(text)),
        "openai": (b"", sse(chunk({"content": piece}, obfuscation="x" * 20))),
    }[dialect]
    return opening + one * (size // len(one))


@every_dialect
def test_a_megabyte_of_stream_is_put_together_well_below_half_a_second(dialect: Dialect) -> None:
    stream = long_stream(dialect, 1_000_000, "four")
    started = time.process_time()

    assembly = fed(dialect, [stream[at : at + 65_536] for at in range(0, len(stream), 65_536)])
    body, snapshot = assembly.body(), assembly.snapshot()

    assert time.process_time() - started < 0.25
    assert body is not None and body.count(b"four") > 4000
    assert len(snapshot) == len(payloads(snapshot)) <= 3


# --- providers that say anything

events = st.fixed_dictionaries(
    {
        "type": sometimes_odd(
            st.sampled_from(["message_start", "content_block_start", "message_delta", "content_block_stop", "error"])
            | st.just("content_block_delta")
        )
    },
    optional={
        "index": sometimes_odd(st.integers(-1, 1) | st.sampled_from([2**63 - 1, -(2**63), 10**25])),
        "message": some_of({"id": st.just("m"), "content": st.lists(ODD, max_size=2), "usage": ODD}),
        "content_block": some_of(
            {"type": st.sampled_from(["text", "tool_use", "fallback"]), "text": ODD, "to": ODD, "citations": ODD}
        ),
        "delta": some_of(
            {
                "type": st.sampled_from(["text_delta", "input_json_delta", "citations_delta", "signature_delta"]),
                "text": st.text(max_size=3),
                "partial_json": st.sampled_from(["{", '"a":1', "}", "{}", "[" * 2000]),
                "citation": ODD,
                "stop_reason": ODD,
            }
        )
        | st.fixed_dictionaries({"type": st.just("text_delta"), "text": st.text(max_size=3)}),
        "usage": some_of(
            {
                "input_tokens": st.integers(0, 3),
                "cache_creation_input_tokens": st.integers(0, 9),
                "cache_creation": some_of({"ephemeral_5m_input_tokens": st.integers(0, 3)}),
                "server_tool_use": some_of({"web_search_requests": st.integers(0, 1)}),
                "iterations": st.lists(some_of({"type": st.just("fallback_message")}), max_size=1),
            }
        ),
    },
)
calls = some_of(
    {
        "index": st.integers(0, 2),
        "id": st.sampled_from(["a", "b"]),
        "function": some_of({"name": st.just("f"), "arguments": st.text(max_size=2)}),
    }
)
deltas = some_of(
    {
        "role": st.just("assistant"),
        "content": st.text(max_size=3) | st.lists(ODD, max_size=2),
        "refusal": st.text(max_size=3),
        "tool_calls": st.lists(calls, max_size=2),
        "thinking_blocks": st.lists(calls, max_size=2),
        "audio": some_of({"id": st.just("audio_1"), "data": st.text(max_size=2), "expires_at": st.integers()}),
        "x": ODD,
    }
)
choices = some_of(
    {
        "index": st.integers(-1, 2) | st.sampled_from([2**63 - 1, 10**25]),
        "delta": deltas,
        "message": deltas,
        "finish_reason": st.just("stop"),
        "logprobs": some_of({"content": st.lists(ODD, max_size=2)}),
        "usage": ODD,
    }
)
chunks = some_of(
    {
        "id": st.just("c"),
        "choices": st.lists(choices, max_size=2),
        "usage": some_of({"prompt_tokens": st.integers(0, 3)}),
        "error": some_of({"message": st.text(max_size=2)}),
        "x": ODD,
    }
)


@every_dialect
@settings(max_examples=60)
@given(data=st.data())
def test_no_provider_makes_it_raise_or_break_the_law_of_the_tail(dialect: Dialect, data: st.DataObject) -> None:
    said: list[Any] = data.draw(st.lists(sometimes_odd(events if dialect == "anthropic" else chunks), max_size=8))
    names = st.sampled_from([b"", b"event: error\n", b"event: x\n"])
    log = [data.draw(names) + b"data: " + dumped(each) + b"\n\n" for each in said]
    cut = data.draw(st.integers(0, len(log)))

    whole = fed(dialect, log)
    late = fed(dialect, [*snapshot_of(dialect, log[:cut]), *log[cut:]])

    assert (late.body(), late.snapshot()) == (whole.body(), whole.snapshot())


def dumped(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # integers past 64 bits, which providers may write all the same
        return json.dumps(value).encode()


@every_dialect
@given(pieces=st.lists(st.binary(max_size=30) | st.sampled_from([b"data: ", b"\n\n", b"[DONE]", b'{"choices":[{}]}'])))
def test_no_bytes_make_it_raise(dialect: Dialect, pieces: list[bytes]) -> None:
    assembly = fed(dialect, pieces)

    assembly.body()
    assembly.snapshot()
