"""Writes answers in OpenAI's form: the completion, its stream of chunks, usage, headers.

Pure; ``DIALECT`` is its row for the rest of the sandbox.  Requests are read in ``openai_request.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import orjson

from relay.core.minimums import minimum_tokens
from relay.sandbox import openai_request
from relay.sandbox.cache import Plan, PrefixCache, by_breakpoints, by_steps
from relay.sandbox.dialect import Ask, Body, Dialect, Event, Reply, ToolCall
from relay.sandbox.prompt import block_prefixes, step_prefixes
from relay.sandbox.refusal import openai_body

DONE: Final = b"data: [DONE]\n\n"

# "5 to 10 minutes of inactivity" by the provider's guide, a day where the request asks for it.
_STEPS_TTL_S: Final = 600
_STEPS_TTL_LONG_S: Final = 86_400
_FINISH_REASONS: Final = {"end": "stop", "length": "length", "tool": "tool_calls", "sequence": "stop"}
_LIMITS: Final = {"requests": 10_000, "tokens": 30_000_000}


def plan(cache: PrefixCache, ask: Ask, scope: bytes, now: float) -> Plan:
    if not openai_request.caches_by_breakpoint(ask.model, ask.body):
        long = ask.body.get("prompt_cache_retention") == "24h"
        steps = step_prefixes(scope, ask.blocks)
        return by_steps(cache, ask.blocks, steps, ttl_s=_STEPS_TTL_LONG_S if long else _STEPS_TTL_S, now=now)
    prefixes = block_prefixes(scope, ask.blocks)
    minimum = minimum_tokens(ask.model)
    return by_breakpoints(cache, ask.blocks, prefixes, minimum=minimum, lookback=None, now=now)


def whole(reply: Reply) -> Body:
    """The answer to a request without ``stream``."""
    text, calls = "".join(reply.answer.text), reply.answer.calls
    message: Body = {"role": "assistant", "content": None if calls and not text else text, "refusal": None}
    if calls:
        message["tool_calls"] = [_call(reply, at, call) for at, call in enumerate(calls)]
    choices = [
        {"index": index, "message": message, "logprobs": None, "finish_reason": _FINISH_REASONS[reply.answer.stop]}
        for index in range(_choices(reply))
    ]
    return {**_head(reply), "object": "chat.completion", "choices": choices, "usage": _usage(reply)}


def events(reply: Reply) -> list[Event]:
    """The whole stream, one event each; several choices take turns."""
    options = reply.ask.body.get("stream_options") or {}
    shows_usage = options.get("include_usage") is True
    head = {**_head(reply), "object": "chat.completion.chunk"} | ({"usage": None} if shows_usage else {})
    stream = []
    for delta, tokens, finish_reason in _deltas(reply):
        for index in range(_choices(reply)):
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
            stream.append(Event(event({**head, "choices": [choice]}), tokens))
    if shows_usage:
        stream.append(Event(event({**head, "choices": [], "usage": _usage(reply)})))
    stream.append(Event(DONE))
    return stream


def event(payload: Body) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(payload)


def headers(request_id: str, accepted: Plan | None, now_s: float) -> dict[str, str]:
    """Plausible, not enforced: the sandbox limits nobody unless told to by a fault."""
    fields = {"x-request-id": request_id, "openai-processing-ms": "1", "openai-version": "2020-10-01"}
    if accepted is not None:
        # Unlike Anthropic's, cached tokens count against the limit here.
        for name, used in (("requests", 1), ("tokens", accepted.prompt_tokens)):
            fields[f"x-ratelimit-limit-{name}"] = str(_LIMITS[name])
            fields[f"x-ratelimit-remaining-{name}"] = str(max(0, _LIMITS[name] - used))
            fields[f"x-ratelimit-reset-{name}"] = "6ms"
    return fields


DIALECT: Final = Dialect(
    name="openai",
    read=openai_request.read,
    plan=plan,
    events=events,
    whole=whole,
    error=lambda refusal, request_id: openai_body(refusal),
    event=event,
    headers=headers,
)


def _head(reply: Reply) -> Body:
    return {
        "id": f"chatcmpl-{reply.id}",
        "created": reply.created,
        "model": reply.ask.model,
        "service_tier": "default",
        "system_fingerprint": "fp_sandbox",
    }


def _choices(reply: Reply) -> int:
    return reply.ask.body.get("n") or 1


def _deltas(reply: Reply) -> Iterator[tuple[Body, int, str | None]]:
    """The deltas of one choice, with the output tokens each carries and the finish reason."""
    answer = reply.answer
    # Reasoning is billed and never shown: its tokens ride on the first event that shows anything.
    hidden = len(answer.thinking)
    yield {"role": "assistant", "content": None if answer.calls and not answer.text else "", "refusal": None}, 0, None
    for piece in answer.text:
        yield {"content": piece}, 1 + hidden, None
        hidden = 0
    for at, call in enumerate(answer.calls):
        opening = _call(reply, at, ToolCall(call.name, ()))
        opening["function"]["arguments"] = ""
        yield {"tool_calls": [{"index": at, **opening}]}, 1 + hidden, None
        hidden = 0
        for piece in call.pieces or ("{}",):
            yield {"tool_calls": [{"index": at, "function": {"arguments": piece}}]}, 1 if call.pieces else 0, None
    yield {}, hidden, _FINISH_REASONS[answer.stop]


def _call(reply: Reply, at: int, call: ToolCall) -> Body:
    function: dict[str, Any] = {"name": call.name, "arguments": "".join(call.pieces) or "{}"}
    return {"id": f"call_{reply.id}_{at}", "type": "function", "function": function}


def _usage(reply: Reply) -> Body:
    details = {"cached_tokens": reply.plan.read_tokens, "audio_tokens": 0}
    if openai_request.caches_by_breakpoint(reply.ask.model, reply.ask.body):
        details["cache_write_tokens"] = reply.plan.written_tokens
    output = reply.answer.output_tokens * _choices(reply)
    return {
        "prompt_tokens": reply.plan.prompt_tokens,
        "completion_tokens": output,
        "total_tokens": reply.plan.prompt_tokens + output,
        "prompt_tokens_details": details,
        "completion_tokens_details": {
            "reasoning_tokens": len(reply.answer.thinking) * _choices(reply),
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
