"""What a page talks to, and what it shows."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Self

import playwright.async_api as playwright

from tests.support.badprovider import BadProvider
from tests.support.chaos import ChaosProxy
from tests.support.processes import Process, free_port, python
from tests.support.relay import Relay, message, served_by
from tests.support.wait import wait_until

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"

# Tells the test what an element shows, whenever that changes and on every page the tab ever loads.
_WATCH = """
new MutationObserver(() => {
    const element = document.querySelector('%s');
    if (element) window.shown(element.textContent);
}).observe(document, {childList: true, subtree: true, characterData: true});
"""


class Site:
    """A relay, its network, and the examples' servers.

    ``network`` is between whoever uses the relay and its ingress, ``line`` between the chat's page and its server.
    """

    def __init__(self, directory: Path, redis_url: str, upstream: BadProvider) -> None:
        self._directory = directory
        self._pages_port, self._chat_port = free_port(), free_port()
        self.pages = f"http://127.0.0.1:{self._pages_port}"
        environment = {"RELAY_CORS_ORIGINS": self.pages, "RELAY_DRAIN_S": "1"}
        self.relay = Relay(directory, redis_url, served_by(upstream) | environment)
        self.network = ChaosProxy(0)
        self.line = ChaosProxy(self._chat_port)
        self._servers: list[Process] = []

    async def __aenter__(self) -> Self:
        await asyncio.gather(self.relay.start(), self.network.start(), self.line.start(), self._serve_pages())
        self.network.target_port = self.relay.port
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            await server.kill()
        await self.line.stop()
        await self.network.stop()
        await self.relay.stop()

    @property
    def address(self) -> str:
        """Of the relay, as pages know it."""
        return f"http://127.0.0.1:{self.network.port}"

    async def chat(self) -> str:
        """The address of the chat's server, which is started when it is first needed."""
        if not any(server.name == "chat" for server in self._servers):
            assert (EXAMPLES / "ai-sdk" / "dist").is_dir(), "the page is not built: run tests/support/setup.sh"
            environment = {"RELAY_URL": self.address, "RELAY_API_KEY": self.relay.key, "PORT": str(self._chat_port)}
            command = [shutil.which("node") or "node", str(EXAMPLES / "ai-sdk" / "server.js")]
            server = Process("chat", command, self._directory, environment)
            self._servers.append(server)
            await server.ready()
        return f"http://127.0.0.1:{self.line.port}"

    async def submit(self, endpoint: str = "/v1/messages", model: str = "claude-sonnet-4-6") -> str:
        """A job that streams; its id."""
        job = {"endpoint": endpoint, "body": message(model, stream=True)}
        answer = await self.relay.post("/v1/jobs", job)
        assert answer.status == 202, answer
        return str(answer.json["id"])

    async def watching(self, job_id: str, token: str = "") -> str:
        """The address of the page that watches this job, with a good token if none is given."""
        if not token:
            made = await self.relay.post(f"/v1/jobs/{job_id}/stream_tokens", {})
            token = made.json["token"]
        return f"{self.pages}/#relay={self.address}&job={job_id}&token={token}"

    async def restart_ingress(self) -> None:
        """The one there is dies; another one takes its place, as behind a load balancer."""
        ingress = self.relay.ingresses.pop()
        await ingress.kill()
        await self.relay.add_ingress()
        self.network.target_port = self.relay.port

    async def _serve_pages(self) -> None:
        port, folder = str(self._pages_port), str(EXAMPLES / "eventsource")
        command = python("-u", "-m", "http.server", port, "--bind", "127.0.0.1", "--directory", folder)
        server = Process("pages", command, self._directory)
        self._servers.append(server)
        await wait_until(lambda: "Serving HTTP" in server.output, what="the pages are served")


class Page:
    """A tab of the browser.  ``texts`` is every text it ever showed where ``watch`` looks."""

    def __init__(self, tab: playwright.Page) -> None:
        self.tab = tab
        self.texts: list[str] = []
        self.failures: list[str] = []

    async def prepare(self) -> None:
        self.tab.on("pageerror", lambda error: self.failures.append(str(error)))
        await self.tab.expose_function("shown", lambda text: self.texts.append(text))

    async def watch(self, selector: str) -> None:
        await self.tab.add_init_script(_WATCH % selector)

    async def shows(self, text: str, selector: str) -> None:
        """Wait until an element shows this and nothing else."""
        element = self.tab.locator(selector)
        await wait_until(lambda: _is(element, text), what=f"{selector} shows …{text[-60:]!r}", every_s=0.05)


async def _is(element: playwright.Locator, text: str) -> bool:
    return await element.count() > 0 and await element.last.text_content() == text
