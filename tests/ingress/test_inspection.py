"""Looking at a body: big ones in a process of their own, with the same result."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import orjson
import pytest

from relay.child import BIG_BYTES, BIG_PROSE_BYTES
from relay.core.body import model_spans
from relay.core.errors import InvalidRequest, Unavailable
from relay.ingress.inspection import Inspector, inspect, is_big
from tests.support.processes import Process, python
from tests.support.relay import message
from tests.support.wait import wait_until

MARK = {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
SMALL = orjson.dumps(message("claude-sonnet-4-6", system=[MARK], stream=True))
BIG = SMALL + b" " * BIG_PROSE_BYTES
HUGE = orjson.dumps(message("claude-sonnet-4-6", "Hello, wörld. " * 1_000_000))


PARENT = f"""
import asyncio
from relay.ingress.inspection import Inspector

async def main():
    await Inspector().inspect({SMALL!r} + b" " * {BIG_PROSE_BYTES}, "anthropic", "messages", False)
    print("ready to be killed", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
async def inspector() -> AsyncIterator[Inspector]:
    inspector = Inspector()
    yield inspector
    inspector.close()
    await wait_until(lambda: not children_of(os.getpid()), what="the child is gone")


def children_of(pid: int) -> list[int]:
    """The inspecting processes that this process has started."""
    pids: list[str] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):  # the thread has ended
            pids += (task / "children").read_text().split()
    return [int(child) for child in pids if b"inspection" in of_process(int(child), "cmdline")]


def of_process(pid: int, file: str) -> bytes:
    """What the kernel tells of a process; nothing once it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/{file}").read_bytes()
    return b""


def test_the_facts_of_a_request() -> None:
    facts = inspect(SMALL, "anthropic", "messages", False)
    assert (facts.model, facts.stream, facts.marker_ttls) == ("claude-sonnet-4-6", True, ("1h",))
    assert not facts.digests


def test_digests_only_on_request() -> None:
    facts = inspect(SMALL, "anthropic", "messages", True)
    assert facts.digests.startswith("system.0=")
    assert len(facts.digests) == len("system.0=") + 64


async def test_a_big_body_has_the_same_facts(inspector: Inspector) -> None:
    for digests in (False, True):
        small = await inspector.inspect(SMALL, "anthropic", "messages", digests)
        big = await inspector.inspect(BIG, "anthropic", "messages", digests)
        for fact in ("model", "stream", "marker_ttls", "prefixes", "digests"):
            assert getattr(big, fact) == getattr(small, fact), fact
        assert big.model_spans == model_spans(SMALL)
    assert len(children_of(os.getpid())) == 1


async def test_a_big_body_is_refused_in_the_same_words(inspector: Inspector) -> None:
    for body in (b"{,}", b'{"model": 7}', b"\xff"):
        said = []
        for padding in (b"", b" " * BIG_PROSE_BYTES):
            with pytest.raises(InvalidRequest) as refused:
                await inspector.inspect(body + padding, "anthropic", "messages", False)
            said.append((refused.value.message, refused.value.param))
        assert said[0] == said[1]


async def test_the_loop_goes_on_while_a_huge_body_is_looked_at(inspector: Inspector) -> None:
    inspecting = asyncio.create_task(inspector.inspect(HUGE, "anthropic", "messages", True))
    turns = 0
    while not inspecting.done():
        await asyncio.sleep(0)
        turns += 1
    assert (await inspecting).model == "claude-sonnet-4-6"
    assert turns > 100


async def test_several_big_bodies_are_looked_at_in_turn(inspector: Inspector) -> None:
    bodies = [orjson.dumps(message(f"claude-{n}")) + b" " * BIG_PROSE_BYTES for n in range(4)]
    found = await asyncio.gather(*[inspector.inspect(body, "anthropic", "messages", False) for body in bodies])
    assert [facts.model for facts in found] == [f"claude-{n}" for n in range(4)]


async def test_a_child_that_dies_costs_one_request_at_most(inspector: Inspector) -> None:
    await inspector.inspect(BIG, "anthropic", "messages", False)
    inspecting = asyncio.create_task(inspector.inspect(HUGE, "anthropic", "messages", True))
    await asyncio.sleep(0)
    os.kill(children_of(os.getpid())[0], signal.SIGKILL)
    with pytest.raises(Unavailable):
        await inspecting
    assert (await inspector.inspect(BIG, "anthropic", "messages", False)).model == "claude-sonnet-4-6"


async def test_a_client_that_leaves_meanwhile_does_not_confuse_the_next_answer(inspector: Inspector) -> None:
    inspecting = asyncio.create_task(inspector.inspect(HUGE, "anthropic", "messages", True))
    await wait_until(lambda: children_of(os.getpid()), what="a child has been started")
    inspecting.cancel()
    await asyncio.wait({inspecting})
    other = orjson.dumps(message("claude-other")) + b" " * BIG_PROSE_BYTES
    assert (await inspector.inspect(other, "anthropic", "messages", False)).model == "claude-other"


async def test_the_child_knows_no_secret_and_does_not_outlive_its_parent(tmp_path: Path) -> None:
    parent = Process("parent", python("-c", PARENT), tmp_path, {"RELAY_API_KEY": "secret"})
    await parent.ready()
    [child] = children_of(parent.pid)
    environment = of_process(child, "environ")
    await parent.kill()
    await wait_until(lambda: not of_process(child, "cmdline"), what="the child has ended")
    assert environment
    assert b"RELAY_" not in environment


@pytest.mark.parametrize(
    ("body", "big"),
    [
        (SMALL, False),
        (orjson.dumps(message("claude-x", "Lorem ipsum dolor sit amet, consectetur. " * 10_000)), False),
        (orjson.dumps(message("claude-x", 'Zeile\n"zwei" ' * 30_000)), False),
        (orjson.dumps(message("claude-x", "x" * BIG_PROSE_BYTES)), True),
        (orjson.dumps(message("claude-x") | {"messages": [{"role": "user", "content": "Hello"}] * 10_000}), True),
        (orjson.dumps({"model": "claude-x", "numbers": [1] * 200_000}), True),
        (b"[" * BIG_BYTES * 2, True),
    ],
)
def test_a_big_body_is_one_of_many_values_or_very_many_bytes(body: bytes, big: bool) -> None:
    assert is_big(body, digests=False) is big


def test_with_digests_a_body_is_big_much_sooner() -> None:
    body = orjson.dumps(message("claude-x", "Hello " * 5000))
    assert not is_big(body, digests=False)
    assert is_big(body, digests=True)
