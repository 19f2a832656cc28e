"""The page with EventSource: reloaded, cut off, its ingress gone, it shows the whole text in the end, and it once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import BrowserContext

from tests.browser.site import Page, Site
from tests.browser.story import WORDS, Story
from tests.support.wait import wait_until

TEXT, STATE = "#text", "#state"


@pytest.fixture
def surface() -> tuple[str, str]:
    """Where the job comes in, and its model."""
    return "/v1/messages", "claude-sonnet-4-6"


@pytest.fixture
async def watching(site: Site, surface: tuple[str, str], story: Story, page: Page) -> AsyncIterator[Page]:
    """A page that shows the first words of a story; in the end it must have shown every part of it in its order."""
    job_id = await site.submit(*surface)
    await wait_until(lambda: story.call, what="the provider is called")
    await page.watch(TEXT)
    await page.tab.goto(await site.watching(job_id))
    await page.shows(story.tell(10), TEXT)
    yield page
    whole = story.tell()
    await page.shows("complete", STATE)
    await page.shows(whole, TEXT)
    assert len(page.texts) > 2
    assert [text for text in page.texts if not whole.startswith(text)] == []


@pytest.mark.parametrize(
    "surface", [("/v1/messages", "claude-sonnet-4-6"), ("/v1/chat/completions", "gpt-5")], ids=["anthropic", "openai"]
)
async def test_reloaded_in_mid_answer(watching: Page, story: Story) -> None:
    for words in (20, 30):
        await watching.tab.reload()
        await watching.shows(story.tell(words), TEXT)


async def test_reloaded_when_all_was_said(watching: Page, story: Story) -> None:
    story.tell()
    await watching.shows("complete", STATE)
    await watching.tab.reload()


async def test_the_network_is_cut_after_a_reload(
    watching: Page, context: BrowserContext, site: Site, story: Story
) -> None:
    await watching.tab.reload()
    await watching.shows(story.so_far(10), TEXT)
    await context.set_offline(True)
    site.network.cut()
    await watching.shows("reconnecting", STATE)
    story.tell(20)
    await context.set_offline(False)
    await watching.shows(story.so_far(20), TEXT)


async def test_the_network_is_cut_within_the_snapshot(watching: Page, context: BrowserContext, story: Story) -> None:
    half = "retry: 1\n\ndata: " + json.dumps({"delta": {"text": story.so_far(5)}}) + "\n\n"
    stream = {"content-type": "text/event-stream", "access-control-allow-origin": "*"}
    await context.route("**/stream?*", lambda route: route.fulfill(headers=stream, body=half), times=1)
    await watching.tab.reload()
    await watching.shows(story.so_far(10), TEXT)
    assert story.so_far(5) in watching.texts


async def test_the_ingress_is_restarted(watching: Page, site: Site, story: Story) -> None:
    await site.restart_ingress()
    await watching.shows(story.tell(WORDS // 2), TEXT)


async def test_a_load_balancer_has_nobody_to_send_it_to(
    watching: Page, context: BrowserContext, site: Site, story: Story
) -> None:
    allowed = {"access-control-allow-origin": "*"}
    await context.route("**/stream?*", lambda route: route.fulfill(status=503, headers=allowed), times=1)
    async with watching.tab.expect_request("**/stream?*last_event_id=*"):
        site.network.cut()
    await watching.shows(story.tell(20), TEXT)


async def test_a_token_that_is_none(site: Site, story: Story, page: Page) -> None:
    job_id = await site.submit()
    await page.tab.goto(await site.watching(job_id, token="x"))
    await page.shows("this stream token is none of this relay", STATE)
    await site.relay.post(f"/v1/jobs/{job_id}/cancel", {})
