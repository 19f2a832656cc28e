"""``relay usage``: tables of a ledger, read without a console."""

from __future__ import annotations

import asyncio
import csv
import json
from collections.abc import AsyncIterator
from io import StringIO
from pathlib import Path

import pytest

from tests.console.history import history
from tests.console.system import now_ms, remember
from tests.ledger.records import entry
from tests.support.processes import Process, clean_environment, python
from tests.support.wait import wait_until


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("usage")
    remember(data, history(now_ms(), 1, 300))
    return data


async def usage(data: Path, *arguments: str) -> str:
    output = await ended(data, *arguments)
    assert output[0] == 0, output
    return output[1]


async def ended(data: Path, *arguments: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *python("-m", "relay", "usage", *arguments, "--data-dir", str(data)),
        env=clean_environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_the_tail_shows_the_newest_calls(data: Path) -> None:
    lines = (await usage(data, "tail", "-n", "5")).splitlines()
    assert {"model", "cost", "saved"} <= set(lines[0 if lines[0].strip() else 1].split())
    assert len([line for line in lines if "20" in line and ":" in line]) == 5


async def test_the_summary_adds_up_by_what_is_asked(data: Path) -> None:
    asked = usage(data, "summary", "--by", "app", "--json"), usage(data, "summary", "--by", "app", "--by", "outcome")
    found, table = await asyncio.gather(*asked)
    apps = [each["app"] for each in json.loads(found)]
    assert {"Support desk", "Search"} <= set(apps)
    assert all(app in table for app in apps)


async def test_it_says_why_there_was_no_hit(data: Path) -> None:
    shown, sums = await asyncio.gather(usage(data, "tail", "-n", "200"), usage(data, "summary", "--by", "cache_reason"))
    assert "prefix changed at system.0" in shown
    assert {"first time", "prefix changed"} <= {line[:20].strip() for line in sums.splitlines()}


async def test_the_export_has_every_call_that_fits(data: Path) -> None:
    asked = [usage(data, "export", "--app", "Search", "--format", form) for form in ("csv", "jsonl")]
    table, lines = await asyncio.gather(*asked)
    calls = [json.loads(line) for line in lines.splitlines()]
    assert {call["app"] for call in calls} == {"Search"}
    assert [row["call"] for row in csv.DictReader(StringIO(table))] == [call["call"] for call in calls]


@pytest.mark.parametrize(
    ("arguments", "named"), [(["summary", "--by", "weather"], "weather"), (["export", "--since", "soon"], "soon")]
)
async def test_a_mistake_is_one_line_that_names_it(data: Path, arguments: list[str], named: str) -> None:
    code, output = await ended(data, *arguments)
    assert (code, output.count("\n"), named in output) == (1, 1, True)


@pytest.fixture
async def following(tmp_path: Path) -> AsyncIterator[Process]:
    remember(tmp_path, [entry(1, app="before")])
    command = python("-u", "-m", "relay", "usage", "tail", "-f", "--data-dir", str(tmp_path))
    process = Process("tail", command, tmp_path)
    await wait_until(lambda: "before" in process.output, what="the tail shows what there is")
    yield process
    await process.kill()


async def test_the_tail_follows_and_shows_no_markup_or_control_of_a_client(following: Process, tmp_path: Path) -> None:
    remember(tmp_path, [entry(2, app="[red]after[/red]\x1b[2J")])
    await wait_until(lambda: "after" in following.output, what="the tail shows what came")
    assert "[red]after[/red]?[2J" in following.output
    assert following.output.count("before") == 1
