"""What the sandbox answers: always the same words to the same question.

Pure.  Text that shows what was asked, tool calls when they are forced or ordered, thinking when it is switched on,
JSON when a schema asks for it; all of it cut at the request's own limit.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from typing import Final

from relay.sandbox.dialect import Answer, Ask, ToolCall
from relay.sandbox.example import example
from relay.sandbox.order import Order
from relay.sandbox.prompt import as_json
from relay.sandbox.refusal import Refusal

_FILLER: Final = "No model was called: this text comes from the local stand-in, costs nothing and is always the same. "
_SAID_MAX: Final = 80  # characters of the question that are echoed
_JSON_PIECE: Final = 8  # characters; small, so that arguments arrive in several pieces


def compose(ask: Ask, order: Order) -> Answer:
    said = _shorten(ask.said)
    if ask.one_call:
        order = replace(order, tool=order.tool[:1])
    names = order.tool or ask.must_call
    for name in names:
        if name not in ask.tools:
            raise Refusal(400, f"sandbox: cannot call {name!r}: not among the tools of the request")
    calls = tuple(_call(name, ask, said) for name in names)
    text = "" if ask.must_call else _text(ask, order, said)
    stop_sequence = next(iter(sorted((s for s in ask.stop_at if s and s in text), key=text.index)), None)
    if stop_sequence is not None:
        text, calls = text[: text.index(stop_sequence)], ()
    answer = Answer(
        thinking=_words(f"I was asked: {_sentence(said)} A stand-in need not think.") if ask.thinks else (),
        text=_pieces(text) if ask.schema else _words(text),
        calls=calls,
        stop="sequence" if stop_sequence is not None else "tool" if calls else "end",
        stop_sequence=stop_sequence,
    )
    return answer if ask.limit is None else _limited(answer, ask.limit)


def _text(ask: Ask, order: Order, said: str) -> str:
    if order.tool:
        return f"Calling {', '.join(order.tool)}."
    if ask.schema is not None:
        return as_json(example(ask.schema, said)).decode()
    lead = f"Sandbox answer to: {_sentence(said)} "
    if order.events is None:
        return (lead + _FILLER).rstrip()
    endless = itertools.chain(_words(lead), itertools.cycle(_words(_FILLER)))
    return "".join(itertools.islice(endless, order.events))


def _shorten(text: str) -> str:
    """The beginning of a text that may be 30 MB long, on one line."""
    line = " ".join(text[: 10 * _SAID_MAX].split()) or "an empty question"
    return line if len(line) <= _SAID_MAX else line[: _SAID_MAX - 1] + "…"


def _sentence(line: str) -> str:
    return line if line[-1] in ".!?…" else line + "."


def _call(name: str, ask: Ask, said: str) -> ToolCall:
    arguments = example(ask.tools[name], said)
    is_object = isinstance(arguments, dict) and arguments
    return ToolCall(name, _pieces(as_json(arguments).decode()) if is_object else ())


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\S+\s*", text))


def _pieces(text: str) -> tuple[str, ...]:
    return tuple(text[start : start + _JSON_PIECE] for start in range(0, len(text), _JSON_PIECE))


def _limited(answer: Answer, limit: int) -> Answer:
    """The answer cut after ``limit`` tokens; the JSON of a tool call may end anywhere."""
    if answer.output_tokens <= limit:
        return answer
    thinking = answer.thinking[:limit]
    text = answer.text[: limit - len(thinking)]
    left = limit - len(thinking) - len(text)
    calls = []
    for call in answer.calls:
        if left > 0:
            calls.append(ToolCall(call.name, call.pieces[: left - 1]))
        left -= 1 + len(call.pieces)
    return Answer(thinking, text, tuple(calls), "length")
