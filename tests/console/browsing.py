"""Chromium on the dashboard: logged in, in a theme, with an ear for everything that should not happen."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from playwright.async_api import Browser, ConsoleMessage, Page, ViewportSize, async_playwright

from tests.console.system import System

Theme = Literal["light", "dark"]

AXE = Path(__file__).parent / "node_modules/axe-core/axe.min.js"
WIDE, PHONE = ViewportSize(width=1360, height=900), ViewportSize(width=390, height=844)

_LISTEN = """
document.addEventListener("securitypolicyviolation", (event) =>
    console.error(`policy violated: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`));
"""
_AXE = """
async () => {
    const found = await axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]});
    return found.violations.map((each) => `${each.id}: ${each.nodes.map((node) => node.html).join(" | ")}`);
}
"""


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert path, "Chromium is not installed: run tests/support/setup.sh"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path)
        yield browser
        await browser.close()


class Tab:
    """A tab that is logged in.  ``failures``: errors of scripts, violations of the policy, what could not be loaded."""

    def __init__(self, page: Page, system: System) -> None:
        self.page = page
        self.failures: list[str] = []
        self._system = system
        page.on("pageerror", lambda error: self.failures.append(str(error)))
        page.on("console", self._heard)

    @classmethod
    async def open(cls, browser: Browser, system: System, theme: Theme = "light", key: str = "") -> Tab:
        context = await browser.new_context(viewport=WIDE, color_scheme=theme, timezone_id="Etc/UTC")
        await context.add_init_script(_LISTEN)
        tab = cls(await context.new_page(), system)
        await tab.go("/login")
        await tab.page.get_by_label("API key").fill(key or system.key)
        await tab.page.get_by_role("button", name="Log in").click()
        await tab.page.get_by_role("heading", name="Overview", level=1).wait_for()
        return tab

    async def go(self, path: str) -> None:
        await self.page.goto(f"{self._system.dashboard}{path}", wait_until="load")

    async def close(self) -> None:
        await self.page.context.close()

    async def barriers(self) -> list[str]:
        """What axe finds that keeps people from using this page."""
        await self.page.evaluate(AXE.read_text())
        found: list[str] = await self.page.evaluate(_AXE)
        return found

    async def overflow_px(self) -> int:
        """By how much the page is wider than its window."""
        wide: int = await self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        return max(0, wide)

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.failures.append(message.text)


def rows(tab: Tab) -> Any:
    return tab.page.locator("table.rows tbody tr:not(.more)")
