"""Paths and the surfaces they belong to, and what happens when something happens that nobody thought of."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from relay.ingress.app import surface_of
from tests.broker.system import Broker
from tests.support import http
from tests.support.relay import Relay, message

JOB = "0-" + "1" * 32
PROMPT = "my secret prompt"


@pytest.mark.parametrize(
    ("path", "surface"),
    [
        ("/v1/messages", "anthropic"),
        ("/messages/count_tokens", "anthropic"),
        ("/v1/messages/batches/1", "anthropic"),
        ("/v1/chat/completions", "openai"),
        ("/embeddings", "openai"),
        ("/v1/models/gpt-5", "openai"),
        ("/v1/jobs/1", "relay"),
        ("/messagesque", "relay"),
        ("/v1", "relay"),
        ("/", "relay"),
        ("", "relay"),
    ],
)
def test_the_surface_of_a_path(path: str, surface: str) -> None:
    assert surface_of(path, {}) == surface


def test_models_belong_to_whoever_asks() -> None:
    assert surface_of("/v1/models", {"anthropic-version": "2023-06-01"}) == "anthropic"


@pytest.fixture
async def spoilt(broker: Broker, redis: Redis) -> AsyncIterator[None]:
    """A Redis in which our names hold what they never hold."""
    await redis.set(broker.rq.queue, "no list")
    await redis.set(broker.keys.job(JOB), "no hash", ex=60)
    yield
    await redis.delete(broker.rq.queue, broker.keys.job(JOB))


@pytest.mark.usefixtures("spoilt")
async def test_what_nobody_thought_of_is_an_error_in_the_surfaces_shape(door: Relay) -> None:
    native = await door.post("/v1/messages", message("claude-x", PROMPT))
    assert native.status == 500
    assert native.json["error"]["type"] == "api_error"
    assert native.json["error"]["details"]["error_code"] == "internal"
    problem = await door.get(f"/v1/jobs/{JOB}")
    assert (problem.status, problem.json["code"]) == (500, "internal")
    assert "no hash" not in problem.body.decode()


@pytest.mark.usefixtures("spoilt")
async def test_the_log_says_where_it_happened_and_tells_no_secret(door: Relay) -> None:
    seen = len(door.ingresses[0].output)
    await door.post("/v1/messages", message("claude-x", PROMPT))
    await door.get(f"/v1/jobs/{JOB}")
    written = door.ingresses[0].output[seen:]
    assert written.count("unforeseen ResponseError") == 2
    assert "relay/broker/queue.py" in written
    assert "WRONGTYPE" not in written
    assert PROMPT not in written
    assert door.key not in written


async def test_a_websocket_is_a_request_like_any_other(door: Relay) -> None:
    upgrade = [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13")]
    answer = await http.request(door.port, "GET", "/v1/messages", upgrade)
    assert answer.status == 405
