"""What travels between the two dialects and the rest of the sandbox: a request as read, an answer's events.

``Ask`` is a request with the wire form taken off, ``Event`` one piece of a stream with the form put on.  A
``Dialect`` is a row of functions; ``anthropic.py`` and ``openai.py`` each fill one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from relay.sandbox.cache import Plan, PrefixCache
from relay.sandbox.prompt import Block
from relay.sandbox.refusal import Refusal

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, read and found valid.  ``body`` stays for members that only its own dialect cares for."""

    body: Body
    model: str
    stream: bool
    blocks: tuple[Block, ...]
    said: str  # the last text that is not the assistant's, markers taken out
    orders: str  # what its markers and the model name order
    limit: int | None = None  # output tokens
    thinks: bool = False
    tools: Mapping[str, Any] = field(default_factory=dict)  # client tools: name -> schema of the arguments
    must_call: tuple[str, ...] = ()
    one_call: bool = False  # at most, however many are ordered
    schema: Mapping[str, Any] | None = None  # the answer must be JSON like this
    stop_at: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCall:
    name: str
    pieces: tuple[str, ...]  # of the JSON arguments; none at all for a call without arguments


@dataclass(frozen=True, slots=True)
class Answer:
    """What the sandbox says, in pieces.  One piece is one output token, and so is the opening of a tool call."""

    thinking: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    stop: Literal["end", "length", "tool", "sequence"] = "end"
    stop_sequence: str | None = None

    @property
    def output_tokens(self) -> int:
        return len(self.thinking) + len(self.text) + sum(1 + len(call.pieces) for call in self.calls)


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream as bytes, and the output tokens it carries."""

    raw: bytes
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """Everything a dialect needs to write an answer down."""

    ask: Ask
    answer: Answer
    plan: Plan
    id: str  # bare: each dialect puts its own prefix before it
    created: int  # unix seconds


@dataclass(frozen=True, slots=True)
class Dialect:
    name: Literal["anthropic", "openai"]
    read: Callable[[Body, Mapping[str, str]], Ask]
    plan: Callable[[PrefixCache, Ask, bytes, float], Plan]
    events: Callable[[Reply], list[Event]]
    whole: Callable[[Reply], Body]
    error: Callable[[Refusal, str | None], Body]
    event: Callable[[Body], bytes]  # one SSE event
    headers: Callable[[str, Plan | None, float], dict[str, str]]  # request id, rate limits if accepted, unix time
