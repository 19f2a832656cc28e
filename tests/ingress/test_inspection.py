"""Looking at a body: big ones in a process of their own, with the same result."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from relay.child import BIG_BYTES, BIG_PROSE_BYTES
from relay.core import fingerprint
from relay.core.body import model_spans
from relay.core.errors import InvalidRequest, Unavailable
from relay.ingress.inspection import Caching, Facts, Inspector, inspect, is_big
from tests.support.processes import Process, python
from tests.support.relay import message
from tests.support.wait import wait_until

PLAIN, DIGESTED = Caching(), Caching(digests=True)
MARK = {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
SMALL = orjson.dumps(message("claude-sonnet-4-6", system=[MARK], stream=True))
TALK = [{"role": role, "content": "Hello"} for role in ("user", "assistant", "user")]
UNMARKED = orjson.dumps(message("claude-sonnet-4-6", messages=TALK))
BIG = SMALL + b" " * BIG_PROSE_BYTES
HUGE = orjson.dumps(message("claude-sonnet-4-6", "Hello, wörld. " * 1_000_000))


PARENT = f"""
import asyncio
from relay.ingress.inspection import Caching, Inspector

async def main():
    await Inspector().inspect({SMALL!r} + b" " * {BIG_PROSE_BYTES}, "anthropic", "messages", Caching())
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
    facts = inspect(SMALL, "anthropic", "messages", PLAIN)
    assert (facts.model, facts.stream, facts.marker_ttls) == ("claude-sonnet-4-6", True, ("1h",))
    assert not facts.digests


def test_digests_only_on_request() -> None:
    facts = inspect(SMALL, "anthropic", "messages", DIGESTED)
    assert facts.digests.startswith("system.0=")
    assert len(facts.digests) == len("system.0=") + 64


def marks(facts: Facts) -> list[str]:
    return [f"{entry.path}:{entry.ttl}" for entry in fingerprint.parse(facts.fingerprint).breakpoints]


def test_a_fingerprint_only_of_what_is_to_be_cached() -> None:
    assert marks(inspect(SMALL, "anthropic", "messages", PLAIN)) == ["system.0:1h"]
    assert inspect(SMALL, "anthropic", "count_tokens", PLAIN).fingerprint == ""
    assert inspect(UNMARKED, "anthropic", "messages", PLAIN).fingerprint == ""


@pytest.mark.parametrize(
    ("automatic", "expected"),
    [(("claude-*",), True), (("*",), True), (("gpt-*", "*-4-6"), True), (("Claude-*", "gpt-*"), False), ((), False)],
)
def test_breakpoints_of_the_relays_go_by_the_model(automatic: tuple[str, ...], expected: bool) -> None:
    facts = inspect(UNMARKED, "anthropic", "messages", Caching(automatic=automatic))
    assert facts.auto_cache is expected
    assert marks(facts) == (["messages.1:5m"] if expected else [])


async def test_a_big_body_has_the_same_facts(inspector: Inspector) -> None:
    headers = {"anthropic-beta": "a,b"}
    for caching in (PLAIN, DIGESTED, Caching(headers), Caching(headers, ("claude-*",), digests=True)):
        for request in (SMALL, UNMARKED):
            small = await inspector.inspect(request, "anthropic", "messages", caching)
            big = await inspector.inspect(request + b" " * BIG_PROSE_BYTES, "anthropic", "messages", caching)
            assert big == replace(small, model_spans=model_spans(request))
    assert len(children_of(os.getpid())) == 1


async def test_a_big_body_is_refused_in_the_same_words(inspector: Inspector) -> None:
    for body in (b"{,}", b'{"model": 7}', b"\xff"):
        said = []
        for padding in (b"", b" " * BIG_PROSE_BYTES):
            with pytest.raises(InvalidRequest) as refused:
                await inspector.inspect(body + padding, "anthropic", "messages", PLAIN)
            said.append((refused.value.message, refused.value.param))
        assert said[0] == said[1]


async def test_the_loop_goes_on_while_a_huge_body_is_looked_at(inspector: Inspector) -> None:
    inspecting = asyncio.create_task(inspector.inspect(HUGE, "anthropic", "messages", DIGESTED))
    turns = 0
    while not inspecting.done():
        await asyncio.sleep(0)
        turns += 1
    assert (await inspecting).model == "claude-sonnet-4-6"
    assert turns > 100


async def test_several_big_bodies_are_looked_at_in_turn(inspector: Inspector) -> None:
    bodies = [orjson.dumps(message(f"claude-{n}")) + b" " * BIG_PROSE_BYTES for n in range(4)]
    found = await asyncio.gather(*[inspector.inspect(body, "anthropic", "messages", PLAIN) for body in bodies])
    assert [facts.model for facts in found] == [f"claude-{n}" for n in range(4)]


async def test_a_child_that_dies_costs_one_request_at_most(inspector: Inspector) -> None:
    await inspector.inspect(BIG, "anthropic", "messages", PLAIN)
    inspecting = asyncio.create_task(inspector.inspect(HUGE, "anthropic", "messages", DIGESTED))
    await asyncio.sleep(0)
    os.kill(children_of(os.getpid())[0], signal.SIGKILL)
    with pytest.raises(Unavailable):
        await inspecting
    assert (await inspector.inspect(BIG, "anthropic", "messages", PLAIN)).model == "claude-sonnet-4-6"


async def test_a_client_that_leaves_meanwhile_does_not_confuse_the_next_answer(inspector: Inspector) -> None:
    inspecting = asyncio.create_task(inspector.inspect(HUGE, "anthropic", "messages", DIGESTED))
    await wait_until(lambda: children_of(os.getpid()), what="a child has been started")
    inspecting.cancel()
    await asyncio.wait({inspecting})
    other = orjson.dumps(message("claude-other")) + b" " * BIG_PROSE_BYTES
    assert (await inspector.inspect(other, "anthropic", "messages", PLAIN)).model == "claude-other"


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
