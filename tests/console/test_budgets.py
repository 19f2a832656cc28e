"""The page Budgets: who sees which, how they stand, and the forms that set and remove them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import orjson
import pytest

from relay.broker import connections
from relay.broker.api_keys import SCOPES, ApiKeys
from relay.broker.budgets import Budgets
from relay.broker.connections import Link, address
from relay.broker.keys import Keys
from relay.core.budget import parse
from tests.console.system import System
from tests.console.visitor import Visitor
from tests.support import http
from tests.support.processes import RedisServer
from tests.support.relay import message

SPENDER = "tenant:spender"


@pytest.fixture
async def budgets(console_redis: RedisServer) -> AsyncIterator[Budgets]:
    """Those of the console's relay; none is left."""
    link = Link(address(console_redis.url), "test-budgets")
    budgets = Budgets(link, Keys())
    yield budgets
    for holder in await budgets.all():
        await budgets.remove(holder)
    link.close()


@pytest.fixture
async def spender(console_redis: RedisServer) -> str:
    """A key of a tenant of its own."""
    async with connections.client(console_redis.url) as client:
        _, key = await ApiKeys(client).create("spending", "spender", scopes=SCOPES)
        return key


@pytest.fixture
async def admin(system: System) -> Visitor:
    visitor = Visitor(system.console_port)
    await visitor.login(system.key)
    return visitor


@pytest.fixture
async def guest(system: System, spender: str) -> Visitor:
    visitor = Visitor(system.console_port)
    await visitor.login(spender)
    return visitor


async def page(visitor: Visitor, path: str = "/budgets") -> str:
    answer = await visitor.get(path)
    assert answer.status == 200, answer
    return answer.body.decode()


async def form(visitor: Visitor, **fields: str) -> dict[str, str | list[str]]:
    return {"token": await visitor.token(), "whose": SPENDER, **fields}


async def test_a_budget_is_set_shown_changed_and_removed(admin: Visitor, spender: str, budgets: Budgets) -> None:
    fields = await form(admin, soft_money_day="16", hard_money_day="20.50", hard_tokens_month="5M")
    answer = await admin.post("/budgets", fields)
    assert (answer.status, answer.headers.get("location")) == (303, "/dashboard/budgets")
    assert await budgets.all() == {SPENDER: parse(["soft 16 USD a day", "20.50 USD a day", "5M tokens a month"])}
    shown = await page(admin)
    assert "$20.50" in shown
    assert "5,000,000 tokens" in shown
    change = await page(admin, "/budgets?whose=tenant%3Aspender")
    assert re.search(r'name="hard_money_day" value="20\.5"', change)
    assert re.search(r'<option value="tenant:spender" selected>', change)
    await admin.post("/budgets/remove", await form(admin))
    assert await budgets.all() == {}
    assert "No budgets" in await page(admin)


async def test_what_was_spent_is_shown_and_a_used_up_budget_called_so(
    system: System, guest: Visitor, spender: str, budgets: Budgets
) -> None:
    await budgets.set(SPENDER, parse(["soft 1 token a day", "1M tokens a day"]))
    headers = [("x-api-key", spender), ("content-type", "application/json")]
    body = orjson.dumps(message("claude-haiku-4-5"))
    assert (await http.request(system.port, "POST", "/v1/messages", headers, body)).status == 200
    assert "past soft" in await page(guest)
    await budgets.set(SPENDER, parse(["1 token a day"]))
    assert "used up" in await page(guest)
    assert (await http.request(system.port, "POST", "/v1/messages", headers, body)).status == 429


async def test_a_tenant_sees_its_own_and_changes_nothing(guest: Visitor, spender: str, budgets: Budgets) -> None:
    own, other = spender.split("_")[1], "tenant:another"
    for holder in (SPENDER, f"key:{own}", other):
        await budgets.set(holder, parse(["20 USD a day"]))
    shown = await page(guest)
    assert "Tenant <span" in shown
    assert own in shown
    assert "another" not in shown
    assert "<select" not in shown
    for path in ("/budgets", "/budgets/remove"):
        answer = await guest.post(path, await form(guest, hard_money_day="1"))
        assert answer.status == 403
    assert len(await budgets.all()) == 3


async def test_the_keys_page_shows_a_keys_budget(admin: Visitor, spender: str, budgets: Budgets) -> None:
    await budgets.set(f"key:{spender.split('_')[1]}", parse(["7 USD a month"]))
    assert "7 USD a month" in await page(admin, "/keys")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"hard_money_day": "lots"}, "lots USD a day"),
        ({"hard_money_day": "0"}, "0 USD a day"),
        ({"soft_money_day": "2", "hard_money_day": "1"}, "must be below"),
        ({}, "at least one bound"),
        ({"whose": "tenant:never-made", "hard_money_day": "1"}, "tenant:never-made"),
    ],
)
async def test_a_form_with_a_mistake_says_which_and_keeps_the_rest(
    admin: Visitor, spender: str, budgets: Budgets, fields: dict[str, str], named: str
) -> None:
    answer = await admin.post("/budgets", await form(admin) | fields)
    assert answer.status == 400
    assert re.search(rf'role="alert">[^<]*{named}', answer.body.decode())
    assert await budgets.all() == {}


@pytest.mark.parametrize("path", ["/budgets", "/budgets/remove"])
async def test_a_form_of_another_site_or_session_is_refused(
    system: System, admin: Visitor, budgets: Budgets, path: str
) -> None:
    await budgets.set(SPENDER, parse(["7 USD a month"]))
    answer = await admin.post(path, await form(admin, hard_money_day="1"), origin="http://evil.example")
    assert (answer.status, b"does not come from a page of this console" in answer.body) == (403, True)
    answer = await admin.post(path, {**await form(admin, hard_money_day="1"), "token": "guessed"})
    assert (answer.status, b"out of date" in answer.body) == (403, True)
    assert await budgets.all() == {SPENDER: parse(["7 USD a month"])}


async def test_the_dashboard_is_found_with_a_slash_behind_it_too(admin: Visitor) -> None:
    answer = await admin.get("/")
    assert (answer.status, answer.headers.get("location")) == (303, "/dashboard")
