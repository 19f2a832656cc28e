"""Applications on the official Python SDKs."""

from __future__ import annotations

import asyncio
import json
from contextvars import ContextVar
from typing import Any, Protocol

from anthropic import AsyncAnthropic
from anthropic import DefaultAsyncHttpxClient as AnthropicHttp
from openai import AsyncOpenAI, LengthFinishReasonError
from openai import DefaultAsyncHttpx2Client as OpenAIHttp

from tests.e2e.conversations.applications import Json, Report, Steps
from tests.e2e.conversations.script import Way

# OpenAI's SDK has no argument for these; in TypeScript they are members like any other.
_EXTRA = ("cache_control", "thinking")

_seen: ContextVar[Json] = ContextVar("seen")


async def python_anthropic(base_url: str, key: str, conversations: list[Steps]) -> list[Report]:
    async with (
        AnthropicHttp(event_hooks={"response": [_note]}) as http,
        AsyncAnthropic(base_url=base_url, api_key=key, max_retries=0, http_client=http) as client,
    ):
        return await asyncio.gather(*[_converse(_Anthropic(client), steps) for steps in conversations])


async def python_openai(base_url: str, key: str, conversations: list[Steps]) -> list[Report]:
    async with (
        OpenAIHttp(event_hooks={"response": [_note]}) as http,
        AsyncOpenAI(base_url=f"{base_url}/v1", api_key=key, max_retries=0, http_client=http) as client,
    ):
        return await asyncio.gather(*[_converse(_OpenAI(client), steps) for steps in conversations])


class _Sdk(Protocol):
    async def ask(self, way: Way, request: Json, seen: Json) -> Any:
        """The final answer; what is seen on the way there goes to ``seen`` at once, since an error may follow."""

    def said(self, answer: Any, results: Json) -> list[Any]:
        """The answer as messages of the conversation, with the results of its tool calls."""


async def _converse(sdk: _Sdk, steps: Steps) -> Report:
    history: list[Any] = []
    answer: Any = None
    report: Report = []
    for step in steps:
        if answer is None or step["afresh"]:
            history = list(step["opening"])
        else:
            history += sdk.said(answer, step["results"])
        history += step["messages"]
        seen: Json = {"way": step["way"], "answer": None, "events": [], "pieces": [], "error": None, "headers": {}}
        report.append(seen)
        _seen.set(seen)
        try:
            answer = await sdk.ask(step["way"], step["request"] | {"messages": history}, seen)
        except Exception as error:
            seen["error"] = _described(error)
            break
        seen["answer"] = answer and answer.to_dict()
    return report


def _described(error: Exception) -> Json:
    kinds = [kind.__name__ for kind in type(error).__mro__]
    return {"kinds": kinds, "message": str(error), "status": getattr(error, "status_code", None)}


async def _note(response: Any) -> None:
    """From the wire, since the SDKs' stream helpers do not all show the headers."""
    _seen.get().update(sent=json.loads(response.request.content), headers=dict(response.headers))


class _Anthropic:
    def __init__(self, client: AsyncAnthropic) -> None:
        self._client = client

    async def ask(self, way: Way, request: Json, seen: Json) -> Any:
        messages = self._client.messages
        if way == "whole":
            return await messages.create(**request)
        if way == "events":
            async for event in await messages.create(stream=True, **request):
                seen["events"].append(event.to_dict())
            return None
        async with messages.stream(**request) as stream:
            async for piece in stream.text_stream:
                seen["pieces"].append(piece)
            return await stream.get_final_message()

    def said(self, answer: Any, results: Json) -> list[Any]:
        calls = [block for block in answer.content if block.type == "tool_use"]
        handed_in = [results[call.name] | {"tool_use_id": call.id} for call in calls]
        spoken = [{"role": "assistant", "content": answer.content}]
        return spoken + ([{"role": "user", "content": handed_in}] if handed_in else [])


class _OpenAI:
    def __init__(self, client: AsyncOpenAI) -> None:
        self._client = client

    async def ask(self, way: Way, request: Json, seen: Json) -> Any:
        extra = {name: request.pop(name) for name in _EXTRA if name in request}
        completions = self._client.chat.completions
        if way == "whole":
            return await completions.create(extra_body=extra, **request)
        if way == "events":
            async for chunk in await completions.create(stream=True, extra_body=extra, **request):
                seen["events"].append(chunk.to_dict())
            return None
        async with completions.stream(extra_body=extra, **request) as stream:
            try:
                async for event in stream:
                    if event.type == "content.delta":
                        seen["pieces"].append(event.delta)
                return await stream.get_final_completion()
            except LengthFinishReasonError as cut:  # how this helper says that the limit was reached
                return cut.completion

    def said(self, answer: Any, results: Json) -> list[Any]:
        message = answer.choices[0].message
        calls = message.tool_calls or []
        return [message, *[results[call.function.name] | {"tool_call_id": call.id} for call in calls]]
