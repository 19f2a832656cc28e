"""Breakpoints on their way to a provider: those of the client, kept, translated or stripped; and those of the relay.

What becomes of a marker is said in a header of the answer and in the usage record, in the same words.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from redis.asyncio import Redis

from relay.broker.api_keys import ApiKeys
from tests.support import http
from tests.support.badprovider import BadProvider
from tests.support.http import Response
from tests.support.oracles import usage_of
from tests.support.relay import Relay, message
from tests.support.upstream import answer
from tests.support.wait import wait_until

PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
HEADER = "x-relay-cache-control"


def mark(ttl: str = "") -> dict[str, Any]:
    return {"cache_control": {"type": "ephemeral"} | ({"ttl": ttl} if ttl else {})}


def text(text: str, ttl: str | None = None) -> dict[str, Any]:
    return {"type": "text", "text": text} | ({} if ttl is None else mark(ttl))


# The same prompt on either surface: one marker for an hour in front, one for five minutes behind.
MARKED = {
    "anthropic": {
        "system": [text("Be brief.", "1h")],
        "messages": [{"role": "user", "content": [text("Hello", "")]}],
        "max_tokens": 5,
    },
    "openai": {
        "messages": [
            {"role": "system", "content": [text("Be brief.", "1h")]},
            {"role": "user", "content": [text("Hello", "")]},
        ],
        "max_tokens": 5,
    },
}
PLACES = {"anthropic": ("system.0", "messages.0.content.0"), "openai": ("messages.0.content.0", "messages.1.content.0")}


async def record_of(redis: Redis, answered: Response) -> dict[str, str]:
    job_id = answered.headers.get("x-relay-job-id") or ""
    [record] = await wait_until(lambda: usage_of(redis, job_id))
    return record  # type: ignore[no-any-return]


async def ask(relay: Relay, surface: str, body: Any, *headers: tuple[str, str]) -> Response:
    answered = await relay.post(PATHS[surface], body, headers)
    assert answered.status == 200, answered.body
    return answered


# --- the client's own


def stripped(places: tuple[str, str]) -> str:
    return f"stripped={places[0]};ttl=1h, stripped={places[1]};ttl=5m"


def translated(places: tuple[str, str]) -> str:
    return f"translated={places[0]};ttl=1h;as=12h, translated={places[1]};ttl=5m;as=30m"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("surface", PATHS)
@pytest.mark.parametrize(
    ("provider", "said"),
    [("anthropic", ""), ("keeping", ""), ("stripping", stripped), ("openai", stripped), ("explicit", translated)],
)
async def test_what_becomes_of_a_marker_is_said(
    provider: str, said: Any, surface: str, stream: bool, translating: Relay, upstream: BadProvider, third: Redis
) -> None:
    body = MARKED[surface] | {"model": f"{provider}/m@", "stream": stream}

    answered = await ask(translating, surface, body)

    expected = said(PLACES[surface]) if said else ""
    assert answered.headers.get(HEADER) == (expected or None)
    assert (await record_of(third, answered))["cache_control"] == expected
    sent = upstream.calls[0].body
    assert (sent.count(b'"cache_control"'), sent.count(b'"prompt_cache_breakpoint"')) == {
        "": (2, 0),
        stripped: (0, 0),
        translated: (0, 2),
    }[said]


async def test_a_marker_crosses_whole(translating: Relay, upstream: BadProvider) -> None:
    await ask(translating, "openai", MARKED["openai"] | {"model": "anthropic/m@"})
    sent = upstream.calls[0].json
    assert sent["system"] == MARKED["anthropic"]["system"]
    assert sent["messages"] == MARKED["anthropic"]["messages"]


async def test_writes_are_counted_for_the_time_that_was_asked_for(
    translating: Relay, upstream: BadProvider, third: Redis
) -> None:
    """Anthropic's older answers tell their sum only; the markers of the request say which they were."""
    usage = {"input_tokens": 3, "output_tokens": 2, "cache_creation_input_tokens": 7}
    message = {"type": "message", "content": [text("Hi")], "stop_reason": "end_turn", "usage": usage}
    upstream.script = answer(json.dumps(message).encode())
    request = {"model": "anthropic/m", "messages": [{"role": "user", "content": [text("Hello", "1h")]}]}
    record = await record_of(third, await ask(translating, "openai", request))
    assert (record["cache_write_1h_tokens"], record["cache_write_5m_tokens"]) == ("7", "0")
    record = await record_of(third, await ask(translating, "openai", request | {"model": "stripping/m"}))
    assert (record["cache_write_1h_tokens"], record["cache_write_5m_tokens"]) == ("0", "7")


async def test_a_prompt_too_short_to_be_cached_is_noted(
    translating: Relay, upstream: BadProvider, third: Redis
) -> None:
    def said(read: int) -> bytes:
        usage = {"input_tokens": 1000, "output_tokens": 2, "cache_read_input_tokens": read}
        return json.dumps({"type": "message", "content": [], "stop_reason": "end_turn", "usage": usage}).encode()

    marked = MARKED["openai"] | {"model": "anthropic/claude-sonnet-4-6"}
    unmarked = {"model": "anthropic/claude-sonnet-4-6", "messages": [{"role": "user", "content": "Hello"}]}
    notes = []
    for request, read in ((marked, 0), (marked, 900), (unmarked, 0)):
        upstream.script = answer(said(read))
        notes.append((await record_of(third, await ask(translating, "openai", request)))["cache_note"])
    assert notes == ["nothing was cached: the prompt has 1000 tokens, claude-sonnet-4-6 caches from 1024 on", "", ""]


# --- the relay's own

LONG = {
    "anthropic": {
        "tools": [{"name": "now", "input_schema": {"type": "object"}}],
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": "What time is it?"},
            {"role": "assistant", "content": "Late."},
            {"role": "user", "content": "Sure?"},
        ],
        "max_tokens": 5,
    },
    "openai": {
        "tools": [{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}],
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What time is it?"},
            {"role": "assistant", "content": "Late."},
            {"role": "user", "content": "Sure?"},
        ],
        "max_tokens": 5,
    },
}
ADDED = {
    "anthropic": "added=tools.0, added=system, added=messages.1.content",
    "openai": "added=tools.0, added=messages.0.content, added=messages.2.content",
}
AUTO = ("x-relay-cache", "auto")
both_surfaces = pytest.mark.parametrize("surface", PATHS)


@both_surfaces
async def test_a_request_may_ask_for_breakpoints(
    surface: str, translating: Relay, upstream: BadProvider, third: Redis
) -> None:
    answered = await ask(translating, surface, LONG[surface] | {"model": "anthropic/m@"}, AUTO)
    assert answered.headers.get(HEADER) == ADDED[surface]
    assert (await record_of(third, answered))["cache_control"] == ADDED[surface]
    sent = upstream.calls[0].json
    assert sent["tools"][0]["cache_control"] == {"type": "ephemeral"}
    assert sent["system"] == [text("Be brief.", "")]
    assert sent["messages"][1] == {"role": "assistant", "content": [text("Late.", "")]}
    assert upstream.calls[0].body.count(b'"cache_control"') == 3


async def test_to_the_same_dialect_nothing_else_changes(translating: Relay, upstream: BadProvider) -> None:
    body = (
        b'{ "model":"anthropic/m@", "max_tokens" :5,"system": "\\u0041" , "messages":[{"role":"user","content":"x"}]}'
    )
    answered = await ask(translating, "anthropic", body, AUTO)
    assert answered.headers.get(HEADER) == "added=system"
    block = b'[{"type":"text","text":"\\u0041","cache_control":{"type":"ephemeral"}}]'
    assert upstream.calls[0].body == body.replace(b'"\\u0041"', block).replace(b"anthropic/", b"")


@both_surfaces
async def test_the_same_request_gets_the_same_ones_and_so_the_same_bytes(
    surface: str, translating: Relay, upstream: BadProvider
) -> None:
    for _ in range(2):
        await ask(translating, surface, LONG[surface] | {"model": "anthropic/m@"}, AUTO)
    first, second = upstream.calls
    assert first.body == second.body


@both_surfaces
async def test_never_where_the_client_marked_itself(surface: str, translating: Relay, upstream: BadProvider) -> None:
    answered = await ask(translating, surface, MARKED[surface] | {"model": "anthropic/m@"}, AUTO)
    assert answered.headers.get(HEADER) is None
    assert upstream.calls[0].body.count(b'"cache_control"') == 2


@both_surfaces
@pytest.mark.parametrize("provider", ["openai", "stripping"])
async def test_nor_where_the_provider_takes_none(
    provider: str, surface: str, translating: Relay, upstream: BadProvider
) -> None:
    answered = await ask(translating, surface, LONG[surface] | {"model": f"{provider}/m@"}, AUTO)
    assert answered.headers.get(HEADER) is None
    assert b"cache_control" not in upstream.calls[0].body


@both_surfaces
async def test_a_provider_with_breakpoints_of_its_own_gets_those(
    surface: str, translating: Relay, upstream: BadProvider
) -> None:
    answered = await ask(translating, surface, LONG[surface] | {"model": "explicit/m@"}, AUTO)
    assert (answered.headers.get(HEADER) or "").startswith(ADDED[surface])
    sent = upstream.calls[0].body
    assert (sent.count(b'"cache_control"'), sent.count(b'"prompt_cache_breakpoint"')) == (0, 2)


@pytest.mark.parametrize("model", ["anthropic/an-auto-model@", "tidy"])
async def test_a_model_may_be_set_up_so(model: str, translating: Relay, upstream: BadProvider) -> None:
    for wish, count in (((), 3), ((("x-relay-cache", "OFF"),), 0)):
        upstream.reset()
        await ask(translating, "anthropic", LONG["anthropic"] | {"model": model}, *wish)
        assert upstream.calls[0].body.count(b'"cache_control"') == count


async def test_a_key_may_be_made_so(translating: Relay, upstream: BadProvider, third: Redis) -> None:
    sent = []
    for cache in ("auto", "off"):
        _, key = await ApiKeys(third).create(cache, "acme", cache=cache)
        for model, *headers in (("m@",), ("auto@",), ("m@", AUTO)):
            body = json.dumps(LONG["openai"] | {"model": f"anthropic/{model}"}).encode()
            lines = [("authorization", f"Bearer {key}"), ("content-type", "application/json"), *headers]
            answered = await http.request(translating.port, "POST", PATHS["openai"], lines, body)
            assert answered.status == 200
            sent.append(upstream.calls[-1].body.count(b'"cache_control"'))
    assert sent == [3, 3, 3, 0, 0, 3], "the request's header counts most, then the key, then the model"


@both_surfaces
async def test_any_other_wish_is_refused(surface: str, translating: Relay, upstream: BadProvider) -> None:
    body = LONG[surface] | {"model": "anthropic/m@"}
    answered = await translating.post(PATHS[surface], body, [("x-relay-cache", "always")])
    assert answered.status == 400
    error = answered.json["error"]
    assert error["message"] == "x-relay-cache: Input should be 'auto' or 'off', got \"always\""
    assert error["type"] == "invalid_request_error"
    assert not upstream.calls


async def test_counting_tokens_adds_none(translating: Relay, upstream: BadProvider) -> None:
    upstream.script = answer(b'{"input_tokens":3}')
    counted = await translating.post("/v1/messages/count_tokens", message("anthropic/auto", system="x"), [AUTO])
    assert counted.status == 200
    assert b"cache_control" not in upstream.calls[0].body
