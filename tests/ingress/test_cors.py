"""Pages of the origins an operator names may use the relay from a browser, on every surface, and others may not."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from relay.ingress.cors import EXPOSED
from tests.broker.system import Broker
from tests.ingress.conftest import ENVIRONMENT
from tests.ingress.hand import STREAM, HandWorker
from tests.support import http
from tests.support.processes import RedisServer
from tests.support.relay import Relay, message

PAGE, OTHER = "https://app.example.com", "https://evil.example.com"
UNKNOWN = "0-" + "0" * 32


@pytest.fixture(scope="session")
async def _open_door(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Relay]:
    environment = ENVIRONMENT | {"RELAY_CORS_ORIGINS": f"http://localhost:3000, {PAGE}"}
    relay = Relay(tmp_path_factory.mktemp("cors"), redis_server.url, environment)
    await relay.start(workers=0)
    yield relay
    await relay.stop()


@pytest.fixture
def open_door(_open_door: Relay, broker: Broker) -> Relay:
    """An ingress that pages of two origins may use."""
    return _open_door


def cors_of(answer: http.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers if name.startswith("access-control-")}


async def ask(door: Relay, method: str, path: str, *headers: tuple[str, str], origin: str = PAGE) -> http.Response:
    return await http.request(door.port, method, path, [("origin", origin), *headers])


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions", "/v1/jobs", f"/v1/jobs/{UNKNOWN}/stream"])
async def test_a_page_may_ask_whether_it_may(open_door: Relay, path: str) -> None:
    wish = ("access-control-request-method", "POST"), ("access-control-request-headers", "x-api-key, content-type")
    answer = await ask(open_door, "OPTIONS", path, *wish)
    assert (answer.status, answer.body, answer.headers.get("vary")) == (204, b"", "Origin")
    allowed = cors_of(answer)
    assert allowed["access-control-allow-origin"] == PAGE
    assert allowed["access-control-allow-headers"] == "x-api-key, content-type"
    assert {"GET", "POST", "DELETE"} <= set(allowed["access-control-allow-methods"].split(", "))
    assert int(allowed["access-control-max-age"]) > 0
    assert "access-control-allow-credentials" not in allowed


async def test_what_browsers_hide_is_shown_to_such_a_page_in_errors_too(open_door: Relay) -> None:
    for method, path in (("POST", "/v1/messages"), ("GET", f"/v1/jobs/{UNKNOWN}"), ("GET", "/nowhere")):
        answer = await ask(open_door, method, path)
        assert answer.status in (401, 404)
        assert cors_of(answer) == {
            "access-control-allow-origin": PAGE,
            "access-control-expose-headers": ", ".join(EXPOSED),
        }
    assert {"x-relay-job-id", "request-id", "x-request-id", "retry-after", "location"} <= set(EXPOSED)


async def test_a_stream_may_be_read_by_such_a_page(open_door: Relay, broker: Broker, hand: HandWorker) -> None:
    lines = [("origin", PAGE)]
    async with await open_door.stream(message("claude-sonnet-4-6", stream=True), headers=lines) as reader:
        work = await hand.take()
        await work.head(headers=[*STREAM, ("access-control-allow-origin", "*")])
        await work.count_to(1)
        await work.end()
        assert len(await reader.rest()) == 1
    assert reader.headers.all("access-control-allow-origin") == [PAGE]


@pytest.mark.parametrize("origin", [OTHER, PAGE + ".evil.example.com", PAGE.upper(), "null", ""])
async def test_pages_that_nobody_named_are_told_nothing(open_door: Relay, origin: str) -> None:
    preflight = await ask(open_door, "OPTIONS", "/v1/jobs", ("access-control-request-method", "GET"), origin=origin)
    answer = await ask(open_door, "GET", f"/v1/jobs/{UNKNOWN}", *open_door.auth, origin=origin)
    assert cors_of(preflight) == cors_of(answer) == {}
    assert answer.headers.get("vary") == "Origin"


async def test_without_the_setting_no_page_may_do_anything(door: Relay) -> None:
    preflight = await ask(door, "OPTIONS", "/v1/messages", ("access-control-request-method", "POST"))
    answer = await ask(door, "GET", f"/v1/jobs/{UNKNOWN}", *door.auth)
    assert cors_of(preflight) == cors_of(answer) == {}
    assert "vary" not in answer.headers
