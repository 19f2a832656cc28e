"""One provider, one cache: what is written through one surface is read through the other.

Every prompt of the script that is cached at its first turn, sent by one vendor's SDK and then by the other's.
"""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.e2e.conversations.answers import Usage, read
from tests.e2e.conversations.applications import steps
from tests.e2e.conversations.conftest import RelayOnSandbox
from tests.e2e.conversations.python_sdks import python_anthropic, python_openai
from tests.e2e.conversations.script import VENDORS, Pair, Vendor, Way, conversations

APPLICATIONS = {"anthropic": python_anthropic, "openai": python_openai}
CACHED = [
    conversation.name
    for conversation in conversations(Pair("anthropic", "anthropic"))
    if conversation.turns[0].expect.writes
]


async def ask(relay: RelayOnSandbox, surface: Vendor, name: str, salt: str, way: Way) -> Usage:
    """The first question of this conversation, and what the answer says of the cache."""
    pair = Pair(surface, "anthropic")
    conversation = next(conversation for conversation in conversations(pair, salt) if conversation.name == name)
    [[seen]] = await relay.hold(APPLICATIONS[surface], [steps(conversation, pair, way)[:1]])
    assert seen["error"] is None, seen["error"]
    usage = read(surface, seen).usage
    assert usage
    return usage


@pytest.mark.parametrize("name", CACHED)
@pytest.mark.parametrize("writer", VENDORS)
async def test_what_one_surface_writes_the_other_reads(
    writer: Vendor, name: str, relay_on_sandbox: RelayOnSandbox
) -> None:
    [reader] = set(VENDORS) - {writer}
    salt = uuid4().hex
    first = await ask(relay_on_sandbox, writer, name, salt, "whole")
    second = await ask(relay_on_sandbox, reader, name, salt, "accumulated")
    assert (first.read, second.written) == (0, 0)
    assert second.read == first.written > 0
    assert second.prompt == first.prompt
