"""``relay jobs``, run as an operator runs it, on a relay that works."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support import dialects
from tests.support.badprovider import BadProvider
from tests.support.processes import Process, clean_environment, free_port, python
from tests.support.relay import Relay, message
from tests.support.wait import wait_until

MODEL = "claude-sonnet-4-6"
LATER = [("prefer", "respond-async")]


class Cli:
    """The command, at one relay."""

    def __init__(self, relay: Relay, directory: Path) -> None:
        self.started: list[Process] = []
        self._directory = directory
        self._environment = {"RELAY_PORT": str(relay.port), "RELAY_API_KEY": relay.key, "COLUMNS": "250"}

    async def __call__(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """What it prints, on either stream."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "relay", "jobs", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=self._directory,
            env=clean_environment() | self._environment | environment,
        )
        printed, _ = await process.communicate()
        assert process.returncode == code, printed.decode()
        return printed.decode()

    def start(self, *arguments: str) -> Process:
        terminal = {"FORCE_COLOR": "1"}  # so that it writes as to one
        command = python("-m", "relay", "jobs", *arguments)
        self.started.append(Process("jobs", command, self._directory, self._environment | terminal))
        return self.started[-1]


@pytest.fixture
async def cli(relay: Relay, tmp_path: Path) -> AsyncIterator[Cli]:
    cli = Cli(relay, tmp_path)
    yield cli
    for process in cli.started:
        await process.kill()


async def submit(relay: Relay, model: str = MODEL, **envelope: Any) -> str:
    body = {"endpoint": "/v1/messages", "body": message(model, stream=True), **envelope}
    accepted = await relay.post("/v1/jobs", body)
    job_id: str = accepted.json["id"]
    return job_id


async def ended(relay: Relay, job_id: str) -> str:
    await relay.get(f"/v1/jobs/{job_id}", [("prefer", "wait=30")])
    return job_id


async def test_jobs_are_listed_shown_and_read(relay: Relay, upstream: BadProvider, cli: Cli) -> None:
    job_id = await ended(relay, await submit(relay, metadata={"run": "listed"}))
    listed = await cli("ls", "--metadata", "run=listed", "--status", "completed")
    assert (job_id in listed, MODEL in listed, "completed" in listed) == (True, True, True)
    assert [job["id"] for job in json.loads(await cli("ls", "--metadata", "run=listed", "--json"))] == [job_id]
    assert json.loads(await cli("show", job_id, "--json")) == await relay.job(job_id)
    assert "metadata.run             listed\n" in await cli("show", job_id)
    assert await cli("tail", job_id) == dialects.words(upstream.calls[0].id, 20) + "\n"
    assert (await cli("tail", "--events", job_id)).count("text_delta") == 20


async def test_a_list_may_be_longer_than_a_page(relay: Relay, cli: Cli) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    ids = [await submit(relay, metadata={"run": "long"}, run_at=tomorrow) for _ in range(103)]
    listed = json.loads(await cli("ls", "--metadata", "run=long", "--limit", "102", "--json"))
    assert [job["id"] for job in listed] == ids[:0:-1]
    assert (await cli("cancel", *ids)).count(" cancelled\n") == 103


async def test_a_failed_job_is_found_and_run_again(relay: Relay, cli: Cli) -> None:
    job_id = await ended(relay, await submit(relay, f"{MODEL}@error_mid"))
    assert "overloaded_error: Overloaded" in next(line for line in (await cli("dead")).splitlines() if job_id in line)
    assert "relay: Overloaded" in await cli("tail", job_id, code=1)
    words = (await cli("replay", job_id)).split()
    assert words[:3] == [job_id, "replayed", "as"]
    assert (await relay.job(words[3]))["replay_of"] == job_id
    await ended(relay, words[3])


async def test_a_list_that_is_watched_changes(relay: Relay, upstream: BadProvider, cli: Cli) -> None:
    watching = cli.start("ls", "--watch", "--metadata", "run=watched")
    await wait_until(lambda: "created" in watching.output, what="the empty list is shown")
    job_id = await submit(relay, f"{MODEL}@slow:50", metadata={"run": "watched"})
    await wait_until(lambda: job_id in watching.output, what="the new job is shown")
    await wait_until(lambda: "completed" in watching.output, what="its end is shown")
    watching.send(signal.SIGINT)
    assert await watching.ended() == 0


async def test_what_is_wrong_is_one_line(relay: Relay, cli: Cli) -> None:
    unknown = "0-" + "0" * 32
    assert await cli("show", unknown, code=1) == f"relay: No job with the id '{unknown}'.\n"
    assert "is not the id of a job" in await cli("show", "../keys", code=1)
    assert "only" in (await cli("replay", await ended(relay, await submit(relay)), code=1)).lower()
    port = str(free_port())
    assert f"no relay answers at http://127.0.0.1:{port}" in await cli("ls", code=1, RELAY_PORT=port)
    assert "no API key" in await cli("ls", code=1, RELAY_API_KEY="")
    assert "not of the form" in await cli("ls", "--url", "example.com", code=1)


async def test_a_batch_is_watched_until_it_has_ended(relay: Relay, cli: Cli, upstream: BadProvider) -> None:
    items = [{"custom_id": f"item-{n}", "params": message(MODEL)} for n in range(7)]
    batch = (await relay.post("/v1/messages/batches", {"requests": items})).json["id"]
    shown = await cli("batch", batch, "--watch")
    assert "ended" in shown
    assert "7/7" in shown
    assert "No" in await cli("batch", "msgbatch_0_" + "0" * 32, code=1)
    assert "is not the id of a batch" in await cli("batch", "../jobs", code=1)
