"""Why there was no cache hit: provoked at a provider that really keeps a cache, told by the usage API and the pages.

The sandbox runs here, without a key of its own, so that each provider is another account there, and with a clock that
can be moved on.
"""

from __future__ import annotations

import asyncio
import csv
import time
from collections.abc import AsyncIterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from relay.ledger.database import open_engine, turn, url_of
from relay.ledger.tables import prefixes
from relay.sandbox.main import serving
from relay.settings import load
from tests.console.system import System
from tests.console.visitor import Visitor
from tests.ledger.prompts import LONG, text, turns
from tests.support.processes import RedisServer
from tests.support.relay import message

CONFIG = """
[providers.first]
dialect = "anthropic"
base_url = "{url}"
api_key = "env:FIRST"

[providers.second]
dialect = "anthropic"
base_url = "{url}"
api_key = "env:SECOND"

[providers.stripping]
dialect = "anthropic"
base_url = "{url}"
api_key = "env:FIRST"
cache_control = "strip"
"""
TOOLS = [{"name": name, "description": LONG, "input_schema": {"type": "object"}} for name in ("find", "read")]
Why = tuple[str, str, str | None]


class Shop(System):
    """A system whose providers are accounts at one sandbox. ``passed_s``: what its clock is ahead."""

    passed_s = 0.0

    def now(self) -> float:
        return time.monotonic() + self.passed_s

    def let_pass(self, seconds: float) -> None:
        """At the provider, and in what the ledger remembers."""
        self.passed_s += seconds
        engine = open_engine(url_of(load({"data_dir": str(self.directory / "data")})))
        times = ("seen_ms", "sent_ms", "readable_ms", "until_ms")
        with turn(engine) as connection:
            connection.execute(
                update(prefixes).values({name: prefixes.c[name] - round(seconds * 1000) for name in times})
            )
        engine.dispose()

    async def ask(
        self, system: str, words: str = "Hello", model: str = "first/claude-sonnet-4-6", **members: Any
    ) -> Why:
        """A call whose system prompt is marked: what the cache did, and why it did no better."""
        if system:
            members["system"] = [text(system, "5m")]
        body = message(model, words, **{"max_tokens": 5, **members})
        # Each test has a prompt and an application of its own: one that sends a like prompt has changed the one before.
        answer = await self.post("/v1/messages", body, [("x-title", f"{system[:3]} of the tests")])
        assert answer.status == 200, answer
        row = await self.stored(answer.headers.get("x-relay-job-id") or "")
        return row["cache"], row["cache_reason"], row["cache_reason_at"]


@pytest.fixture(scope="module")
async def shop(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    directory = tmp_path_factory.mktemp("reasons")
    redis = RedisServer(directory)
    await redis.start()
    config = directory / "relay.toml"
    shop = Shop(
        directory,
        redis.url,
        RELAY_CONFIG=str(config),
        RELAY_RETRIES="0",
        FIRST="first-account",
        SECOND="second-account",
    )
    async with serving(clock=lambda: shop.now()) as url:
        config.write_text(CONFIG.format(url=url))
        await shop.start()
        yield shop
        await shop.stop()
    await redis.stop()


async def test_the_first_call_and_the_second(shop: Shop) -> None:
    assert await shop.ask(f"1 {LONG}") == ("write", "first_time", None)
    assert await shop.ask(f"1 {LONG}") == ("hit", "", None)


async def test_a_prefix_that_changes_is_named_where_it_does(shop: Shop) -> None:
    await shop.ask(f"2 It is 10:00. {LONG}", tools=TOOLS)
    assert await shop.ask(f"2 It is 10:01. {LONG}", tools=TOOLS) == ("write", "prefix_changed", "system.0")
    other = [TOOLS[0], TOOLS[1] | {"description": "Another one."}]
    assert await shop.ask(f"2 It is 10:01. {LONG}", tools=other) == ("write", "prefix_changed", "tools.1")


async def test_a_setting_that_changes_is_named(shop: Shop) -> None:
    said: dict[str, Any] = {"messages": turns(f"3 {LONG}"), "tools": TOOLS}
    await shop.ask("", **said)
    assert await shop.ask("", **said, tool_choice={"type": "any"}) == ("write", "prefix_changed", "settings")


async def test_a_conversation_grows_and_one_that_is_edited_does_not(shop: Shop) -> None:
    said = [f"4 {number} {LONG}" for number in range(6)]
    assert (await shop.ask(f"4 {LONG}", messages=turns(*said[:3])))[1] == "first_time"
    assert await shop.ask(f"4 {LONG}", messages=turns(*said[:5])) == ("partial", "", None)
    said[2] = "Rather not."
    edited = await shop.ask(f"4 {LONG}", messages=turns(*said[:5]))
    assert edited == ("partial", "prefix_changed", "messages.2.content.0")


async def test_another_model_and_another_provider_have_caches_of_their_own(shop: Shop) -> None:
    await shop.ask(f"5 {LONG}")
    other = await shop.ask(f"5 {LONG}", model="first/claude-sonnet-5")
    assert other == ("write", "other_model", "system.0")
    other = await shop.ask(f"5 {LONG}", model="second/claude-sonnet-4-6")
    assert other == ("write", "other_provider", "system.0")


async def test_too_short_a_prompt_is_not_cached(shop: Shop) -> None:
    assert await shop.ask("6 Be kind.") == ("none", "below_minimum", "system.0")
    assert await shop.ask("6 Be kind.", words=LONG) == ("none", "below_minimum", "system.0")


async def test_two_at_once_both_write(shop: Shop) -> None:
    slow = "SANDBOX(first_ms=500) Hello"
    told = await asyncio.gather(*(shop.ask(f"7 {LONG}", slow) for _ in range(2)))
    assert sorted(told) == [("write", "first_time", None), ("write", "not_yet_readable", "system.0")]


async def test_a_breakpoint_too_far_behind_is_not_found(shop: Shop) -> None:
    said = [f"8 {number} {LONG}" for number in range(25)]
    await shop.ask("", messages=turns(*said[:1]))
    far = await shop.ask("", messages=turns(*said))
    assert far == ("write", "beyond_lookback", "messages.0.content.0")


async def test_breakpoints_that_are_stripped_do_nothing(shop: Shop) -> None:
    assert await shop.ask(f"9 {LONG}", model="stripping/claude-sonnet-4-6") == ("none", "stripped", None)


async def test_what_should_be_there_and_is_not_was_dropped(shop: Shop) -> None:
    await shop.ask(f"10 {LONG}")
    shop.passed_s += 301  # for the provider alone
    assert await shop.ask(f"10 {LONG}") == ("write", "evicted", "system.0")


async def test_a_time_that_ran_out_is_told(shop: Shop) -> None:
    await shop.ask(f"11 {LONG}")
    shop.let_pass(290)
    assert (await shop.ask(f"11 {LONG}"))[0] == "hit"
    shop.let_pass(290)
    assert (await shop.ask(f"11 {LONG}"))[0] == "hit"  # as the time is renewed by each read
    shop.let_pass(301)
    assert await shop.ask(f"11 {LONG}") == ("write", "ttl_expired", "system.0")


# -- where it is shown ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def changed(shop: Shop) -> None:
    for minute in (1, 2):
        await shop.ask(f"12 It is 12:0{minute}. {LONG}", words="Tell me.")


@pytest.mark.usefixtures("changed")
async def test_the_usage_api_finds_and_counts_by_reason(shop: Shop) -> None:
    found = (await shop.usage("?cache_reason=prefix_changed")).json["data"]
    assert {call["cache_reason"] for call in found} == {"prefix_changed"}
    sums = (await shop.usage("/summary?by=cache_reason")).json["data"]
    counts = {each["cache_reason"]: each["calls"] for each in sums}
    assert counts["prefix_changed"] == len(found)
    points = (await shop.usage("/timeline?step=day")).json["data"]
    assert sum(point["cache_reasons"].get("prefix_changed", 0) for point in points) == len(found)
    table = csv.DictReader(StringIO((await shop.usage("/export?cache_reason=prefix_changed")).body.decode()))
    assert [row["cache_reason_at"] for row in table] == [call["cache_reason_at"] for call in found]
    answer = await shop.usage("?cache_reason=weather")
    assert (answer.status, "weather" in answer.json["detail"]) == (400, True)


@pytest.mark.usefixtures("changed")
async def test_the_pages_say_it_in_words(shop: Shop, tmp_path: Path) -> None:
    visitor = Visitor(shop.console_port)
    await visitor.login(shop.key)
    overview = (await visitor.get("")).body.decode()
    assert "Why no cache hit" in overview
    assert "cache_reason=prefix_changed" in overview
    usage = (await visitor.get("/usage?cache_reason=prefix_changed")).body.decode()
    assert "prefix changed at system.0" in usage
    assert "behind the last breakpoint" in usage
    call = (await shop.usage("?cache_reason=prefix_changed&limit=1")).json["data"][0]
    job = (await visitor.get(f"/jobs/{call['job']}")).body.decode()
    assert "The prompt's prefixes" in job
    assert "<code>system.0</code>" in job
