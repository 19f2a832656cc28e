"""Every conversation of the script, held by the official TypeScript SDKs with both providers through the relay."""

from __future__ import annotations

from tests.e2e.conversations.checks import check, every_conversation
from tests.e2e.conversations.conftest import Script
from tests.e2e.conversations.script import Conversation, Pair
from tests.e2e.conversations.typescript_sdks import typescript_anthropic, typescript_openai

APPLICATIONS = {"anthropic": typescript_anthropic, "openai": typescript_openai}


@every_conversation
async def test_a_conversation_goes_as_the_script_says(pair: Pair, conversation: Conversation, script: Script) -> None:
    reports = await script(APPLICATIONS[pair.surface], pair)
    for way in conversation.ways:
        check(conversation, pair, reports[conversation.name, way])
