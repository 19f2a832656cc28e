"""The OpenAI surface as its official SDK sees it: chunks, tools, usage, both ways of caching, errors by class."""

import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionChunk

OLD, NEW = "gpt-4o", "gpt-6.1-sol"
QUESTION: list[Any] = [{"role": "user", "content": "What is a relay?"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
WEATHER: Any = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}
NOW: Any = {"type": "function", "function": {"name": "now"}}
LONG = "A long and stable reference text. " * 200  # 1,700 tokens by the sandbox's rule
SYSTEM: dict[str, Any] = {"role": "system", "content": LONG}


async def chunks(gpt: AsyncOpenAI, **members: Any) -> list[ChatCompletionChunk]:
    request = {"model": NEW, "messages": QUESTION, "stream": True} | members
    return [chunk async for chunk in await gpt.chat.completions.create(**request)]


async def cached(gpt: AsyncOpenAI, *messages: Any, model: str = NEW, **members: Any) -> tuple[int, int]:
    """Tokens read and written, as the answer's usage says."""
    answer = await gpt.chat.completions.create(model=model, messages=messages, **members)
    assert answer.usage is not None
    details = answer.usage.prompt_tokens_details
    assert details is not None
    return details.cached_tokens or 0, details.cache_write_tokens or 0


async def test_an_answer_in_one_piece(gpt: AsyncOpenAI) -> None:
    answer = await gpt.chat.completions.create(model=NEW, messages=QUESTION)
    content = answer.choices[0].message.content
    assert content is not None
    assert content.startswith("Sandbox answer to: What is a relay?")
    assert (answer.choices[0].finish_reason, answer.model) == ("stop", NEW)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(content.split())
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


async def test_a_stream_says_the_same_as_the_answer_in_one_piece(gpt: AsyncOpenAI) -> None:
    whole = await gpt.chat.completions.create(model=NEW, messages=QUESTION)
    streamed = await chunks(gpt)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in streamed] == [None] * (len(streamed) - 1) + ["stop"]
    assert streamed[0].choices[0].delta.role == "assistant"
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in streamed}) == 1


async def test_usage_comes_last_and_only_if_asked_for(gpt: AsyncOpenAI) -> None:
    assert all("usage" not in chunk.to_dict() for chunk in await chunks(gpt))
    *others, last = await chunks(gpt, stream_options={"include_usage": True})
    assert all(chunk.to_dict()["usage"] is None for chunk in others)
    assert last.choices == []
    whole = await gpt.chat.completions.create(model=NEW, messages=QUESTION)
    assert last.usage == whole.usage


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
async def test_the_limit_is_a_finish_reason(gpt: AsyncOpenAI, limit: str) -> None:
    request: dict[str, Any] = {"model": NEW, "messages": QUESTION, limit: 3}
    answer = await gpt.chat.completions.create(**request)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


async def test_a_required_tool_is_called(gpt: AsyncOpenAI) -> None:
    answer = await gpt.chat.completions.create(model=NEW, messages=QUESTION, tools=[WEATHER], tool_choice="required")
    choice = answer.choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert choice.message.tool_calls is not None
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {"city": "What is a relay?", "days": 1}


async def test_parallel_calls_are_put_together_by_the_sdk(gpt: AsyncOpenAI) -> None:
    chat: list[Any] = [{"role": "user", "content": "Weather? SANDBOX(tool=get_weather+now)"}]
    async with gpt.chat.completions.stream(model=NEW, messages=chat, tools=[WEATHER, NOW]) as stream:
        message = (await stream.get_final_completion()).choices[0].message
    assert message.content == "Calling get_weather, now."
    assert message.tool_calls is not None
    first, second = message.tool_calls
    assert (first.function.name, second.function.name) == ("get_weather", "now")
    assert json.loads(first.function.arguments) == {"city": "Weather?", "days": 1}
    assert second.function.arguments == "{}"
    assert first.id != second.id


async def test_arguments_arrive_in_pieces_named_only_once(gpt: AsyncOpenAI) -> None:
    calls = [
        call
        for chunk in await chunks(gpt, tools=[WEATHER], tool_choice="required")
        for call in chunk.choices[0].delta.tool_calls or ()
    ]
    assert len(calls) > 3
    assert [call.id is not None for call in calls] == [True] + [False] * (len(calls) - 1)


async def test_several_choices_take_turns_and_are_all_billed(gpt: AsyncOpenAI) -> None:
    streamed = await chunks(gpt, n=2, stream_options={"include_usage": True})
    texts = ["", ""]
    for chunk in streamed:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts[0] == texts[1] != ""
    assert streamed[-1].usage is not None
    assert streamed[-1].usage.completion_tokens == 2 * len(texts[0].split())


async def test_reasoning_is_billed_and_not_shown(gpt: AsyncOpenAI) -> None:
    answer = await gpt.chat.completions.create(model=NEW, messages=QUESTION, reasoning_effort="low")
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    hidden = answer.usage.completion_tokens_details.reasoning_tokens or 0
    assert hidden > 5
    assert answer.usage.completion_tokens == hidden + len((answer.choices[0].message.content or "").split())


async def test_a_schema_is_answered_with_json(gpt: AsyncOpenAI) -> None:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "w", "schema": PARAMETERS}}
    answer = await gpt.chat.completions.create(model=NEW, messages=QUESTION, response_format=wanted)
    assert json.loads(answer.choices[0].message.content or "") == {"city": "What is a relay?", "days": 1}


async def test_an_older_model_caches_in_steps_and_reports_no_writes(gpt: AsyncOpenAI) -> None:
    answer = await gpt.chat.completions.create(model=OLD, messages=[SYSTEM, *QUESTION])
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 1704
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.to_dict() == {"cached_tokens": 0, "audio_tokens": 0}
    assert await cached(gpt, SYSTEM, {"role": "user", "content": "Something else."}, model=OLD) == (1664, 0)


async def test_a_newer_model_writes_to_its_implicit_breakpoint_and_reads_from_there(gpt: AsyncOpenAI) -> None:
    assert await cached(gpt, SYSTEM, *QUESTION) == (0, 1704)
    assert await cached(gpt, SYSTEM, *QUESTION) == (1704, 0)
    answer, more = {"role": "assistant", "content": "A race."}, {"role": "user", "content": "More!"}
    assert await cached(gpt, SYSTEM, *QUESTION, answer, more) == (1704, 4)


async def test_an_explicit_breakpoint_saves_the_prefix_before_a_changing_question(gpt: AsyncOpenAI) -> None:
    part = {"type": "text", "text": LONG, "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "12h"}}
    marked = {"role": "system", "content": [part]}
    other = {"role": "user", "content": "Something else."}
    assert await cached(gpt, marked, *QUESTION) == (0, 1704)
    assert await cached(gpt, marked, other) == (1700, 4)
    explicit: Any = {"mode": "explicit"}
    assert await cached(gpt, marked, *QUESTION, prompt_cache_options=explicit) == (1700, 0)


async def test_without_the_explicit_breakpoint_a_changed_question_writes_all_again(gpt: AsyncOpenAI) -> None:
    assert await cached(gpt, SYSTEM, *QUESTION) == (0, 1704)
    assert await cached(gpt, SYSTEM, {"role": "user", "content": "Something else."}) == (0, 1704)


async def test_a_short_prompt_is_not_cached(gpt: AsyncOpenAI) -> None:
    for model in (OLD, NEW):
        for _ in range(2):
            assert await cached(gpt, *QUESTION, model=model) == (0, 0)


async def test_models_are_listed_in_this_surfaces_form(gpt: AsyncOpenAI) -> None:
    ids = [model.id async for model in gpt.models.list()]
    assert {OLD, "claude-sonnet-4-6"} <= set(ids)
    assert (await gpt.models.retrieve(OLD)).owned_by == "openai"


async def test_the_headers_are_the_providers(gpt: AsyncOpenAI) -> None:
    raw = await gpt.chat.completions.with_raw_response.create(model=NEW, messages=QUESTION)
    assert raw.headers["x-request-id"].startswith("req_")
    for name in ("requests", "tokens"):
        assert int(raw.headers[f"x-ratelimit-remaining-{name}"]) < int(raw.headers[f"x-ratelimit-limit-{name}"])


@pytest.mark.parametrize(
    ("fault", "error", "code"),
    [
        ("400", openai.BadRequestError, None),
        ("401", openai.AuthenticationError, "invalid_api_key"),
        ("403", openai.PermissionDeniedError, None),
        ("404", openai.NotFoundError, "model_not_found"),
        ("413", openai.APIStatusError, "request_too_large"),
        ("429", openai.RateLimitError, "rate_limit_exceeded"),
        ("quota", openai.RateLimitError, "insufficient_quota"),
        ("500", openai.InternalServerError, None),
        ("502", openai.InternalServerError, None),
        ("503", openai.InternalServerError, None),
        ("529", openai.InternalServerError, None),
    ],
)
async def test_error_answers_become_the_sdks_own_classes(
    gpt: AsyncOpenAI, fault: str, error: type[openai.APIStatusError], code: str | None
) -> None:
    with pytest.raises(error) as raised:
        await gpt.chat.completions.create(model=f"{NEW}@fault={fault}", messages=QUESTION)
    assert raised.value.code == code
    assert fault == "502" or raised.value.request_id


async def test_an_error_in_an_open_stream_is_raised(gpt: AsyncOpenAI) -> None:
    with pytest.raises(openai.APIError, match="Overloaded"):
        await chunks(gpt, model=f"{NEW}@fault=error")


async def test_a_marker_of_the_other_dialect_is_an_unknown_parameter(gpt: AsyncOpenAI) -> None:
    part: Any = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
    with pytest.raises(openai.BadRequestError) as raised:
        await gpt.chat.completions.create(model=NEW, messages=[{"role": "user", "content": [part]}])
    assert raised.value.param == "messages[0].content[0].cache_control"
