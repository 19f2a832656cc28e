"""Whether the ledger keeps what was asked and answered: said with the call, and never done without a word."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from redis.asyncio import Redis

from relay.broker.api_keys import ApiKeys
from relay.broker.keys import Keys
from relay.core.batch.items import job_id as item_job
from relay.ledger.contents import Kept, find
from relay.ledger.queries import Filter, rows
from relay.ledger.reading import Reading
from relay.settings import load
from tests.support import dialects, http
from tests.support.badprovider import BadProvider
from tests.support.oracles import check_quiet
from tests.support.processes import RedisServer
from tests.support.relay import Relay, message, served_by
from tests.support.upstream import answer
from tests.support.wait import wait_until

PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
MODELS = {"anthropic": "anthropic/claude-x", "openai": "openai/gpt-x"}
KEEP = ("x-relay-log", "content")
MARK = "canary-of-the-prompt"


class Keeping(Relay):
    """A relay with a ledger, and a look into it."""

    def __init__(self, directory: Path, redis: RedisServer, provider: BadProvider) -> None:
        super().__init__(
            directory, redis.url, served_by(provider) | {"RELAY_RETRIES": "0", "RELAY_ABANDON_GRACE_S": "1"}
        )
        self.data = directory / "data"
        self._ledger = self._spawn("ledger", {})
        self._reading = Reading(load({"data_dir": str(self.data)}))

    async def stop(self) -> None:
        await super().stop()
        self._reading.close()
        await self._ledger.stop()
        check_quiet(self._ledger)

    @asynccontextmanager
    async def without_ledger(self) -> AsyncIterator[None]:
        """The ledger is away for a while."""
        await self._ledger.stop()
        try:
            yield
        finally:
            self._ledger = self._spawn("ledger", {})

    async def kept(self, job_id: str | None) -> Kept:
        """The content of a job, once the ledger has it."""

        def look() -> Kept | None:
            found = self._reading.ask(lambda connection: find(connection, job_id or "", "default"))
            return found if found and found.state != "pending" else None

        found: Kept = await wait_until(look, 30, what=f"the content of {job_id} is kept")
        return found

    async def call_of(self, job_id: str | None) -> dict[str, Any]:
        """The usage of a job, once the ledger has it."""

        def look() -> list[dict[str, Any]]:
            return self._reading.ask(lambda connection: rows(connection, Filter(job=job_id))).rows

        [row] = await wait_until(look, 30, what=f"the ledger has the call of {job_id}")
        return dict(row)


@pytest.fixture(scope="module")
async def _redis(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("keeping-redis"))
    await server.start()
    yield server
    await server.stop()


@pytest.fixture(scope="module")
async def _keeping(
    _redis: RedisServer, _upstream: BadProvider, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Keeping]:
    relay = Keeping(tmp_path_factory.mktemp("keeping"), _redis, _upstream)
    await relay.start()
    yield relay
    await relay.stop()


@pytest.fixture
def keeping(_keeping: Keeping, upstream: BadProvider) -> Keeping:
    """A relay with a ledger; its provider is ``upstream``, and nothing is tried again."""
    return _keeping


@pytest.fixture
async def store(_redis: RedisServer) -> AsyncIterator[Redis]:
    """A client of its Redis."""
    async with _redis.client() as client:
        yield client


def request(model: str, text: str = MARK, **members: Any) -> bytes:
    """A request as no JSON library would write it."""
    return orjson.dumps(message(model, text, **members)).replace(b'":', b'" :\t')


def job_of(answered: http.Response) -> str:
    job_id = answered.headers.get("x-relay-job-id")
    assert job_id, answered
    return job_id


# -- asked for ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("provider", ["anthropic", "openai"])
@pytest.mark.parametrize("surface", ["anthropic", "openai"])
async def test_what_the_client_sent_and_what_it_was_answered(
    keeping: Keeping, surface: str, provider: str, stream: bool
) -> None:
    sent = request(MODELS[provider], stream=stream)
    answered = await keeping.post(PATHS[surface], sent, [KEEP])
    assert answered.status == 200, answered
    kept = await keeping.kept(job_of(answered))
    assert (kept.state, kept.status, kept.request) == ("stored", 200, sent)
    if stream:
        result = await keeping.get(f"/v1/jobs/{job_of(answered)}/result")
        assert orjson.loads(kept.response or b"") == result.json
    else:
        assert kept.response == answered.body
    call = await keeping.call_of(job_of(answered))
    assert (call["log"], call["content"]) == ("content", "stored")


@pytest.mark.parametrize("surface", ["anthropic", "openai"])
async def test_a_request_that_was_refused(keeping: Keeping, upstream: BadProvider, surface: str) -> None:
    refused = b'{ "type": "error", "error": {"type": "invalid_request_error", "message": "no such thing"}}'
    upstream.script = answer(refused, status=400)
    sent = request(MODELS[surface])
    answered = await keeping.post(PATHS[surface], sent, [KEEP])
    assert (answered.status, answered.body) == (400, refused)
    kept = await keeping.kept(job_of(answered))
    assert (kept.state, kept.request, kept.status, kept.response) == ("stored", sent, 400, refused)


async def test_a_call_whose_client_left(keeping: Keeping) -> None:
    sent = request("claude-x@gate:3", stream=True)
    async with await keeping.stream(sent, headers=[KEEP]) as reader:
        await reader.take(5)
    kept = await keeping.kept(reader.job_id)
    assert (kept.state, kept.request) == ("stored", sent)
    [block] = orjson.loads(kept.response or b"")["content"]
    assert block["text"].startswith(reader.job_id or "")


async def test_a_job_and_its_replay(keeping: Keeping, upstream: BadProvider) -> None:
    upstream.script = answer(b'{"error": {"type": "overloaded_error", "message": "busy"}}', status=529)
    sent = request(MODELS["anthropic"])
    envelope = b'{"endpoint": "/v1/messages", "log": "content; ttl=60", "body": %b}' % sent
    submitted = await keeping.post("/v1/jobs", envelope)
    first = await keeping.kept(submitted.json["id"])
    assert (first.request, first.status) == (sent, 529)
    upstream.script = answer(dialects.Anthropic().message("c", 3))
    again = await keeping.post(f"/v1/jobs/{submitted.json['id']}/replay", b"")
    second = await keeping.kept(again.json["id"])
    assert (second.request, second.response) == (sent, dialects.Anthropic().message("c", 3))
    assert abs(second.expires_ms - first.expires_ms) < 60_000


async def test_the_items_of_a_message_batch_though_the_ledger_comes_late(keeping: Keeping) -> None:
    items: Any = [{"custom_id": name, "params": message("claude-x", name)} for name in ("one", "two")]
    async with (
        AsyncAnthropic(base_url=keeping.url, api_key=keeping.key, max_retries=0) as client,
        keeping.without_ledger(),
    ):
        batch = await client.messages.batches.create(requests=items, extra_headers=dict([KEEP]))

        async def ended() -> bool:
            return (await client.messages.batches.retrieve(batch.id)).processing_status == "ended"

        await wait_until(ended, 30, every_s=0.05)
    for number, item in enumerate(items):
        kept = await keeping.kept(item_job("0", batch.id, number))
        assert (kept.state, kept.status, orjson.loads(kept.request or b"")) == ("stored", 200, item["params"])


async def test_the_items_of_an_openai_batch(keeping: Keeping) -> None:
    line = {"custom_id": "one", "method": "POST", "url": "/v1/chat/completions", "body": message("gpt-x")}
    async with AsyncOpenAI(base_url=f"{keeping.url}/v1", api_key=keeping.key, max_retries=0) as client:
        file = await client.files.create(file=("input.jsonl", orjson.dumps(line)), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            extra_headers={"x-relay-log": "content; ttl=60"},
        )
    kept = await keeping.kept(item_job("0", batch.id, 0))
    assert (kept.state, kept.status, orjson.loads(kept.request or b"")) == ("stored", 200, line["body"])
    assert kept.expires_ms < batch.created_at * 1000 + 120_000


async def test_a_key_may_ask_for_all_its_calls_and_a_call_have_it_otherwise(keeping: Keeping, store: Redis) -> None:
    _, key = await ApiKeys(store).create("a curious one", "default", log="content")
    sent, mine = request("claude-x"), [("x-api-key", key), ("content-type", "application/json")]

    async def call(*more: tuple[str, str]) -> str:
        return job_of(await http.request(keeping.port, "POST", "/v1/messages", [*mine, *more], sent))

    assert (await keeping.kept(await call())).request == sent
    assert (await keeping.call_of(await call(("x-relay-log", "Usage"))))["content"] is None


# -- not asked for -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_without_a_word_nothing_of_it_is_kept_anywhere(keeping: Keeping, store: Redis, stream: bool) -> None:
    unheard = "canary-that-nobody-may-keep"
    body = message("claude-x", unheard, stream=stream, system=[{"type": "text", "text": unheard}])
    job_id = job_of(await keeping.post("/v1/messages", body, [("x-title", "a bench")]))
    call = await keeping.call_of(job_id)
    assert (call["app"], call["log"], call["content"]) == ("a bench", None, None)
    written = b"".join(path.read_bytes() for path in keeping.data.glob("ledger.sqlite3*"))
    assert job_id.encode() in written
    assert unheard.encode() not in written
    assert await store.exists(Keys().body(job_id)) == 0
    assert "log" not in await store.hgetall(Keys().job(job_id))


@pytest.mark.parametrize("said", ["all", "content;ttl=99999999", "content, usage"])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions", "/v1/jobs", "/v1/messages/batches"])
async def test_any_other_wish_is_refused_by_its_name(
    keeping: Keeping, upstream: BadProvider, path: str, said: str
) -> None:
    bodies: dict[str, Any] = {
        "/v1/jobs": {"endpoint": "/v1/messages", "body": message("claude-x"), "log": said},
        "/v1/messages/batches": {"requests": [{"custom_id": "one", "params": message("claude-x")}]},
    }
    headers = [] if path == "/v1/jobs" else [("x-relay-log", said)]
    answered = await keeping.post(path, bodies.get(path, message("claude-x")), headers)
    assert answered.status == 400
    told = answered.json["error"] if path != "/v1/jobs" else {"message": answered.json["detail"]}
    name = "log" if path == "/v1/jobs" else "x-relay-log"
    assert told["message"].startswith(f"{name}: ")
    assert told["message"].endswith(f"got {json.dumps(said)}")
    assert not upstream.calls
