"""The chat made with `useChat`: reloaded, cut off, stopped, its ingress gone, it shows each answer once, and whole."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.browser.site import Page, Site
from tests.browser.story import WORDS, Story
from tests.support.wait import wait_until

ANSWER, QUESTION, STATUS = "article[data-role=assistant]", "article[data-role=user]", "[role=status]"


@pytest.fixture
async def chat(site: Site, page: Page) -> Page:
    await page.watch(ANSWER)
    await page.tab.goto(await site.chat())
    return page


@pytest.fixture
async def chatting(chat: Page, story: Story) -> AsyncIterator[Page]:
    """A chat that shows the first words of an answer; in the end it must have shown every part of it in its order."""
    await ask(chat, "Tell me a story.")
    await wait_until(lambda: story.call, what="the provider is called")
    await chat.shows(story.tell(10), ANSWER)
    yield chat
    whole = story.tell()
    await chat.shows("ready", STATUS)
    await chat.shows(whole, ANSWER)
    assert await chat.tab.locator("article").count() == 2
    assert [text for text in chat.texts if not whole.startswith(text)] == []


async def ask(chat: Page, text: str) -> None:
    await chat.tab.get_by_label("message").fill(text)
    await chat.tab.get_by_role("button", name="Send").click()


async def test_reloaded_in_mid_answer(chatting: Page, story: Story) -> None:
    for words in (20, 30):
        await chatting.tab.reload()
        await chatting.shows(story.tell(words), ANSWER)


async def test_reloaded_after_the_answer(chatting: Page, story: Story) -> None:
    story.tell()
    await chatting.shows("ready", STATUS)
    await chatting.tab.reload()
    await chatting.shows("Tell me a story.", QUESTION)


async def test_the_answer_ends_while_the_page_is_away(chatting: Page, site: Site, story: Story) -> None:
    address = chatting.tab.url
    await chatting.tab.goto("about:blank")
    story.tell()
    assert story.call
    await story.call.ended.wait()
    await chatting.tab.goto(address)


async def test_the_network_is_cut(chatting: Page, site: Site, story: Story) -> None:
    site.line.partition()
    await wait_until(lambda: _trouble(chatting), what="the page has noticed")
    story.tell(20)
    site.line.heal()
    await chatting.shows(story.so_far(20), ANSWER)


async def _trouble(chat: Page) -> bool:
    return await chat.tab.locator(STATUS).text_content() not in ("submitted", "streaming", "ready")


async def test_the_ingress_is_restarted_and_the_page_does_not_notice(chatting: Page, site: Site, story: Story) -> None:
    await site.restart_ingress()
    await chatting.shows(story.tell(WORDS // 2), ANSWER)
    assert not await _trouble(chatting)


async def test_stop_ends_the_provider_call_and_keeps_what_was_said(chat: Page, story: Story) -> None:
    await ask(chat, "Tell me a story.")
    await wait_until(lambda: story.call, what="the provider is called")
    await chat.shows(said := story.tell(10), ANSWER)
    await chat.tab.get_by_role("button", name="Stop").click()
    assert story.call
    await story.call.ended.wait()
    assert story.call.how == "client_gone"
    await chat.shows("ready", STATUS)
    await chat.tab.reload()
    await chat.shows(said, ANSWER)
