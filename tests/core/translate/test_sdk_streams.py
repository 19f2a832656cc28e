"""Translated streams through the official SDKs' own accumulators, over a socket, cut anywhere.

The one place in the core's tests that opens one: what an SDK stumbles on is found by the SDK alone.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any

import pytest
from anthropic import APIStatusError, AsyncAnthropic
from openai import APIError, AsyncOpenAI, ContentFilterFinishReasonError, LengthFinishReasonError

from tests.core.translate.playing import CREATED, Read, read_chunks, read_message, to_anthropic, to_openai
from tests.support.fixtures import Transcript, transcripts
from tests.support.upstream import Upstream, replay, serving

ANTHROPIC = transcripts("anthropic")
OPENAI = [each for each in transcripts("openai") if not each.name.startswith("responses")]
HELLO: Any = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}

# The SDK's own way with answers that were cut; from OpenAI itself they raise the same.
RAISES = {"length": LengthFinishReasonError, "content_filter": ContentFilterFinishReasonError}


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


def served(server: Upstream, body: bytes) -> None:
    server.script = replay(body, cut_at=range(40, len(body), 997))


@pytest.mark.parametrize("transcript", OPENAI, ids=lambda each: each.name)
async def test_anthropics_sdk_accumulates_a_translated_stream(
    transcript: Transcript, server: Upstream, anthropic: AsyncAnthropic
) -> None:
    played = to_anthropic(transcript.stream)
    served(server, played.body)
    expected = read_message(played.data)

    async with anthropic.messages.stream(max_tokens=9, **HELLO) as stream:
        if "error" in expected:
            with pytest.raises(APIStatusError) as failed:
                await stream.get_final_message()
            assert (failed.value.type, failed.value.status_code) == (expected["error"]["type"], 200)
            return
        events = [event.type async for event in stream]
        message = (await stream.get_final_message()).to_dict()

    assert events[0] == "message_start" and events[-1] == "message_stop"
    for block in expected["content"]:
        if "json" in block:
            block["input"] = json.loads(block.pop("json"))
    # The SDK does not merge the split, which officially stands in message_start alone.
    expected["usage"]["cache_creation"] = played.data[0]["message"]["usage"]["cache_creation"]
    got = {name: value for name, value in message.items() if name in expected}
    assert without_null(got) == without_null(expected)


@pytest.mark.parametrize("transcript", ANTHROPIC, ids=lambda each: each.name)
async def test_openais_sdk_accumulates_a_translated_stream(
    transcript: Transcript, server: Upstream, openai: AsyncOpenAI
) -> None:
    played = to_openai(transcript.stream, include_usage=True)
    served(server, played.body)
    expected = read_chunks(played.data)

    async with openai.chat.completions.stream(stream_options={"include_usage": True}, **HELLO) as stream:
        if expected.error:
            with pytest.raises(APIError, match=expected.error["message"]):
                await stream.get_final_completion()
            return
        chunks = [event async for event in stream if event.type == "chunk"]
        with pytest.raises(RAISES[expected.reason]) if expected.reason in RAISES else nullcontext():
            await stream.get_final_completion()

    completion = chunks[-1].snapshot.to_dict()
    assert completion["created"] == CREATED
    assert_says(completion, expected)


def assert_says(completion: dict[str, Any], expected: Read) -> None:
    [choice] = completion["choices"]
    message = choice["message"]
    assert (message["content"] or "", message.get("reasoning_content", "")) == (expected.text, expected.reasoning)
    calls = [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls") or []]
    assert calls == expected.calls
    thoughts = [{**block} for block in message.get("thinking_blocks", [])]
    assert [block.pop("index") for block in thoughts] == list(range(len(thoughts)))
    assert thoughts == expected.thoughts
    assert (choice["finish_reason"], message.get("refusal")) == (expected.reason, expected.refusal)
    assert completion["usage"] == expected.usage


def without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_null(each) for name, each in value.items() if each is not None}
    return [without_null(each) for each in value] if isinstance(value, list) else value
