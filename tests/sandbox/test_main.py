"""The sandbox as a process: its ready line, its end, and what it refuses to start on."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from relay.sandbox.guard import listen
from tests.support import http

PROGRAM = """
import sys
from types import SimpleNamespace
from pydantic import SecretStr
from relay.sandbox.main import run

port, host = int(sys.argv[1]), sys.argv[2]
run(SimpleNamespace(sandbox_port=port, sandbox_gap_ms=0, sandbox_key=SecretStr("the key")), host=host)
"""


@asynccontextmanager
async def process(port: int = 0, host: str = "127.0.0.1") -> AsyncIterator[Process]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(port), host, stdout=PIPE, stderr=PIPE
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def ready_port(child: Process) -> int:
    assert child.stdout is not None
    line = (await child.stdout.readline()).decode()
    assert line.startswith("ready sandbox on http://127.0.0.1:")
    return urlsplit(line.split()[-1]).port or 0


def post(key: str, **members: object) -> bytes:
    body = {"model": "claude-sonnet-4-6", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], **members}
    headers = [("x-api-key", key), ("anthropic-version", "2023-06-01")]
    return http.render("POST", "/v1/messages", headers, json.dumps(body).encode())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_says_where_it_is_and_leaves_with_0_when_asked_to(number: signal.Signals) -> None:
    async with process() as child:
        port = await ready_port(child)
        assert (await http.request(port, "GET", "/healthz")).status == 200
        child.send_signal(number)
        rest, errors = await child.communicate()
    assert (child.returncode, rest, errors) == (0, b"", b"")


async def test_it_takes_its_own_key_and_no_other() -> None:
    async with process() as child:
        port = await ready_port(child)
        for key, status in (("the key", 200), ("another", 401)):
            exchange = await http.Exchange.open(port, post(key))
            assert exchange.status == status
            await exchange.close()


async def test_an_open_stream_does_not_hold_it_back() -> None:
    async with process() as child:
        port = await ready_port(child)
        exchange = await http.Exchange.open(port, post("the key", model="claude-opus-4-8@fault=stall", stream=True))
        child.terminate()
        _, errors = await asyncio.wait_for(child.communicate(), 10)
        await exchange.close()
    assert child.returncode == 0
    assert b"Traceback" not in errors


async def test_it_does_not_start_where_others_could_reach_it() -> None:
    async with process(host="0.0.0.0") as child:
        out, errors = await child.communicate()
    assert child.returncode == 1
    assert out == b""
    assert errors.startswith(b"relay sandbox: the sandbox is for this machine only")


async def test_a_taken_port_is_a_clear_error() -> None:
    with listen("127.0.0.1", 0) as taken:
        async with process(port=taken.getsockname()[1]) as child:
            _, errors = await child.communicate()
    assert child.returncode == 1
    assert errors.startswith(b"relay sandbox: ")
    assert b"Traceback" not in errors
