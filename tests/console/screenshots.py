"""The README's pictures, made anew: ``python -m tests.console.screenshots [FOLDER]``.

Starts a whole system with a made-up fortnight behind it, makes a few calls through the sandbox, and takes the overview
in the light theme and a job in the dark one. Needs what ``tests/support/setup.sh`` installs.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from playwright.async_api import Browser, ViewportSize, expect

from tests.console.browsing import Tab, chromium
from tests.console.history import history
from tests.console.system import System, now_ms
from tests.support.processes import RedisServer

FOLDER = Path(__file__).parents[2] / "deploy" / "screenshots"
SIZE = ViewportSize(width=1340, height=860)

_STORY = "SANDBOX(events=130,gap_ms=45) Explain what a prompt cache is, and when a write is worth its premium."


async def take(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:
        redis = RedisServer(Path(directory) / "redis")
        await redis.start()
        system = System(Path(directory), redis.url, RELAY_API_KEY="rk-for-pictures-only")
        system.key = "rk-for-pictures-only"
        system.remember(history(now_ms(), 24 * 14, 140))
        await system.start()
        try:
            async with chromium() as browser:
                await _overview(browser, system, folder / "overview-light.png")
                await _job(browser, system, folder / "job-dark.png")
        finally:
            await system.stop()
            await redis.stop()


async def _overview(browser: Browser, system: System, path: Path) -> None:
    tab = await Tab.open(browser, system, "light")
    await tab.page.set_viewport_size(SIZE)
    await tab.go("")
    await expect(tab.page.locator("#timeline canvas")).to_be_visible()
    await tab.page.screenshot(path=path, full_page=True, animations="disabled")
    await tab.close()


async def _job(browser: Browser, system: System, path: Path) -> None:
    tab = await Tab.open(browser, system, "dark")
    await tab.page.set_viewport_size(SIZE)
    await system.call("Hello")  # writes the cache
    call = asyncio.create_task(system.call(_STORY, max_tokens=4000))
    await tab.go("/jobs")
    await tab.page.locator("table.rows tr").filter(has_text="in progress").get_by_role("link").click()
    await expect(tab.page.locator("#answer")).to_contain_text("cost")
    await call
    await expect(tab.page.get_by_role("heading", name="completed")).to_be_visible()
    await tab.page.locator("details.call > summary").click()
    await tab.page.screenshot(path=path, full_page=True, animations="disabled")
    await tab.close()


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(take(folder))
