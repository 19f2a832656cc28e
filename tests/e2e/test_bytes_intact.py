"""What the provider receives is what the client sent, whatever JSON it is; only a routed model name is changed.

A prompt cache hit needs identical bytes, so nothing is compared here but bytes: those written to the relay's socket and
those that arrived at a upstream.
"""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import json_text
from tests.support.badprovider import BadProvider
from tests.support.fixtures import response
from tests.support.http import Exchange, render
from tests.support.json_text import Spelled
from tests.support.relay import Relay, message
from tests.support.sse import SseReader
from tests.support.upstream import answer, in_turn, metronome
from tests.support.wait import wait_until

MIB = 1 << 20
KEYS = ["a", "", "model", "text", "metadata", "\u00e9"]


@st.composite
def bodies(draw: st.DrawFn, model: bytes) -> Spelled:
    """A request in any spelling JSON allows, with repeated keys, odd numbers and half surrogate pairs in it."""
    extra = st.tuples(st.sampled_from(["metadata", "temperature", "x", "tools_"]), json_text.values(KEYS))
    prompt = Spelled(b"[" + draw(json_text.values(KEYS)).raw + b"]")
    members = [("model", Spelled(model)), ("messages", prompt), *draw(st.lists(extra, max_size=4))]
    return draw(json_text.objects(draw(st.permutations(members))))


@given(body=bodies(b'"claude-sonnet-4-6"'), blanks=json_text.blanks)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_json_arrives_byte_for_byte(
    relay: Relay, upstream: BadProvider, body: Spelled, blanks: bytes
) -> None:
    upstream.reset()
    upstream.script = answer(response("anthropic", "plain"))
    sent = blanks + body.raw + blanks
    answered = await relay.post("/v1/messages", sent)
    assert answered.status == 200, answered.body
    assert [call.body for call in upstream.calls] == [sent]


@given(body=bodies(b'"anthropic/claude-sonnet-4-6"'))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_routing_changes_the_model_and_nothing_else(relay: Relay, upstream: BadProvider, body: Spelled) -> None:
    upstream.reset()
    upstream.script = answer(response("anthropic", "plain"))
    start, model = body.part("model")
    renamed = body.raw[:start] + b'"claude-sonnet-4-6"' + body.raw[start + len(model.raw) :]
    answered = await relay.post("/v1/messages", body.raw)
    assert answered.status == 200, answered.body
    assert [call.body for call in upstream.calls] == [renamed]


def one_long_text(size: int) -> bytes:
    """As an image in base64 is: one value, most of the body."""
    return base64.b64encode(random.Random(1).randbytes(size * 3 // 4))


def many_small_values(size: int) -> bytes:
    """As dense as JSON gets, which is the dearest to parse."""
    return b'",[1,-2.5e3,true,{"a":null}],"' * (size // 30)


@pytest.mark.alone
@pytest.mark.parametrize("content", [one_long_text, many_small_values], ids=["one long text", "many small values"])
async def test_thirty_megabytes_arrive_intact_and_hold_up_nobody(
    content: Callable[[int], bytes], relay: Relay, upstream: BadProvider
) -> None:
    body = b'{"model":"claude-sonnet-4-6","messages":[{"role":"user","content":["' + content(30 * MIB) + b'"]}]}'
    enough = asyncio.Event()
    ticks = metronome(enough, every_s=0.01)
    upstream.script = in_turn(ticks, ticks, answer(response("anthropic", "plain")))
    clock = asyncio.get_running_loop().time
    ask = render("POST", "/v1/messages", body=b"{}")
    async with (
        await relay.stream(message("claude-sonnet-4-6", stream=True)) as beside,
        SseReader(await Exchange.open(upstream.port, ask)) as control,
    ):
        reading = asyncio.gather(beside.rest(60), control.rest(60))
        calm_from = clock()
        await wait_until(lambda: len(beside.arrivals) > 80)
        busy_from = clock()
        answered = await relay.post("/v1/messages", body)
        busy_to = clock()
        enough.set()
        await reading
    assert answered.status == 200
    assert upstream.calls[-1].body == body
    # What the machine and this process add is seen before, and at the same time on a stream that is not relayed.
    usual = max(longest_gap(beside.arrivals, calm_from, busy_from), longest_gap(control.arrivals, busy_from, busy_to))
    busy = longest_gap(beside.arrivals, busy_from, busy_to)
    assert busy <= usual + 0.050, f"another stream stood still for {busy * 1000:.0f} ms, usually {usual * 1000:.0f} ms"


def longest_gap(arrivals: list[float], start: float, end: float) -> float:
    return max(
        later - earlier for earlier, later in pairwise(arrivals) if earlier >= start - 0.1 and later <= end + 0.1
    )


async def test_the_request_on_the_wire_may_come_in_pieces(relay: Relay, upstream: BadProvider) -> None:
    upstream.script = answer(response("anthropic", "plain"))
    body = b'{"model":"claude-sonnet-4-6","messages":[{"role":"user","content":"\\ud83d\\ude00 1.10"}]}'
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:5], body[5:40], body[40:])) + b"0\r\n\r\n"
    answered = await relay.raw("POST", "/v1/messages", [("transfer-encoding", "chunked")], pieces)
    assert answered.status == 200
    assert upstream.calls[0].body == body


async def test_the_digest_of_each_prefix_is_told_as_received_and_as_sent(relay: Relay, upstream: BadProvider) -> None:
    upstream.script = answer(response("anthropic", "plain"))
    system = [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]
    asked = [("x-relay-prompt-digests", "1")]
    answered = await relay.post("/v1/messages", message("anthropic/claude-x", system=system), asked)
    received = answered.headers.get("x-relay-prompt-sha256-received")
    assert received and received.startswith("system.0=")
    assert answered.headers.get("x-relay-prompt-sha256-sent") == received
