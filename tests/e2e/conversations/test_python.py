"""Every conversation of the script, held by the official Python SDKs with both providers through the relay."""

from __future__ import annotations

from tests.e2e.conversations.checks import check, every_conversation
from tests.e2e.conversations.conftest import Script
from tests.e2e.conversations.python_sdks import python_anthropic, python_openai
from tests.e2e.conversations.script import Conversation, Pair

APPLICATIONS = {"anthropic": python_anthropic, "openai": python_openai}


@every_conversation
async def test_a_conversation_goes_as_the_script_says(pair: Pair, conversation: Conversation, script: Script) -> None:
    reports = await script(APPLICATIONS[pair.surface], pair)
    for way in conversation.ways:
        check(conversation, pair, reports[conversation.name, way])
