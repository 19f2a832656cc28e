"""The official TypeScript SDK sees through the relay what it sees without it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.support.badprovider import BadProvider
from tests.support.fixtures import ROOT, ErrorAnswer, errors, response, transcripts
from tests.support.processes import clean_environment
from tests.support.relay import Relay, message
from tests.support.upstream import Call, Script, answer, replay

APPLICATION = Path(__file__).parents[1] / "typescript" / "application.mjs"
HELLO = message("claude-sonnet-4-6")


async def application(base_url: str, key: str, calls: list[tuple[str, Any]]) -> list[Any]:
    """What an application sees of these calls, in a Node.js process."""
    assert (APPLICATION.parent / "node_modules").is_dir(), "the SDK is not installed: run tests/support/setup.sh"
    pipe = asyncio.subprocess.PIPE
    command = ("node", str(APPLICATION), base_url, key)
    process = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, stderr=pipe, env=clean_environment()
    )
    output, complaints = await process.communicate(json.dumps(calls).encode())
    assert process.returncode == 0, complaints.decode()
    seen: list[Any] = json.loads(output)
    return seen


async def both(relay: Relay, upstream: BadProvider, calls: list[tuple[str, Any]]) -> list[tuple[Any, Any]]:
    through = await application(relay.url, relay.key, calls)
    straight = await application(upstream.url, "a-provider-key", calls)
    return list(zip(through, straight, strict=True))


def by_model(scripts: dict[str, Script]) -> Script:
    """A script for each model."""

    async def script(call: Call) -> None:
        await scripts[call.json["model"]](call)

    return script


async def test_every_recorded_stream_gives_the_same_events_and_message(relay: Relay, upstream: BadProvider) -> None:
    recorded = {f"claude-{each.name}": each for each in transcripts("anthropic") if each.is_canonical}
    whole = {model: each for model, each in recorded.items() if each.expected["outcome"] != "truncated"}
    upstream.script = by_model({model: replay(each.stream) for model, each in whole.items()})
    calls = [("stream", HELLO | {"model": model}) for model in whole]
    for model, (through, straight) in zip(whole, await both(relay, upstream, calls), strict=True):
        assert through == straight, model


async def test_errors_are_the_same_exceptions(relay: Relay, upstream: BadProvider) -> None:
    fixtures = {f"claude-{each.name}": each for each in errors("anthropic")}

    def refusal(error: ErrorAnswer) -> Script:
        return answer(error.body, status=error.status, headers=error.headers)

    upstream.script = by_model({model: refusal(error) for model, error in fixtures.items()})
    calls = [("create", HELLO | {"model": model}) for model in fixtures]
    for error, (through, straight) in zip(fixtures.values(), await both(relay, upstream, calls), strict=True):
        assert through == straight
        assert through["status"] == error.status


async def test_answers_counts_and_models(relay: Relay, upstream: BadProvider) -> None:
    counted = (ROOT / "misc" / "anthropic-count-tokens.json").read_bytes()

    async def script(call: Call) -> None:
        await call.whole(200, counted if "count_tokens" in call.path else response("anthropic", "tool-use-thinking"))

    upstream.script = script
    count = {name: HELLO[name] for name in ("model", "messages")}
    for through, straight in await both(relay, upstream, [("create", HELLO), ("countTokens", count)]):
        assert through == straight
    [models] = await application(relay.url, relay.key, [("models", None)])
    assert HELLO["model"] in models
