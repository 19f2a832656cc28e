"""What must hold of a conversation as an application saw it: what the script expects, and what is true of every answer.

Read by the tests of each SDK; knows no SDK.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import jsonschema
import pytest

from tests.e2e.conversations.answers import Answer, Usage, read, text_before_the_error
from tests.e2e.conversations.applications import Json, Report
from tests.e2e.conversations.script import PAIRS, Conversation, Expected, Pair, conversations

_CACHED_MIN: Final = 1024  # tokens: neither model caches less
_TTLS: Final = {"30m": "5m"}  # OpenAI's times, as Anthropic's surface shows them

every_conversation = pytest.mark.parametrize(
    ("pair", "conversation"),
    [
        pytest.param(pair, conversation, id=f"{pair}: {conversation.name}")
        for pair in PAIRS
        for conversation in conversations(pair)
    ],
)


def check(conversation: Conversation, pair: Pair, report: Report) -> None:
    """The whole conversation, turn by turn; ``AssertionError`` with what was seen where it is not as it should be."""
    assert len(report) == len(conversation.turns), report[-1]["error"]
    before: Usage | None = None
    for turn, seen in zip(conversation.turns, report, strict=True):
        if turn.expect.raises:
            check_error(turn.expect, pair, seen)
            return
        assert seen["error"] is None, seen["error"]
        answer = read(pair.surface, seen)
        check_answer(turn.expect, conversation, pair, answer)
        if seen["way"] == "accumulated":
            assert "".join(seen["pieces"]) == answer.text
        assert (answer.usage is not None) == turn.expect.usage
        if answer.usage:
            check_usage(turn.expect, conversation, answer.usage, seen["billed"])
            check_cache(turn.expect, answer.usage, seen["billed"], before)
            assert before is None or turn.afresh or answer.usage.prompt > before.prompt
        check_headers(pair, seen)
        before = answer.usage


def check_answer(expect: Expected, conversation: Conversation, pair: Pair, answer: Answer) -> None:
    assert answer.id
    assert answer.model == pair.model
    assert answer.stop == expect.stop
    assert answer.text or expect.stop == "tool"
    assert expect.says in answer.text
    if expect.stop == "sequence":
        assert answer.stop_sequence in conversation.stop_at
    assert not any(text in answer.text for text in conversation.stop_at)
    if conversation.schema:
        jsonschema.validate(json.loads(answer.text), conversation.schema)
    assert [call.name for call in answer.calls] == list(expect.calls)
    assert len({call.id for call in answer.calls if call.id}) == len(answer.calls)
    for call in answer.calls:
        jsonschema.validate(call.arguments, conversation.schema_of(call.name))
    assert len(answer.thoughts) == (expect.thinks == "signed")
    assert all(thought["thinking"] and thought["signature"] for thought in answer.thoughts)


def check_usage(expect: Expected, conversation: Conversation, usage: Usage, billed: Json) -> None:
    assert usage.prompt >= expect.prompt_at_least
    assert 0 < usage.output <= conversation.limit
    assert 0 <= usage.reasoning < usage.output
    assert bool(usage.reasoning) == bool(expect.thinks)
    assert (usage.uncached, usage.read, usage.written, usage.output) == (
        billed["input_tokens"],
        billed["cache_read_tokens"],
        billed["cache_write_tokens"],
        billed["output_tokens"],
    )


def check_cache(expect: Expected, usage: Usage, billed: Json, before: Usage | None) -> None:
    """To the token: what is read is what the turn before left in the cache, and nothing is written without a word."""
    assert usage.read == (before.written + before.read if expect.reads and before else 0)
    assert usage.written + usage.read >= _CACHED_MIN or not (expect.reads or expect.writes)
    written_by_ttl = {_TTLS.get(ttl, ttl): tokens for ttl, tokens in billed["cache_write_by_ttl"].items()}
    assert written_by_ttl.keys() == set(expect.writes)
    # A stream of Anthropic's tells the split in its first event alone, when OpenAI has not said a number yet.
    assert usage.written_by_ttl in (None, written_by_ttl)


def check_headers(pair: Pair, seen: Json) -> None:
    """The answer names its job, and every marker of the request that did not reach the provider."""
    assert seen["headers"]["x-relay-job-id"]
    stripped = {f"stripped={path};ttl={ttl}" for path, ttl in markers(seen["sent"])}
    said = seen["headers"].get("x-relay-cache-control", "")
    assert set(said.split(", ")) - {""} == (stripped if pair.provider == "openai" else set())


def check_error(expect: Expected, pair: Pair, seen: Json) -> None:
    error = seen["error"]
    assert error, f"no error, but {seen['answer'] or seen['events'][-1:]}"
    assert expect.raises in error["kinds"], error
    assert expect.complains in error["message"]
    assert text_before_the_error(pair.surface, seen).startswith(expect.after)
    assert bool(text_before_the_error(pair.surface, seen)) == bool(expect.after)


def markers(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every marker of a request, as ``(path, ttl)``."""
    if isinstance(value, dict) and (marker := value.get("cache_control")):
        yield path or "body", marker.get("ttl", "5m")
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in children:
        yield from markers(child, f"{path}.{name}".lstrip("."))
