"""The body of a client's request: evidence, not material.  It is kept as bytes, looked at once, and never rebuilt.

The ingress looks at it, and finds where a worker has to put the routed model name, which is all that ever changes in
it; the worker goes by these positions (``relay.core.pieces``) and calls nothing here.  A megabyte of small tokens takes
longer to look at than an event loop may stall, so big bodies are looked at in another process: what goes in and out can
be pickled, ``InvalidRequest`` included.

Unlike a provider it refuses only what is certainly wrong: unknown members, values and block types pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from relay.core import cache_control, document
from relay.core.cache_control import Breakpoint, Ttl, refusal, shown
from relay.core.document import Outline, Span
from relay.core.errors import InvalidRequest
from relay.core.job import Dialect, StreamUsage
from relay.core.pieces import Part, Prefix

Endpoint = Literal["messages", "count_tokens", "chat_completions"]

# OpenAI takes 128 characters, Anthropic names no limit. A usage record holds it, and must not grow with the request.
USER_CHARS_MAX = 256


@dataclass(frozen=True, slots=True)
class Peek:
    """What the relay has to know of a request; the rest is between the client and the provider."""

    model: str
    messages: int  # how many
    stream: bool
    stream_usage: StreamUsage
    breakpoints: tuple[Breakpoint, ...]
    max_tokens: int | None
    user: str | None  # the caller's own customer, as it names them

    @property
    def marker_ttls(self) -> tuple[Ttl, ...]:
        """What usage needs to tell 5m writes from 1h writes, where the provider reports only their sum."""
        return tuple(mark.ttl for mark in self.breakpoints)


def peek(body: bytes, surface: Dialect, endpoint: Endpoint) -> Peek:
    """The facts of a request, or ``InvalidRequest`` naming what is wrong with it."""
    return peek_at(read(body), surface, endpoint)


def read(body: bytes) -> dict[str, Any]:
    """The request, for whoever wants to know more of it than a ``Peek`` tells."""
    request = document.parse(body)
    if not isinstance(request, dict):
        raise InvalidRequest(f"The request body must be a JSON object, not {shown(request)}.")
    return request


def peek_at(request: dict[str, Any], surface: Dialect, endpoint: Endpoint) -> Peek:
    """The same facts, of what ``read`` has read."""
    is_counting = endpoint == "count_tokens"
    stream = not is_counting and _stream(request)
    return Peek(
        model=_model(request),
        messages=_messages(request),
        stream=stream,
        stream_usage=_stream_usage(request) if stream and surface == "openai" else "",
        breakpoints=_breakpoints(request, surface, is_counting),
        max_tokens=_max_tokens(request),
        user=_USER[surface](request),
    )


def _model(request: dict[str, Any]) -> str:
    if "model" not in request:
        raise refusal("model", "Field required")
    model = request["model"]
    if not isinstance(model, str):
        raise refusal("model", "Input should be a valid string", model)
    if not model:
        raise refusal("model", "String should have at least 1 character", model)
    if not model.isascii() and _encodable(model) != model:
        raise refusal("model", "Input should be Unicode text", model)
    return model


def _encodable(text: str) -> str:
    """Legal JSON can spell half a surrogate pair, which no encoding takes."""
    return text.encode("utf-8", "replace").decode()


def _stream(request: dict[str, Any]) -> bool:
    stream = request.get("stream")
    if stream is None:  # OpenAI's types take null for absent.
        return False
    if not isinstance(stream, bool):
        raise refusal("stream", "Input should be a valid boolean", stream)
    return stream


def _stream_usage(request: dict[str, Any]) -> StreamUsage:
    if "stream_options" not in request:
        return "unasked"
    options = request["stream_options"]
    return "asked" if isinstance(options, dict) and options.get("include_usage") is True else "declined"


def _messages(request: dict[str, Any]) -> int:
    if "messages" not in request:
        raise refusal("messages", "Field required")
    messages = request["messages"]
    if not isinstance(messages, list):
        raise refusal("messages", "Input should be a valid array", messages)
    return len(messages)


def _breakpoints(request: dict[str, Any], surface: Dialect, is_counting: bool) -> tuple[Breakpoint, ...]:
    if not is_counting:
        return cache_control.check(request, surface)
    # Counting takes markers and ignores caching: a malformed one is an error, their number and order are not judged.
    cache_control.breakpoints(request, surface)
    return ()


def _max_tokens(request: dict[str, Any]) -> int | None:
    limit = request.get("max_completion_tokens")
    if limit is None:
        limit = request.get("max_tokens")
    return limit if type(limit) is int else None  # bool is an int too


def _anthropic_user(request: dict[str, Any]) -> str | None:
    metadata = request.get("metadata")
    return _text(metadata.get("user_id")) if isinstance(metadata, dict) else None


def _openai_user(request: dict[str, Any]) -> str | None:
    return _text(request.get("safety_identifier")) or _text(request.get("user"))


def _text(value: Any) -> str | None:
    return _encodable(value[:USER_CHARS_MAX]) if isinstance(value, str) and value else None


_USER: dict[Dialect, Callable[[dict[str, Any]], str | None]] = {"anthropic": _anthropic_user, "openai": _openai_user}


# An escape of any letter of "model": without one, the name can only be spelled plainly.
_ESCAPED_LETTER = rb"\u006"
_MODEL = rb'"model"'
_MODEL_MEMBER = re.compile(_MODEL + rb'[ \t\n\r]*+:[ \t\n\r]*+("[^"\\]*+(?:\\.[^"\\]*+)*+")', re.DOTALL)


# Who names the model more often than this is up to something; each position travels with the job.
MODEL_SPANS_MAX = 64


def model_spans(body: bytes) -> tuple[Span, ...]:
    """Where the value of ``model`` stands in a body that ``peek`` took; at most one more than ``MODEL_SPANS_MAX``.

    Where the member is repeated every value counts, so that no reader of the bytes sees the name before routing.
    """
    at = body.rfind(_MODEL)  # rfind, as find takes two to three times longer here
    if at >= 0 and body.rfind(_MODEL, 0, at) < 0 and body.rfind(_ESCAPED_LETTER) < 0:
        # A top-level member of that name is there.  If there is but one place where it can be, that is it.
        member = _MODEL_MEMBER.match(body, at)
        if member:
            return (member.span(1),)
    spans = (span for name, span in Outline(body).members() if name == "model")
    return tuple(islice(spans, MODEL_SPANS_MAX + 1))


# What `check` lets through: the limit, and an automatic marker that may not fall on a block of its own. Each prefix is
# hashed anew, and token counting takes any number of markers.
_PREFIXES_MAX = cache_control.MAX_BREAKPOINTS + 1

_SECTIONS = {"anthropic": ("tools", "system", "messages"), "openai": ("tools", "messages")}


def prefixes(body: bytes, surface: Dialect) -> tuple[Prefix, ...]:
    """The prompt up to each breakpoint of a body that ``peek`` took, in processing order."""
    marks = cache_control.breakpoints(document.parse(body), surface)[:_PREFIXES_MAX]
    if not marks:
        return ()
    outline = Outline(body)
    sections = [name for name in _SECTIONS[surface] if name in outline.children("")]
    return tuple(Prefix(mark.path, mark.ttl, tuple(_parts(outline, sections, mark.path))) for mark in marks)


def _parts(outline: Outline, sections: list[str], path: str) -> Iterator[Part]:
    for name in sections:
        start, end = outline.span(name)
        if path.startswith(f"{name}."):
            yield name, start, outline.span(path)[1]
            return
        yield name, start, end
