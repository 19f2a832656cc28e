"""The Anthropic surface as its official SDK sees it: every kind of event, the prefix cache, errors by class."""

import json
from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic

MODEL = "claude-sonnet-4-6"
QUESTION: list[Any] = [{"role": "user", "content": "What is a relay?"}]
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
}
LONG = "A long and stable reference text. " * 200  # 1,700 tokens by the sandbox's rule


def system(**marker: Any) -> list[Any]:
    return [{"type": "text", "text": LONG, "cache_control": {"type": "ephemeral", **marker}}]


async def kinds(claude: AsyncAnthropic, **members: Any) -> tuple[list[str], anthropic.types.Message]:
    """The event types of a stream, repeats left out, and the message the SDK makes of it."""
    request = {"model": MODEL, "max_tokens": 4000, "messages": QUESTION} | members
    async with await claude.messages.create(**request, stream=True) as stream:
        seen = [event.type if event.type != "content_block_delta" else event.delta.type async for event in stream]
    async with claude.messages.stream(**request) as helper:
        message = await helper.get_final_message()
    return [kind for at, kind in enumerate(seen) if kind != seen[at - 1]], message


async def test_an_answer_in_one_piece(claude: AsyncAnthropic) -> None:
    message = await claude.messages.create(model=MODEL, max_tokens=100, messages=QUESTION)
    assert message.content[0].type == "text"
    assert message.content[0].text.startswith("Sandbox answer to: What is a relay?")
    assert (message.model, message.role, message.stop_reason) == (MODEL, "assistant", "end_turn")
    assert message.usage.output_tokens == len(message.content[0].text.split())


async def test_a_stream_says_the_same_as_the_answer_in_one_piece(claude: AsyncAnthropic) -> None:
    seen, streamed = await kinds(claude)
    whole = await claude.messages.create(model=MODEL, max_tokens=4000, messages=QUESTION)
    assert streamed.to_dict(exclude_unset=False) | {"id": ""} == whole.to_dict(exclude_unset=False) | {"id": ""}
    block = ["content_block_start", "text_delta", "content_block_stop"]
    assert seen == ["message_start", *block, "message_delta", "message_stop"]


async def test_the_limit_is_a_stop_reason(claude: AsyncAnthropic) -> None:
    message = await claude.messages.create(model=MODEL, max_tokens=3, messages=QUESTION)
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 3)


async def test_a_stop_sequence_is_named(claude: AsyncAnthropic) -> None:
    message = await claude.messages.create(model=MODEL, max_tokens=99, messages=QUESTION, stop_sequences=["relay"])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "relay")


async def test_a_forced_tool_is_called_in_pieces(claude: AsyncAnthropic) -> None:
    seen, message = await kinds(claude, tools=[WEATHER], tool_choice={"type": "tool", "name": "get_weather"})
    assert "input_json_delta" in seen
    assert "text_delta" not in seen
    assert message.stop_reason == "tool_use"
    assert message.content[0].to_dict() == {
        "type": "tool_use",
        "id": message.content[0].id,
        "name": "get_weather",
        "input": {"city": "What is a relay?", "days": 1},
    }


async def test_an_ordered_tool_is_called_after_some_text_and_parallel_calls_stand_side_by_side(
    claude: AsyncAnthropic,
) -> None:
    now: dict[str, Any] = {"name": "now", "input_schema": {"type": "object", "properties": {}}}
    chat: list[Any] = [{"role": "user", "content": "Weather? SANDBOX(tool=get_weather+now)"}]
    _, message = await kinds(claude, tools=[WEATHER, now], messages=chat)
    assert [block.type for block in message.content] == ["text", "tool_use", "tool_use"]
    assert message.content[2].input == {}
    assert len({block.id for block in message.content[1:]}) == 2


async def test_a_tool_loop_of_the_sdk_ends(claude: AsyncAnthropic) -> None:
    @anthropic.beta_async_tool
    async def get_weather(city: str) -> str:
        """The weather."""
        return f"sunny in {city}"

    chat: list[Any] = [{"role": "user", "content": "Oslo SANDBOX(tool=get_weather)"}]
    runner = claude.beta.messages.tool_runner(model=MODEL, max_tokens=99, tools=[get_weather], messages=chat)
    last = await runner.until_done()
    assert last.content[0].text.startswith("Sandbox answer to: sunny in Oslo.")


async def test_thinking_comes_first_with_a_signature(claude: AsyncAnthropic) -> None:
    seen, message = await kinds(claude, thinking={"type": "enabled", "budget_tokens": 1024})
    assert seen[2:5] == ["thinking_delta", "signature_delta", "content_block_stop"]
    assert message.content[0].type == "thinking"
    assert message.content[0].signature
    details = message.usage.output_tokens_details
    assert details is not None
    assert details.thinking_tokens == len(message.content[0].thinking.split())


async def test_omitted_thinking_is_signed_and_billed_all_the_same(claude: AsyncAnthropic) -> None:
    _, message = await kinds(claude, thinking={"type": "adaptive", "display": "omitted"})
    assert message.content[0].thinking == ""
    assert message.content[0].signature
    assert message.usage.output_tokens_details.thinking_tokens > 5


@pytest.mark.parametrize(
    ("source", "location"),
    [
        ({"type": "text", "media_type": "text/plain", "data": "The lease runs five years."}, "char_location"),
        ({"type": "content", "content": [{"type": "text", "text": "Five years."}]}, "content_block_location"),
        ({"type": "url", "url": "https://a.example/lease.pdf"}, "page_location"),
    ],
)
async def test_a_document_with_citations_is_cited(claude: AsyncAnthropic, source: Any, location: str) -> None:
    plain = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Not this."}}
    document = {"type": "document", "title": "Lease", "citations": {"enabled": True}, "source": source}
    content = [plain, document, {"type": "text", "text": "How long?"}]
    seen, message = await kinds(claude, messages=[{"role": "user", "content": content}])
    assert seen.count("citations_delta") == 1
    citation = message.content[0].citations[0]
    assert (citation.type, citation.document_index, citation.document_title) == (location, 1, "Lease")


async def test_a_schema_is_answered_with_json(claude: AsyncAnthropic) -> None:
    config: Any = {"format": {"type": "json_schema", "schema": WEATHER["input_schema"]}}
    message = await claude.messages.create(model=MODEL, max_tokens=99, messages=QUESTION, output_config=config)
    assert json.loads(message.content[0].text) == {"city": "What is a relay?", "days": 1}


async def test_counting_says_what_the_request_would_be_billed(claude: AsyncAnthropic) -> None:
    prompt: dict[str, Any] = {"model": MODEL, "messages": QUESTION, "system": LONG, "tools": [WEATHER]}
    counted = await claude.messages.count_tokens(**prompt)
    message = await claude.messages.create(**prompt, max_tokens=9)
    assert counted.input_tokens == message.usage.input_tokens > 1700


async def test_the_second_identical_request_reads_what_the_first_wrote(claude: AsyncAnthropic) -> None:
    request: dict[str, Any] = {"model": MODEL, "max_tokens": 9, "system": system(), "messages": QUESTION}
    first = (await claude.messages.create(**request)).usage
    second = (await claude.messages.create(**request)).usage
    assert (first.input_tokens, first.cache_creation_input_tokens, first.cache_read_input_tokens) == (4, 1700, 0)
    assert (second.input_tokens, second.cache_creation_input_tokens, second.cache_read_input_tokens) == (4, 0, 1700)


async def test_a_stream_reports_the_split_first_and_running_totals_last(claude: AsyncAnthropic) -> None:
    chat: list[Any] = [{"role": "user", "content": [{**system()[0], "text": f"{LONG}Go."}]}]
    request: dict[str, Any] = {"model": MODEL, "max_tokens": 9, "system": system(ttl="1h"), "messages": chat}
    async with await claude.messages.create(**request, stream=True) as stream:
        events = [event async for event in stream]
    start = next(event.message.usage for event in events if event.type == "message_start")
    delta = next(event.usage for event in events if event.type == "message_delta")
    assert start.cache_creation.to_dict() == {"ephemeral_1h_input_tokens": 1700, "ephemeral_5m_input_tokens": 1701}
    assert (start.output_tokens, delta.output_tokens) == (1, 9)
    assert delta.cache_creation_input_tokens == start.cache_creation_input_tokens == 3401
    assert not hasattr(delta, "cache_creation")


async def test_automatic_caching_carries_a_conversation_forward(claude: AsyncAnthropic) -> None:
    chat: list[Any] = [{"role": "user", "content": LONG}]
    read = []
    for turn in range(3):
        message = await claude.messages.create(
            model=MODEL, max_tokens=9, messages=chat, cache_control={"type": "ephemeral"}
        )
        read.append(message.usage.cache_read_input_tokens)
        chat += [{"role": "assistant", "content": message.content}, {"role": "user", "content": f"Turn {turn}"}]
    assert read[0] == 0
    assert 1700 == read[1] < read[2]


async def test_a_prompt_below_the_models_minimum_is_not_cached(claude: AsyncAnthropic) -> None:
    for model, cached in (("claude-sonnet-4-6", 1700), ("claude-opus-4-7", 0)):
        message = await claude.messages.create(model=model, max_tokens=9, system=system(), messages=QUESTION)
        assert message.usage.cache_creation_input_tokens == cached


async def test_another_key_and_another_model_have_caches_of_their_own(claude: AsyncAnthropic, key: str) -> None:
    request: dict[str, Any] = {"max_tokens": 9, "system": system(), "messages": QUESTION}
    await claude.messages.create(**request, model=MODEL)
    other_model = await claude.messages.create(**request, model="claude-sonnet-5")
    other_key = await claude.with_options(api_key=f"not-{key}").messages.create(**request, model=MODEL)
    assert other_model.usage.cache_read_input_tokens == other_key.usage.cache_read_input_tokens == 0


async def test_a_warm_up_writes_and_says_nothing(claude: AsyncAnthropic) -> None:
    request: dict[str, Any] = {"model": MODEL, "system": system(), "messages": QUESTION}
    warm = await claude.messages.create(**request, max_tokens=0)
    assert (warm.content, warm.stop_reason, warm.usage.output_tokens) == ([], "max_tokens", 0)
    assert (await claude.messages.create(**request, max_tokens=9)).usage.cache_read_input_tokens == 1700


async def test_models_are_listed_in_pages_and_one_by_one(claude: AsyncAnthropic) -> None:
    ids = [model.id async for model in claude.models.list(limit=2)]
    assert MODEL in ids
    assert len(ids) == len(set(ids)) > 4
    assert (await claude.models.retrieve(MODEL)).display_name == "Claude Sonnet 4.6"


async def test_the_headers_are_the_providers(claude: AsyncAnthropic) -> None:
    raw = await claude.messages.with_raw_response.create(model=MODEL, max_tokens=9, messages=QUESTION)
    assert raw.request_id.startswith("req_")
    for family in ("requests", "tokens", "input-tokens", "output-tokens"):
        limit, left = (int(raw.headers[f"anthropic-ratelimit-{family}-{end}"]) for end in ("limit", "remaining"))
        assert 0 < left <= limit
        assert raw.headers[f"anthropic-ratelimit-{family}-reset"].endswith("Z")


@pytest.mark.parametrize(
    ("fault", "error", "kind"),
    [
        ("400", anthropic.BadRequestError, "invalid_request_error"),
        ("401", anthropic.AuthenticationError, "authentication_error"),
        ("403", anthropic.PermissionDeniedError, "permission_error"),
        ("404", anthropic.NotFoundError, "not_found_error"),
        ("413", anthropic.ContentTooLargeError, "request_too_large"),
        ("429", anthropic.RateLimitError, "rate_limit_error"),
        ("quota", anthropic.RateLimitError, "rate_limit_error"),
        ("500", anthropic.InternalServerError, "api_error"),
        ("502", anthropic.InternalServerError, None),
        ("503", anthropic.InternalServerError, "api_error"),
        ("504", anthropic.GatewayTimeoutError, "timeout_error"),
        ("529", anthropic.OverloadedError, "overloaded_error"),
    ],
)
async def test_error_answers_become_the_sdks_own_classes(
    claude: AsyncAnthropic, fault: str, error: type[anthropic.APIStatusError], kind: str | None
) -> None:
    with pytest.raises(error) as raised:
        await claude.messages.create(
            model=MODEL, max_tokens=9, messages=QUESTION, extra_headers={"x-sandbox": f"fault={fault}"}
        )
    assert raised.value.type == kind
    if kind:
        assert raised.value.request_id == raised.value.response.json()["request_id"]


async def test_an_error_in_an_open_stream_has_its_real_type(claude: AsyncAnthropic) -> None:
    stream = await claude.messages.create(model=f"{MODEL}@fault=error", max_tokens=99, messages=QUESTION, stream=True)
    with pytest.raises(anthropic.APIStatusError) as raised:
        async for _ in stream:
            pass
    assert (raised.value.status_code, raised.value.type) == (200, "overloaded_error")


async def test_the_sdk_waits_out_an_overload_that_passes(claude: AsyncAnthropic) -> None:
    order = "SANDBOX(fault=529,times=2,retry_after=0)"
    chat: list[Any] = [{"role": "user", "content": f"Patience {order}"}]
    message = await claude.with_options(max_retries=2).messages.create(model=MODEL, max_tokens=99, messages=chat)
    assert message.content[0].text.startswith("Sandbox answer to: Patience.")
