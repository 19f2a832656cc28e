"""What an application is told to do, and what it tells of it: the same for every SDK, whatever its language.

An application is given conversations, each a list of steps, holds them all at once, and reports what it saw of each
answer.  It changes nothing but the base URL and the key, and leaves every repetition to the relay.

    step    way, request (all but messages), opening (the messages before any turn's), messages, results, afresh
    seen    way, answer (the SDK's final object), events (as read by hand), pieces (of text, from the
            helper), error; from the wire sent (the request) and headers (of the answer)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from tests.e2e.conversations import in_anthropic, in_openai
from tests.e2e.conversations.script import Conversation, Pair, Way

Json = dict[str, Any]
Steps = list[Json]
Report = list[Json]
Application = Callable[[str, str, list[Steps]], Awaitable[list[Report]]]

WORDS = {"anthropic": in_anthropic, "openai": in_openai}


def steps(conversation: Conversation, pair: Pair, way: Way) -> Steps:
    """What an application that speaks this surface is to do."""
    words = WORDS[pair.surface]
    before_the_last: Way = "whole" if way == "whole" else "accumulated"
    return [
        {
            "way": way if turn is conversation.turns[-1] else before_the_last,
            "request": words.members(conversation, pair, way),
            "opening": words.opening(conversation),
            "messages": words.messages(turn),
            "results": {tool: words.result(part) for tool, part in turn.results.items()},
            "afresh": turn.afresh,
        }
        for turn in conversation.turns
    ]
