"""Every recorded provider stream through the running relay: the same bytes, the same events, the same SDK results."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic

from tests.support.badprovider import BadProvider
from tests.support.fixtures import Transcript, transcript, transcripts
from tests.support.oracles import end_of
from tests.support.relay import Relay, message
from tests.support.sse import parse
from tests.support.upstream import replay

MODEL = "claude-sonnet-4-6"
ANTHROPIC = transcripts("anthropic")
WHOLE = [each for each in ANTHROPIC if each.expected["outcome"] != "truncated"]
CANONICAL = [each for each in WHOLE if each.is_canonical]


def named(each: Transcript) -> str:
    return each.name


def cuts(stream: bytes) -> list[int]:
    """Places to cut a stream at: in the middle of names, of JSON and of characters."""
    return list(range(7, len(stream), max(7, len(stream) // 40)))


@pytest.mark.parametrize("recorded", CANONICAL, ids=named)
async def test_a_stream_arrives_byte_for_byte(recorded: Transcript, relay: Relay, upstream: BadProvider) -> None:
    upstream.script = replay(recorded.stream, cut_at=cuts(recorded.stream))
    async with await relay.stream(message(MODEL, stream=True)) as reader:
        await reader.rest()
    assert reader.status == 200
    assert reader.received == recorded.stream


@pytest.mark.parametrize("recorded", [each for each in WHOLE if not each.is_canonical], ids=named)
async def test_an_oddly_written_stream_arrives_with_the_same_events(
    recorded: Transcript, relay: Relay, upstream: BadProvider
) -> None:
    upstream.script = replay(recorded.stream, cut_at=cuts(recorded.stream))
    async with await relay.stream(message(MODEL, stream=True)) as reader:
        await reader.rest()
    # Where the last blank line is missing, the strict rules drop the event; the relay must not.
    assert parse(reader.received) == parse(recorded.stream + b"\n\n")


async def test_a_stream_that_breaks_off_ends_in_an_error_event(relay: Relay, upstream: BadProvider) -> None:
    cut = transcript("anthropic", "truncated-connection").stream
    upstream.script = replay(cut)
    async with await relay.stream(message(MODEL, stream=True)) as reader:
        events = await reader.rest()
    assert reader.received.startswith(cut)
    assert end_of(events) == "upstream_truncated"


async def outcome(client: AsyncAnthropic, **arguments: Any) -> Any:
    """Everything an application can see of a stream: its events, its final message, or how it failed."""
    seen: list[Any] = []
    try:
        async with client.messages.stream(model=MODEL, max_tokens=50, **arguments) as stream:
            async for event in stream:
                seen.append(event.to_dict())
            return seen, (await stream.get_final_message()).to_dict()
    except anthropic.APIStatusError as error:
        return seen, type(error), error.status_code, error.body
    except Exception as error:  # some streams make the SDK itself stumble: it must stumble alike
        return seen, type(error), str(error)


@pytest.mark.parametrize("recorded", CANONICAL, ids=named)
async def test_the_sdk_sees_what_it_sees_without_the_relay(
    recorded: Transcript, direct: AsyncAnthropic, relayed: AsyncAnthropic, upstream: BadProvider
) -> None:
    upstream.script = replay(recorded.stream)
    prompt = [{"role": "user", "content": "Hello"}]
    assert await outcome(relayed, messages=prompt) == await outcome(direct, messages=prompt)
