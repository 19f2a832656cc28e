"""An application that uses the official SDK and changes nothing but the base URL and the key."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from anthropic import Anthropic, AsyncAnthropic

from tests.support.badprovider import BadProvider
from tests.support.fixtures import ROOT, requests, response, transcript
from tests.support.relay import Relay
from tests.support.upstream import JSON, answer, replay

MODEL = "claude-sonnet-4-6"
HELLO: Any = {"model": MODEL, "max_tokens": 50, "messages": [{"role": "user", "content": "Hello"}]}
# Headers that belong to one hop: the client's connection, its key, its SDK, and the relay's own name for the call.
OF_THE_HOP = {"host", "connection", "content-length", "accept", "accept-encoding", "user-agent"}
OF_THE_HOP |= {"x-api-key", "authorization"}


def end_to_end(headers: Any) -> dict[str, str]:
    return {
        name.lower(): value
        for name, value in headers
        if name.lower() not in OF_THE_HOP and not name.lower().startswith(("x-stainless", "x-relay"))
    }


@pytest.mark.parametrize("name", requests("anthropic"))
async def test_a_prompt_of_any_kind_reaches_the_provider_as_the_sdk_wrote_it(
    name: str, direct: AsyncAnthropic, relayed: AsyncAnthropic, upstream: BadProvider
) -> None:
    upstream.script = answer(response("anthropic", "plain"))
    body = requests("anthropic")[name] | {"model": MODEL, "stream": False}
    for client in (direct, relayed):
        await client.post("/v1/messages", body=body, cast_to=object)
    straight, through = upstream.calls
    assert through.body == straight.body
    assert end_to_end(through.headers) == end_to_end(straight.headers)
    assert through.headers.get("x-api-key") == "a-provider-key"


@pytest.mark.parametrize("name", ["plain", "tool-use-thinking", "server-tools", "cache-mixed-ttl", "refusal"])
async def test_an_answer_that_is_no_stream_is_the_same(
    name: str, direct: AsyncAnthropic, relayed: AsyncAnthropic, upstream: BadProvider
) -> None:
    upstream.script = answer(response("anthropic", name))
    straight = await direct.messages.with_raw_response.create(**HELLO)
    through = await relayed.messages.with_raw_response.create(**HELLO)
    assert await through.read() == await straight.read() == response("anthropic", name)
    assert await through.parse() == await straight.parse()
    assert through.headers["request-id"] == "req_scripted"
    assert through.headers["x-relay-job-id"]


async def test_a_raw_stream_of_events(relayed: AsyncAnthropic, direct: AsyncAnthropic, upstream: BadProvider) -> None:
    upstream.script = replay(transcript("anthropic", "tool-use-parallel").stream)
    through = [event async for event in await relayed.messages.create(stream=True, **HELLO)]
    straight = [event async for event in await direct.messages.create(stream=True, **HELLO)]
    assert through == straight


async def test_the_synchronous_client(relay: Relay, upstream: BadProvider) -> None:
    upstream.script = replay(transcript("anthropic", "plain-text").stream)

    def ask() -> str:
        with Anthropic(base_url=relay.url, api_key=relay.key) as client, client.messages.stream(**HELLO) as stream:
            return "".join(stream.text_stream)

    assert await asyncio.to_thread(ask) == "Hello, world."


async def test_the_beta_client_with_its_features(
    relayed: AsyncAnthropic, direct: AsyncAnthropic, upstream: BadProvider
) -> None:
    upstream.script = replay(transcript("anthropic", "plain-text").stream)
    for client in (direct, relayed):
        async with client.beta.messages.stream(betas=["a-feature-2026-01-01", "another"], **HELLO) as stream:
            assert await stream.get_final_text() == "Hello, world."
    straight, through = upstream.calls
    assert end_to_end(through.headers) == end_to_end(straight.headers)
    assert through.headers.get("anthropic-beta") == "a-feature-2026-01-01,another"


async def test_the_query_of_the_url_goes_upstream(relay: Relay, upstream: BadProvider) -> None:
    upstream.script = answer(response("anthropic", "plain"))
    assert (await relay.post("/v1/messages?beta=true", HELLO)).status == 200
    assert upstream.calls[0].path == "/v1/messages?beta=true"


async def test_the_key_as_a_bearer_token(relay: Relay, upstream: BadProvider) -> None:
    upstream.script = answer(response("anthropic", "plain"))
    async with AsyncAnthropic(base_url=relay.url, auth_token=relay.key, max_retries=0) as client:
        await client.messages.create(**HELLO)
    [call] = upstream.calls
    assert relay.key not in str(call.headers)


async def test_counting_tokens(relayed: AsyncAnthropic, upstream: BadProvider) -> None:
    upstream.script = answer((ROOT / "misc" / "anthropic-count-tokens.json").read_bytes())
    counted = await relayed.messages.count_tokens(model=MODEL, messages=HELLO["messages"])
    assert counted.input_tokens == 2095
    assert upstream.calls[0].path == "/v1/messages/count_tokens"


async def test_the_list_of_models(relayed: AsyncAnthropic, upstream: BadProvider) -> None:
    listed = [model.id async for model in relayed.models.list()]
    assert MODEL in listed
    assert len(set(listed)) == len(listed)


async def test_a_bare_model_name_is_passed_on_untouched(relayed: AsyncAnthropic, upstream: BadProvider) -> None:
    upstream.script = answer(response("anthropic", "plain"))
    await relayed.messages.create(**HELLO)
    assert upstream.calls[0].json["model"] == MODEL


async def test_a_model_name_with_its_provider_is_renamed_and_nothing_else(relay: Relay, upstream: BadProvider) -> None:
    upstream.script = answer(response("anthropic", "plain"))
    odd = b'{ "messages":[{"role":"user","content":"\\u0041 1e3"}], "max_tokens":1e1,\n"model" :"anthropic/claude-x" }'
    await relay.post("/v1/messages", odd)
    assert upstream.calls[0].body == odd.replace(b'"anthropic/claude-x"', b'"claude-x"')


async def test_a_model_name_by_alias(relayed: AsyncAnthropic, upstream: BadProvider) -> None:
    upstream.script = answer(response("anthropic", "plain"))
    await relayed.messages.create(**HELLO | {"model": "fast"})  # as the relay.toml of these tests says
    assert upstream.calls[0].json["model"] == "claude-haiku-4-5"
    assert "fast" in [model.id async for model in relayed.models.list()]


async def test_the_paths_without_a_version_answer_as_well(relay: Relay, upstream: BadProvider) -> None:
    upstream.script = answer(response("anthropic", "plain"), headers=JSON)
    answered = await relay.post("/messages", HELLO)
    assert answered.status == 200
    assert answered.body == response("anthropic", "plain")
