"""Chromium, a relay whose pages may be anywhere on this machine, and a proxy before it that stands for the network.

page ── proxy ──► ingress ── … ──► worker ──► the story's teller
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, BrowserContext, async_playwright

from tests.browser.site import Page, Site
from tests.browser.story import Story
from tests.support.badprovider import BadProvider
from tests.support.processes import RedisServer


@pytest.fixture(scope="session")
async def _chromium() -> AsyncIterator[Browser]:
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert path, "Chromium is not installed: run tests/support/setup.sh"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path)
        yield browser
        await browser.close()


@pytest.fixture(scope="session")
async def redis_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisServer]:
    """Of these tests alone: the site's worker lives on, and must not take the jobs of others."""
    server = RedisServer(tmp_path_factory.mktemp("browser-redis"), append_only=False)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture(scope="session")
async def _site(
    redis_server: RedisServer, _upstream: BadProvider, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    async with Site(tmp_path_factory.mktemp("site"), redis_server.url, _upstream) as site:
        yield site


@pytest.fixture
def site(_site: Site, redis: object) -> Site:
    return _site


@pytest.fixture
def story(upstream: BadProvider) -> Story:
    """What the provider tells, once."""
    upstream.script = story = Story()
    return story


@pytest.fixture
async def context(_chromium: Browser) -> AsyncIterator[BrowserContext]:
    context = await _chromium.new_context()
    yield context
    await context.close()


@pytest.fixture
async def page(context: BrowserContext) -> AsyncIterator[Page]:
    """A tab; no script in it may fail."""
    page = Page(await context.new_page())
    await page.prepare()
    yield page
    assert page.failures == []
