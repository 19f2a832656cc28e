"""The dashboard in Chromium: every page in both themes, at a desk and on a phone, without barriers; what is live."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.console.browsing import PHONE, WIDE, Tab, Theme, chromium, rows
from tests.console.conftest import MakeKey
from tests.console.system import System
from tests.support.relay import message
from tests.support.wait import wait_until

PAGES = ("overview", "usage", "jobs", "job", "keys", "budgets", "login", "error")


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
async def job_id(system: System) -> str:
    """A job that has ended, with its call in the ledger."""
    job_id = await system.call("Tell me about queues.", max_tokens=120)
    await system.stored(job_id)
    return job_id


@pytest.fixture(scope="module", params=["light", "dark"])
async def themed(request: pytest.FixtureRequest, browser: Browser, system: System) -> AsyncIterator[Tab]:
    theme: Theme = request.param
    tab = await Tab.open(browser, system, theme)
    yield tab
    await tab.close()


@pytest.fixture(scope="module")
async def _tab(browser: Browser, system: System) -> AsyncIterator[Tab]:
    tab = await Tab.open(browser, system)
    yield tab
    await tab.close()


@pytest.fixture
def tab(_tab: Tab) -> Iterator[Tab]:
    """A tab of an admin, on whatever page the last test left it."""
    _tab.failures.clear()
    yield _tab
    assert _tab.failures == []


@pytest.mark.parametrize("name", PAGES)
async def test_a_page_has_no_barriers_and_fits_a_phone(themed: Tab, job_id: str, name: str, tmp_path: Path) -> None:
    paths = {"overview": "", "usage": "/usage?tenant=plain", "job": f"/jobs/{job_id}", "error": "/usage?cache=warm"}
    await themed.page.set_viewport_size(WIDE)
    await themed.go(paths.get(name, f"/{name}"))
    if name == "usage":
        await themed.page.locator(".twisty").first.click()
    await themed.page.screenshot(path=tmp_path / "wide.png", full_page=True)
    assert await themed.barriers() == []
    await themed.page.set_viewport_size(PHONE)
    await themed.page.screenshot(path=tmp_path / "phone.png", full_page=True)
    assert await themed.overflow_px() == 0
    failures = [each for each in themed.failures if name != "error" or "400 (Bad Request)" not in each]
    themed.failures.clear()
    assert failures == []


async def test_savings_and_timeline_appear_with_cache_activity(tab: Tab) -> None:
    await tab.go("")
    strip = tab.page.get_by_role("region", name="What caching saved")
    await expect(strip).to_contain_text("Net saved")
    await expect(strip.locator("canvas")).to_be_visible()
    await tab.page.get_by_text("The numbers, per hour").click()
    await expect(strip.get_by_role("columnheader", name="Net saved")).to_be_visible()


async def test_why_there_was_no_hit_leads_to_the_calls(tab: Tab, tmp_path: Path) -> None:
    await tab.go("?period=7d")
    panel = tab.page.get_by_role("region", name="Why no cache hit")
    await panel.get_by_role("link", name="TTL ran out").click()
    await expect(tab.page.get_by_label("Why no hit")).to_have_value("ttl_expired")
    badges = tab.page.locator("table.rows tbody tr:not(.more) .why")
    assert set(await badges.all_inner_texts()) == {"TTL ran out"}
    await tab.page.locator(".twisty").first.click()
    await expect(tab.page.locator("tr.more").first).to_contain_text("a breakpoint with a ttl of 1h lasts longer")
    assert await tab.barriers() == []
    await tab.page.screenshot(path=tmp_path / "wide.png")
    await tab.page.set_viewport_size(PHONE)
    assert await tab.overflow_px() == 0
    await tab.page.set_viewport_size(WIDE)


async def test_a_jobs_prefixes_are_a_table_of_hashes(tab: Tab, job_id: str) -> None:
    await tab.go(f"/jobs/{job_id}")
    prefixes = tab.page.get_by_role("region", name="The prompt's prefixes")
    marked = prefixes.get_by_role("row").filter(has_text="system.0")
    await expect(marked).to_contain_text("5m")
    await expect(prefixes).not_to_contain_text("careful reader")


async def test_without_cache_activity_they_do_not(browser: Browser, system: System, make_key: MakeKey) -> None:
    tab = await Tab.open(browser, system, key=await make_key("plain"))
    await expect(tab.page.get_by_text("Requests")).to_be_visible()
    for panel in ("What caching saved", "Why no cache hit"):
        await expect(tab.page.get_by_text(panel)).to_have_count(0)
    assert tab.failures == []
    await tab.close()


async def test_who_made_no_call_is_told_how(browser: Browser, system: System, make_key: MakeKey) -> None:
    tab = await Tab.open(browser, system, key=await make_key("newcomer", "usage:read", "jobs:read"))
    for path in ("", "/usage", "/jobs"):
        await tab.go(path)
        await expect(tab.page.get_by_label("A call to paste into a terminal")).to_contain_text("curl -sN http://")
        assert await tab.barriers() == []
    assert tab.failures == []
    await tab.close()


async def test_a_call_opens_by_keyboard_and_shows_what_is_known(tab: Tab, job_id: str) -> None:
    await tab.go(f"/usage?job={job_id}")
    await tab.page.locator(".twisty").focus()
    await tab.page.keyboard.press("Enter")
    more = tab.page.locator("tr.more")
    await expect(more).to_contain_text("price source")
    await expect(more).to_contain_text("genai-prices")
    await more.get_by_text("last usage object").click()
    await expect(more.get_by_text("cache_read_input_tokens").last).to_be_visible()
    await tab.page.locator(".twisty").focus()
    await tab.page.keyboard.press("Enter")
    await expect(more).to_be_hidden()


async def test_filters_narrow_the_calls_and_lead_to_older_ones(tab: Tab) -> None:
    await tab.go("/usage?period=30d")
    await tab.page.get_by_label("Application").select_option("Search")
    await tab.page.get_by_role("button", name="Show").click()
    first = await rows(tab).first.inner_text()
    assert "Search" in first
    await tab.page.get_by_role("link", name="Older").click()
    await expect(tab.page.get_by_role("link", name="Newest")).to_be_visible()
    assert await rows(tab).first.inner_text() != first
    assert set(await tab.page.locator("table.rows tbody tr:not(.more) td:nth-child(4)").all_inner_texts()) == {"Search"}


async def test_the_keyboard_finds_the_content_first(tab: Tab) -> None:
    await tab.go("")
    await tab.page.keyboard.press("Tab")
    await expect(tab.page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await tab.page.keyboard.press("Enter")
    await expect(tab.page.locator("main")).to_be_focused()


async def test_a_new_job_appears_by_itself_and_is_cancelled_from_the_list(tab: Tab, system: System) -> None:
    await tab.go("/jobs")
    await expect(tab.page.locator("#live")).to_have_text("live")
    body = message("claude-haiku-4-5", "SANDBOX(fault=stall)", stream=True)
    answer = await system.post("/v1/jobs", {"endpoint": "/v1/messages", "body": body})
    row = rows(tab).filter(has_text=answer.json["id"][-12:])
    await expect(row).to_contain_text("in progress")
    await row.get_by_role("button", name="Cancel").click()
    await expect(tab.page).to_have_url(f"{system.dashboard}/jobs/{answer.json['id']}")
    await expect(tab.page.locator("#facts")).to_contain_text("cancelled")


async def test_a_jobs_stream_is_shown_as_it_comes_and_its_end(tab: Tab, system: System) -> None:
    asked = "SANDBOX(events=60,gap_ms=40) Count for me."
    call = asyncio.create_task(system.call(asked, model="claude-sonnet-4-6", max_tokens=4000))
    await tab.go("/jobs")
    await rows(tab).filter(has_text="in progress").first.get_by_role("link").click()
    answer, state = tab.page.locator("#answer"), tab.page.locator("#stream-state")
    await expect(answer).not_to_be_empty()
    await expect(state).to_have_text("live")
    await call
    await expect(state).to_have_text("complete")
    await expect(tab.page.locator("#facts")).to_have_attribute("data-ended", "yes")
    await expect(tab.page.get_by_role("heading", name="completed")).to_be_visible()
    await expect(tab.page.locator("table.waterfall")).to_contain_text("Call 1: answer")
    text = await answer.inner_text()
    await tab.page.reload()
    await expect(answer).to_have_text(text, use_inner_text=True)


async def test_a_budget_is_set_shown_as_a_bar_changed_and_removed(tab: Tab) -> None:
    page = tab.page
    await tab.go("/budgets")
    await page.get_by_label("Whose").select_option("tenant:default")
    await page.get_by_label("soft bound in USD a month").fill("16")
    await page.get_by_label("hard bound in USD a month").fill("20")
    await page.get_by_role("button", name="Set").click()
    row = rows(tab).filter(has_text="default")
    await expect(row).to_contain_text("$20.00")
    await expect(row.get_by_role("img", name="0% of the hard bound is spent")).to_be_visible()
    assert await tab.barriers() == []
    await page.set_viewport_size(PHONE)
    assert await tab.overflow_px() == 0
    await page.set_viewport_size(WIDE)
    await row.get_by_role("link", name="Change the budget of default").click()
    await expect(page.get_by_label("hard bound in USD a month")).to_have_value("20")
    await row.get_by_text("Remove the budget of default").click()
    await row.get_by_role("button", name="Remove").click()
    await expect(page.get_by_role("heading", name="No budgets")).to_be_visible()


async def test_content_is_shown_where_it_was_asked_for_and_deleted_for_good(
    tab: Tab, system: System, tmp_path: Path
) -> None:
    body = message("claude-sonnet-4-6", "Keep <b>this</b>.", max_tokens=60, stream=True)
    answered = await system.post("/v1/messages", body, [("x-relay-log", "content")])
    job_id = answered.headers.get("x-relay-job-id") or ""
    await wait_until(partial(has_content, system, job_id))
    await tab.go(f"/jobs/{job_id}")
    content = tab.page.get_by_role("region", name="Content")
    await content.get_by_text("Request").click()
    await expect(content.get_by_label("Request")).to_contain_text('"content": "Keep <b>this</b>."')
    await content.get_by_text("Answer, HTTP 200").click()
    await expect(content.get_by_label("Answer")).to_contain_text('"stop_reason"')
    await tab.page.screenshot(path=tmp_path / "content.png", full_page=True)
    assert await tab.barriers() == []
    assert await tab.overflow_px() == 0
    await content.get_by_text("Delete").first.click()
    await content.get_by_role("button", name="Delete for good").click()
    await expect(tab.page.get_by_role("heading", level=1)).to_contain_text(job_id)
    await expect(content).to_have_count(0)


async def has_content(system: System, job_id: str) -> bool:
    return bool((await system.stored(job_id))["content"] == "stored")
