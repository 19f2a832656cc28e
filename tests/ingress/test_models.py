"""The list of models, as both SDKs read it."""

from __future__ import annotations

import anthropic
import openai
import pytest

from relay.core.errors import NotFound
from relay.core.routing import Listed
from relay.ingress.models import anthropic_page
from tests.support import http
from tests.support.relay import Relay

LISTED = tuple(Listed(name, "anthropic", "anthropic") for name in "abcde")
VERSION = ("anthropic-version", "2023-06-01")


def page(limit: int = 20, after: str | None = None, before: str | None = None) -> tuple[str, bool]:
    found = anthropic_page(LISTED, limit, after, before)
    ids = "".join(entry["id"] for entry in found["data"])
    assert (found["first_id"], found["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))
    return ids, found["has_more"]


def test_pages_go_forwards_and_backwards() -> None:
    assert page() == ("abcde", False)
    assert page(2) == ("ab", True)
    assert page(2, after="b") == ("cd", True)
    assert page(2, after="d") == ("e", False)
    assert page(2, after="e") == ("", False)
    assert page(2, before="d") == ("bc", True)
    assert page(2, before="b") == ("a", False)
    assert page(1, after="a", before="d") == ("b", True)


def test_a_page_begins_at_a_model_that_is_there() -> None:
    with pytest.raises(NotFound, match="'x'"):
        page(after="x")


async def test_the_anthropic_sdk_reads_every_page(door: Relay) -> None:
    async with anthropic.AsyncAnthropic(base_url=door.url, api_key=door.key, max_retries=0) as sdk:
        listed = [model.id async for model in sdk.models.list(limit=3)]
        one = await sdk.models.retrieve("anthropic/claude-sonnet-4-6")
    assert "claude-sonnet-4-6" in listed
    assert len(listed) == len(set(listed)) > 3
    assert (one.id, one.type) == ("anthropic/claude-sonnet-4-6", "model")


async def test_the_openai_sdk_reads_the_same_names(door: Relay) -> None:
    async with openai.AsyncOpenAI(base_url=f"{door.url}/v1", api_key=door.key, max_retries=0) as sdk:
        listed = {model.id: model.owned_by async for model in sdk.models.list()}
        one = await sdk.models.retrieve("gpt-5")
    assert listed["claude-sonnet-4-6"] == "anthropic"
    assert listed["gpt-5"] == one.owned_by == "openai"


async def test_errors_are_in_the_shape_of_who_asks(door: Relay) -> None:
    for lines, kind in (([VERSION], "not_found_error"), ([], "not_found_error")):
        answer = await http.request(door.port, "GET", "/v1/models/none", [*door.auth, *lines])
        assert answer.status == 404
        assert answer.json["error"]["type"] == kind
        assert ("code" in answer.json["error"]) is (not lines)
    assert (await http.request(door.port, "GET", "/v1/models")).status == 401


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x"])
async def test_a_limit_that_is_none(door: Relay, query: str) -> None:
    answer = await http.request(door.port, "GET", f"/v1/models?{query}", [*door.auth, VERSION])
    assert answer.status == 400
    assert answer.json["error"]["message"].startswith("limit: ")
