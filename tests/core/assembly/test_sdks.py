"""What the official SDKs' own accumulators make of the same streams, and of a snapshot with its tail, over a socket.

Where an SDK differs from an assembled body is written down here, with the reason.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
from anthropic import APIStatusError, AsyncAnthropic
from openai import APIError, AsyncOpenAI

from tests.core.assembly.logs import COMPLETIONS, MESSAGES, Log, bare, body_of, snapshot_of
from tests.support.upstream import Upstream, replay, serving

HELLO: Any = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}

# Anthropic's SDK cannot read a stream that leaves out a usage.
READABLE = [log for log in MESSAGES if log.expected.get("sdk", {}).get("raises") != "AttributeError"]

# Members of the usage in which it does not follow the rules of the relay.
OWN_USAGE = {
    "compat-zero-input-in-delta": ["input_tokens", "cache_read_input_tokens"],  # zeros at the end win
    "compat-cache-in-delta-only": ["prompt_tokens_details"],  # nothing foreign is merged
    "server-tool-auto-5m": ["cache_creation"],  # the split stays that of the start,
    "server-side-fallback": ["cache_creation"],  # even of another attempt
}


class Read(NamedTuple):
    """What an SDK has in the end, and the error it raised."""

    answer: Any
    error: str | None


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Upstream]:
    async with serving(Upstream()) as upstream:
        yield upstream


@pytest.fixture(scope="module")
async def anthropic(server: Upstream) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=server.url, api_key="k", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
async def openai(server: Upstream) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0) as client:
        yield client


async def read_message(server: Upstream, client: AsyncAnthropic, events: list[bytes], *, beta: bool) -> Read:
    server.script = replay(b"".join(events))
    answer = None
    stream_of = client.beta.messages.stream if beta else client.messages.stream
    async with stream_of(max_tokens=9, **HELLO) as stream:
        try:
            async for _ in stream:
                answer = bare(stream.current_message_snapshot.to_dict(warnings=False))
        except APIStatusError as error:
            return Read(answer, f"{error.type}: {error.message}")
    return Read(answer, None)


async def read_completion(server: Upstream, client: AsyncOpenAI, events: list[bytes]) -> Read:
    server.script = replay(b"".join(events))
    answer = None
    async with client.chat.completions.stream(**HELLO) as stream:
        try:
            async for event in stream:
                if event.type == "chunk":
                    answer = bare(event.snapshot.to_dict(warnings=False))
        except APIError as error:
            return Read(answer, error.message)
    return Read(answer, None)


# --- Anthropic


@pytest.mark.parametrize("beta", [False, True])
@pytest.mark.parametrize("log", READABLE, ids=str)
async def test_anthropics_sdk_builds_the_same_message(
    log: Log, beta: bool, server: Upstream, anthropic: AsyncAnthropic
) -> None:
    message = (await read_message(server, anthropic, log.events, beta=beta)).answer
    body = bare(body_of("anthropic", log.events))

    if log.name == "max-tokens-inside-tool":
        # It reads half an object as a smaller one.
        assert message["content"][0].pop("input") == log.expected["sdk"]["differs"]["tool_input"]
        assert body["content"][0].pop("input") == {}
    if log.name == "server-side-fallback" and not beta:
        # Only its beta half knows of fallbacks.
        assert (message.pop("model"), body.pop("model")) == ("claude-fable-5", "claude-opus-4-8")
        assert body["usage"].pop("iterations") and "iterations" not in message["usage"]
    for name in OWN_USAGE.get(log.name, []):
        assert body["usage"].pop(name) != message["usage"].pop(name, None)
    assert message == body


@pytest.mark.parametrize("beta", [False, True])
@pytest.mark.parametrize("log", READABLE, ids=str)
async def test_anthropics_sdk_cannot_tell_a_snapshot_and_its_tail_from_the_whole(
    log: Log, beta: bool, server: Upstream, anthropic: AsyncAnthropic
) -> None:
    whole = await read_message(server, anthropic, log.events, beta=beta)

    for cut in range(1, len(log.events) + 1):
        late = [*snapshot_of("anthropic", log.events[:cut]), *log.events[cut:]]
        assert await read_message(server, anthropic, late, beta=beta) == whole


# --- OpenAI


@pytest.mark.parametrize("log", COMPLETIONS, ids=str)
async def test_openais_sdk_builds_the_same_completion(log: Log, server: Upstream, openai: AsyncOpenAI) -> None:
    read = await read_completion(server, openai, log.events)
    body = bare(body_of("openai", log.events))

    assert followed(read.answer, log) == followed(body, log)


@pytest.mark.parametrize("log", COMPLETIONS, ids=str)
async def test_openais_sdk_cannot_tell_a_snapshot_and_its_tail_from_the_whole(
    log: Log, server: Upstream, openai: AsyncOpenAI
) -> None:
    whole = await read_completion(server, openai, log.events)

    for cut in range(1, len(log.events) + 1):
        late = await read_completion(server, openai, [*snapshot_of("openai", log.events[:cut]), *log.events[cut:]])
        assert late.error == whole.error
        assert followed(late.answer, log) == followed(whole.answer, log)


def followed(completion: dict[str, Any], log: Log) -> dict[str, Any]:
    """What the SDK follows through a stream.

    Members that it does not know it takes from a choice's first chunk alone, the fingerprint and the usage from the
    last one, null included; tool calls keep the index they have in streams.
    """
    dropped = {"provider", "system_fingerprint"} | ({"usage"} if log.name == "usage-null-after-totals" else set())
    choices = [
        {name: value for name, value in choice.items() if name not in ("native_finish_reason", "usage")}
        for choice in completion["choices"]
    ]
    for choice in choices:
        for call in choice["message"].get("tool_calls", []):
            call.pop("index", None)
    return {name: value for name, value in completion.items() if name not in dropped} | {"choices": choices}
