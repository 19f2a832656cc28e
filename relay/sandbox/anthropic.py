"""Writes answers in Anthropic's form: the message, its stream of events, usage, headers.

Pure; ``DIALECT`` is its row for the rest of the sandbox.  Requests are read in ``anthropic_request.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import orjson

from relay.core.minimums import minimum_tokens
from relay.sandbox import anthropic_request
from relay.sandbox.cache import Plan, PrefixCache, by_breakpoints
from relay.sandbox.dialect import Ask, Body, Dialect, Event, Reply, ToolCall
from relay.sandbox.markers import TTL_S
from relay.sandbox.prompt import block_prefixes
from relay.sandbox.reading import as_object, joined_text, objects
from relay.sandbox.refusal import anthropic_body
from relay.sandbox.thoughts import sign

_LOOKBACK: Final = 20  # blocks looked at from each breakpoint, itself included
_CITED_MAX: Final = 60  # characters
_STOP_REASONS: Final = {"end": "end_turn", "length": "max_tokens", "tool": "tool_use", "sequence": "stop_sequence"}
_LIMITS: Final = {"requests": 4_000, "input-tokens": 2_000_000, "output-tokens": 400_000, "tokens": 2_400_000}


def plan(cache: PrefixCache, ask: Ask, scope: bytes, now: float) -> Plan:
    prefixes = block_prefixes(scope, ask.blocks)
    minimum = minimum_tokens(ask.model)
    return by_breakpoints(cache, ask.blocks, prefixes, minimum=minimum, lookback=_LOOKBACK, now=now)


def whole(reply: Reply) -> Body:
    """The answer to a request without ``stream``."""
    usage = _input_usage(reply.plan) | _output_usage(reply)
    return _message(reply) | _stop(reply) | {"content": [part.whole for part in _parts(reply)], "usage": usage}


def events(reply: Reply) -> list[Event]:
    """The whole stream, one event each."""
    # The 5m/1h split stands in message_start only; message_delta repeats the running totals without it.
    start = _message(reply) | {"usage": _input_usage(reply.plan) | {"output_tokens": 1}}
    stream = [_event("message_start", message=start)]
    for index, part in enumerate(_parts(reply)):
        stream.append(_event("content_block_start", part.tokens, index=index, content_block=part.opened))
        if index == 0:
            stream.append(_event("ping"))
        stream.extend(_event("content_block_delta", d.tokens, index=index, delta=d.delta) for d in part.deltas)
        stream.append(_event("content_block_stop", index=index))
    totals = {name: count for name, count in _input_usage(reply.plan).items() if isinstance(count, int)}
    stream.append(_event("message_delta", delta=_stop(reply), usage=totals | _output_usage(reply)))
    stream.append(_event("message_stop"))
    return stream


def event(payload: Body) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (payload["type"].encode(), orjson.dumps(payload))


def headers(request_id: str, accepted: Plan | None, now_s: float) -> dict[str, str]:
    """Plausible, not enforced: the sandbox limits nobody unless told to by a fault."""
    fields = {"request-id": request_id, "anthropic-organization-id": "00000000-0000-4000-8000-000000000000"}
    if accepted is not None:
        reset = datetime.fromtimestamp(int(now_s) + 1, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        input_tokens = accepted.prompt_tokens - accepted.read_tokens  # reads do not count against the limit
        used = {"requests": 1, "input-tokens": input_tokens, "output-tokens": 0, "tokens": input_tokens}
        for name, limit in _LIMITS.items():
            fields[f"anthropic-ratelimit-{name}-limit"] = str(limit)
            fields[f"anthropic-ratelimit-{name}-remaining"] = str(max(0, limit - used[name]))
            fields[f"anthropic-ratelimit-{name}-reset"] = reset
    return fields


DIALECT: Final = Dialect(
    name="anthropic",
    read=anthropic_request.read,
    plan=plan,
    events=events,
    whole=whole,
    error=anthropic_body,
    event=event,
    headers=headers,
)


class _Delta(NamedTuple):
    delta: Body
    tokens: int


class _Part(NamedTuple):
    """One content block: as it opens, what is added to it, and as it is when whole."""

    opened: Body
    tokens: int
    deltas: list[_Delta]
    whole: Body


def _event(kind: str, tokens: int = 0, **members: Any) -> Event:
    return Event(event({"type": kind, **members}), tokens)


def _message(reply: Reply) -> Body:
    return {
        "id": f"msg_{reply.id}",
        "type": "message",
        "role": "assistant",
        "model": reply.ask.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
    }


def _stop(reply: Reply) -> Body:
    answer = reply.answer
    return {
        "stop_reason": _STOP_REASONS[answer.stop],
        "stop_sequence": answer.stop_sequence,
        "stop_details": None,
    }


def _input_usage(plan: Plan) -> Body:
    return {
        "input_tokens": plan.uncached_tokens,
        "cache_creation_input_tokens": plan.written_tokens,
        "cache_read_input_tokens": plan.read_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": plan.written_by_ttl.get(TTL_S["5m"], 0),
            "ephemeral_1h_input_tokens": plan.written_by_ttl.get(TTL_S["1h"], 0),
        },
        "service_tier": "standard",
    }


def _output_usage(reply: Reply) -> Body:
    return {
        "output_tokens": reply.answer.output_tokens,
        "output_tokens_details": {"thinking_tokens": len(reply.answer.thinking)},
    }


def _parts(reply: Reply) -> Iterator[_Part]:
    if reply.answer.thinking:
        yield _thinking_part(reply)
    if reply.answer.text:
        yield _text_part(reply)
    for index, call in enumerate(reply.answer.calls):
        yield _tool_part(f"toolu_{reply.id}_{index}", call)


def _thinking_part(reply: Reply) -> _Part:
    pieces = reply.answer.thinking
    text = "".join(pieces)
    signature = sign(text)
    deltas = [_Delta({"type": "thinking_delta", "thinking": piece}, 1) for piece in pieces]
    if (reply.ask.body.get("thinking") or {}).get("display") == "omitted":
        text = ""
        deltas = [_Delta({"type": "thinking_delta", "thinking": ""}, len(pieces))]
    deltas.append(_Delta({"type": "signature_delta", "signature": signature}, 0))
    opened = {"type": "thinking", "thinking": "", "signature": ""}
    return _Part(opened, 0, deltas, {"type": "thinking", "thinking": text, "signature": signature})


def _text_part(reply: Reply) -> _Part:
    pieces = reply.answer.text
    opened: Body = {"type": "text", "text": ""}
    block: Body = {"type": "text", "text": "".join(pieces)}
    deltas = [_Delta({"type": "text_delta", "text": piece}, 1) for piece in pieces]
    if citation := _citation(reply.ask.body):
        opened["citations"] = []
        block["citations"] = [citation]
        deltas.insert(-1, _Delta({"type": "citations_delta", "citation": citation}, 0))
    return _Part(opened, 0, deltas, block)


def _tool_part(call_id: str, call: ToolCall) -> _Part:
    opened = {"type": "tool_use", "id": call_id, "name": call.name, "input": {}}
    deltas = [_Delta({"type": "input_json_delta", "partial_json": piece}, 1) for piece in call.pieces]
    if deltas:  # a call without arguments sends none at all, one with arguments starts with an empty piece
        deltas.insert(0, _Delta({"type": "input_json_delta", "partial_json": ""}, 0))
    return _Part(opened, 1, deltas, opened | {"input": _input(call)})


def _input(call: ToolCall) -> Any:
    try:
        return orjson.loads("".join(call.pieces) or "{}")
    except orjson.JSONDecodeError:  # cut by max_tokens; a whole message cannot hold half an object
        return {}


def _citation(body: Body) -> Body | None:
    """A citation of the first document that asks for citations."""
    index = -1
    for message in body["messages"]:
        content = message.get("content")
        for block in objects(content, "content") if isinstance(content, list) else ():
            if block["type"] == "document":
                index += 1
                if as_object(block.get("citations"), "citations").get("enabled") is True:
                    return _cite(block, index)
    return None


def _cite(document: Body, index: int) -> Body:
    source = as_object(document.get("source"), "source")
    common = {"document_index": index, "document_title": document.get("title"), "file_id": None}
    if source.get("type") == "text":
        cited = str(source.get("data"))[:_CITED_MAX]
        place = {"type": "char_location", "start_char_index": 0, "end_char_index": len(cited)}
    elif source.get("type") == "content":
        content = source.get("content")
        cited = (content if isinstance(content, str) else joined_text(objects(content, "content")))[:_CITED_MAX]
        place = {"type": "content_block_location", "start_block_index": 0, "end_block_index": 1}
    else:
        cited = "First page"
        place = {"type": "page_location", "start_page_number": 1, "end_page_number": 2}
    return {**place, **common, "cited_text": cited}
