"""The OpenAI meter on answers no fixture has: bad servers, bad ends, and chunks it may skip without parsing."""

import json
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.openai import MAX_CHOICES, OpenAIMeter
from relay.core.sse import Event

USAGE = {"prompt_tokens": 23, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}}


def chunk(*choices: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"id": "cc", "object": "chat.completion.chunk", "model": "g", "choices": list(choices), **members}


def piece(index: int = 0, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": finish}


ROLE = chunk(piece(role="assistant", content="", refusal=None))
TEXT = chunk(piece(content="hi"))
FINISH = chunk(piece(finish="stop"))
TOTALS = chunk(usage=USAGE)
DONE = b"[DONE]"


def see(meter: OpenAIMeter, payload: Any, name: bytes = b"") -> None:
    data = payload if isinstance(payload, bytes) else json.dumps(payload, separators=(",", ":")).encode()
    meter.see(Event(name, data, b""))


def meter_after(*payloads: Any) -> OpenAIMeter:
    meter = OpenAIMeter()
    for payload in payloads:
        see(meter, payload)
    return meter


# --- content


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "x"},
        {"refusal": "no"},
        {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}]},
        {"reasoning_content": "hm"},
        {"reasoning_details": [{"text": "hm"}]},
        {"role": "assistant", "content": "x"},
    ],
)
def test_a_delta_with_content_of_any_kind_is_visible(delta: dict[str, Any]) -> None:
    assert meter_after(ROLE, chunk(piece(**delta))).visible


@pytest.mark.parametrize("payload", [ROLE, FINISH, TOTALS, DONE, chunk(), {"error": {"message": "no"}}])
def test_what_brings_no_content_is_not_visible(payload: Any) -> None:
    assert not meter_after(ROLE, payload).visible


# --- the end


def test_a_stream_is_completed_only_when_every_choice_has_finished() -> None:
    other = chunk(piece(index=1, content="b"))

    assert meter_after(ROLE, TEXT, other, FINISH).outcome == "truncated"
    assert meter_after(ROLE, TEXT, other, FINISH, chunk(piece(index=1, finish="length"))).outcome == "completed"


def test_done_without_a_finish_reason_is_no_success() -> None:
    meter = meter_after(ROLE, TEXT, DONE)

    assert (meter.outcome, meter.ended) == ("truncated", True)


def test_the_usage_may_come_after_the_finish_reason() -> None:
    meter = meter_after(ROLE, TEXT, FINISH)
    assert (meter.outcome, meter.ended, meter.usage) == ("completed", False, None)

    see(meter, TOTALS)

    assert meter.usage is not None
    assert (meter.usage.prompt_tokens, meter.usage.cache_read_tokens, meter.usage.final) == (23, 5, True)


def test_nothing_counts_after_done() -> None:
    meter = meter_after(
        ROLE, FINISH, TOTALS, DONE, chunk(usage={**USAGE, "completion_tokens": 9}), TEXT, {"error": "x"}
    )

    assert (meter.outcome, meter.error, meter.visible) == ("completed", None, False)
    assert meter.usage is not None and meter.usage.output_tokens == 4


def test_usage_inside_a_choice_counts_only_where_there_is_none_at_top_level() -> None:
    inside = chunk({**piece(finish="stop"), "usage": {**USAGE, "completion_tokens": 9}})

    for payloads, expected in [([inside], 9), ([inside, TOTALS], 4), ([TOTALS, inside], 4)]:
        meter = meter_after(ROLE, *payloads)
        assert meter.usage is not None and meter.usage.output_tokens == expected

    both = meter_after(ROLE, {**inside, "usage": USAGE})
    assert both.usage is not None and both.usage.output_tokens == 4


def test_usage_may_still_come_after_an_error() -> None:
    meter = meter_after(ROLE, TEXT, {"error": {"message": "cut"}}, TOTALS, DONE)

    assert (meter.outcome, meter.ended) == ("error", True)
    assert meter.usage is not None and meter.usage.output_tokens == 4


# --- errors in every place


@pytest.mark.parametrize(
    ("payload", "name", "error"),
    [
        ({"error": {"message": "m", "type": "t", "code": "c"}}, b"", {"type": "t", "message": "m", "code": "c"}),
        ({"error": "busy"}, b"", {"type": None, "message": "busy", "code": None}),
        ({"error": {"message": "m", "code": 503}}, b"", {"type": None, "message": "m", "code": "503"}),
        (
            {"object": "error", "message": "m", "type": "t", "code": 400},
            b"",
            {"type": "t", "message": "m", "code": "400"},
        ),
        ({"message": "m"}, b"error", {"type": None, "message": "m", "code": None}),
        ({"type": "error", "code": "c", "message": "m"}, b"error", {"type": "c", "message": "m", "code": "c"}),
        (chunk(piece(finish="error")), b"", {"type": None, "message": "", "code": None}),
    ],
)
def test_an_error_is_read_in_any_shape(payload: Any, name: bytes, error: dict[str, Any]) -> None:
    meter = meter_after(ROLE, TEXT)
    see(meter, payload, name)

    assert (meter.outcome, meter.error) == ("error", error)


def test_a_response_that_failed_or_was_cut_short_says_how_it_ended() -> None:
    failed = meter_after({"type": "response.failed", "response": {"status": "failed", "error": None}})
    short = meter_after({"type": "response.incomplete", "response": {"status": "incomplete"}})

    assert (failed.outcome, failed.stop_reason, failed.visible) == ("error", "failed", False)
    assert (short.outcome, short.stop_reason) == ("completed", "incomplete")


def test_a_200_with_an_error_body_is_an_error() -> None:
    meter = OpenAIMeter()
    meter.see_body(b'{"error":{"message":"m","type":"server_error"}}')

    assert (meter.outcome, meter.ended, meter.visible) == ("error", True, False)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"choices":[]}', b'{"object":"response","status":"queued"}']
)
def test_a_body_that_is_no_whole_answer_is_no_success(body: bytes) -> None:
    meter = OpenAIMeter()
    meter.see_body(body)

    assert (meter.outcome, meter.ended, meter.visible) == ("truncated", False, False)


# --- nothing raises


@pytest.mark.parametrize(
    "data",
    [
        b'{"choices":[{"delta":{"content":"x',
        b'{"x":"\xff\xfe\x80"}',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"n":' + b"9" * 5000 + b"}",
        b'{"choices":{"index":0},"id":7,"model":[],"service_tier":{}}',
        b'{"choices":[null,1,"x"],"usage":"much"}',
        b'{"choices":[{"index":null,"delta":"x","finish_reason":[1]}]}',
        b'{"type":"response.completed"}',
        b'{"type":["response."]}',
        b"",
        b"null",
    ],
)
def test_a_chunk_that_makes_no_sense_changes_nothing_that_was_known(data: bytes) -> None:
    meter = meter_after(ROLE, TEXT, data, TEXT, FINISH, TOTALS, DONE)

    assert (meter.outcome, meter.message_id, meter.model, meter.stop_reason) == ("completed", "cc", "g", "stop")
    assert meter.usage is not None and meter.usage.output_tokens == 4


def test_a_server_cannot_make_the_meter_remember_more_choices_than_there_can_be() -> None:
    meter = meter_after(*(chunk(piece(index=index, finish="stop")) for index in range(MAX_CHOICES)))

    see(meter, chunk(piece(index=10**9, content="x")))

    assert meter.outcome == "completed"


# --- skipped chunks

# Text that would look like the rest of a chunk to a careless reader.
TRICKY = [
    *('"', "\\", '\\"', '"},"finish_reason":"stop"}]}', '","finish_reason":"stop', '"usage":{"prompt_tokens":1}'),
    *("", "a", " ", "\n", "é", "\u2028", "🤖"),
]
texts = st.lists(st.sampled_from(TRICKY), max_size=5).map("".join)
PADDINGS = ["none", "first", "middle", "last"]
NEWS = ["nothing", "finish", "ok", "usage", "error"]


class Server(NamedTuple):
    """How a server writes a chunk: order and number of members, padding, spaces, escapes."""

    key: str = "content"
    padding: str = "none"
    usage_null: bool = True
    ascii: bool = True
    separators: tuple[str, str] = (",", ":")

    def write(self, index: int, text: str, pad: str, news: str = "nothing") -> bytes:
        """A chunk with this text that may say something else besides; the reason "ok" is just as long as null."""
        padding = {"obfuscation": pad}
        payload = {
            **(padding if self.padding == "first" else {}),
            **chunk(piece(index, {"finish": "stop", "ok": "ok"}.get(news), **{self.key: text})),
            **(padding if self.padding == "middle" else {}),
            **({"usage": None} if self.usage_null else {}),
            **({"usage": USAGE} if news == "usage" else {}),
            **({"error": {"message": "m"}} if news == "error" else {}),
            **(padding if self.padding == "last" else {}),
        }
        return json.dumps(payload, ensure_ascii=self.ascii, separators=self.separators).encode()


servers = st.builds(
    Server,
    key=st.sampled_from(["content", "reasoning_content"]),
    padding=st.sampled_from(PADDINGS),
    usage_null=st.booleans(),
    ascii=st.booleans(),
    separators=st.sampled_from([(",", ":"), (", ", ": ")]),
)


@pytest.mark.parametrize("usage_null", [True, False])
@pytest.mark.parametrize("news", NEWS)
@pytest.mark.parametrize("padding", PADDINGS)
def test_what_a_chunk_says_is_seen_though_it_looks_like_those_before(padding: str, news: str, usage_null: bool) -> None:
    server = Server(padding=padding, usage_null=usage_null)

    meter = meter_after(*(server.write(0, "ab", pad) for pad in "pqrs"), server.write(0, "cd", "t", news))

    assert meter.outcome == {"finish": "completed", "ok": "completed", "error": "error"}.get(news, "truncated")
    assert (meter.usage is not None) == (news == "usage")


@given(servers, st.lists(st.tuples(st.integers(0, 1), texts, texts), min_size=1, max_size=12), st.data())
def test_no_text_hides_what_a_chunk_says_or_says_it_itself(
    server: Server, pieces: list[tuple[int, str, str]], data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(pieces) - 1))
    news = data.draw(st.sampled_from(NEWS))
    chunks = [server.write(*each, news if number == at else "nothing") for number, each in enumerate(pieces)]

    meter = meter_after(*chunks)

    finished = {pieces[at][0]} if news in ("finish", "ok") else set()
    completed = finished == {index for index, _, _ in pieces}
    assert meter.outcome == ("error" if news == "error" else "completed" if completed else "truncated")
    assert (meter.usage is not None) == (news == "usage")
    assert meter.visible == any(text for _, text, _ in pieces)


def test_a_tool_call_whose_arguments_contain_a_finished_chunk_goes_on() -> None:
    call = [{"index": 0, "function": {"arguments": '{"a":"'}}]
    lying = [{"index": 0, "function": {"arguments": json.dumps(FINISH)}}]

    meter = meter_after(
        ROLE, chunk(piece(tool_calls=call)), chunk(piece(tool_calls=lying)), chunk(piece(tool_calls=call))
    )
    assert (meter.outcome, meter.visible) == ("truncated", True)

    see(meter, chunk(piece(finish="tool_calls")))
    assert (meter.outcome, meter.stop_reason) == ("completed", "tool_calls")


def test_a_chunk_like_one_that_did_not_parse_is_parsed() -> None:
    broken = b'{"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":"stop"}]}'

    meter = meter_after(ROLE, TEXT, broken % rb"\q")
    assert meter.outcome == "truncated"

    see(meter, broken % b"q")
    assert meter.outcome == "completed"


def test_text_after_an_empty_text_is_visible() -> None:
    assert not meter_after(ROLE, chunk(piece(content=""))).visible
    assert meter_after(ROLE, chunk(piece(content="")), TEXT).visible
