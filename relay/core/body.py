"""The body of a client's request: evidence, not material.  It is kept as bytes, looked at once, and never rebuilt.

The ingress peeks at it, a worker puts the routed model name in; nothing else in it ever changes.  A megabyte of small
tokens takes longer to look at than an event loop may stall, so big bodies are peeked at in another process: what goes
in and out can be pickled, ``InvalidRequest`` included.

Unlike a provider it refuses only what is certainly wrong: unknown members, values and block types pass.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from relay.core import cache_control, document
from relay.core.cache_control import Breakpoint, Ttl, refusal, shown
from relay.core.document import Outline, Span
from relay.core.errors import InvalidRequest
from relay.core.job import Dialect

Endpoint = Literal["messages", "count_tokens", "chat_completions"]

# OpenAI takes 128 characters, Anthropic names no limit. A usage record holds it, and must not grow with the request.
USER_CHARS_MAX = 256


@dataclass(frozen=True, slots=True)
class Peek:
    """What the relay has to know of a request; the rest is between the client and the provider."""

    model: str
    messages: int  # how many
    stream: bool
    breakpoints: tuple[Breakpoint, ...]
    max_tokens: int | None
    user: str | None  # the caller's own customer, as it names them

    @property
    def marker_ttls(self) -> tuple[Ttl, ...]:
        """What usage needs to tell 5m writes from 1h writes, where the provider reports only their sum."""
        return tuple(mark.ttl for mark in self.breakpoints)


@dataclass(frozen=True, slots=True)
class PrefixDigest:
    """SHA-256 of the prompt as it stands in the body, up to and including the marked object at ``path``."""

    path: str
    ttl: Ttl
    sha256: str
    size: int


def peek(body: bytes, surface: Dialect, endpoint: Endpoint) -> Peek:
    """The facts of a request, or ``InvalidRequest`` naming what is wrong with it."""
    request = document.parse(body)
    if not isinstance(request, dict):
        raise InvalidRequest(f"The request body must be a JSON object, not {shown(request)}.")
    is_counting = endpoint == "count_tokens"
    return Peek(
        model=_model(request),
        messages=_messages(request),
        stream=not is_counting and _stream(request),
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


def with_model(body: bytes, model: str) -> bytes:
    """``body``, which ``peek`` took, with another value for ``model``: that span only.

    Where the member is repeated every value is replaced, so that no reader of the bytes sees the name before routing.
    """
    return _replaced(body, _model_spans(body), orjson.dumps(model))


def _model_spans(body: bytes) -> list[Span]:
    """A top-level member of that name is there.  If there is but one place where it can be, that is it."""
    at = body.rfind(_MODEL)  # rfind, as find takes two to three times longer here
    if at >= 0 and body.rfind(_MODEL, 0, at) < 0 and body.rfind(_ESCAPED_LETTER) < 0:
        member = _MODEL_MEMBER.match(body, at)
        if member:
            return [member.span(1)]
    return [span for name, span in Outline(body).members() if name == "model"]


def _replaced(body: bytes, spans: list[Span], value: bytes) -> bytes:
    view, done = memoryview(body), 0
    pieces: list[bytes | memoryview] = []
    for start, end in spans:
        pieces += view[done:start], value
        done = end
    return b"".join([*pieces, view[done:]])


# What `check` lets through: the limit, and an automatic marker that may not fall on a block of its own. Each digest
# hashes the prompt anew, and token counting takes any number of markers.
_DIGESTS_MAX = cache_control.MAX_BREAKPOINTS + 1

_SECTIONS = {"anthropic": ("tools", "system", "messages"), "openai": ("tools", "messages")}


def prefix_digests(body: bytes, surface: Dialect) -> list[PrefixDigest]:
    """A digest for each breakpoint of a body that ``peek`` took, in processing order.

    What is hashed: for each of tools, system and messages that is present, in this order and whatever the order in the
    JSON, its name, a NUL, and the raw text of its value as it stands in the body. The hash stops right after the raw
    text of the marked object; the automatic breakpoint covers everything. In OpenAI's form there is no ``system``.
    NUL cannot occur in JSON text, so two different prompts never hash the same bytes.
    """
    marks = cache_control.breakpoints(document.parse(body), surface)
    outline = Outline(body)
    sections = [name for name in _SECTIONS[surface] if name in outline.children("")]
    digests = []
    for mark in marks[:_DIGESTS_MAX]:
        sha256, size = hashlib.sha256(), 0
        for piece in _prompt(memoryview(body), outline, sections, mark.path):
            sha256.update(piece)
            size += len(piece)
        digests.append(PrefixDigest(mark.path, mark.ttl, sha256.hexdigest(), size))
    return digests


def _prompt(body: memoryview, outline: Outline, sections: list[str], path: str) -> Iterator[bytes | memoryview]:
    for name in sections:
        start, end = outline.span(name)
        is_last = path.startswith(f"{name}.")
        yield f"{name}\0".encode()
        yield body[start : outline.span(path)[1] if is_last else end]
        if is_last:
            return


def digest_header(digests: list[PrefixDigest]) -> str:
    """The digests as the value of a response header: ``system.0=<hex>, messages.2.content.0=<hex>``."""
    return ", ".join(f"{digest.path or 'body'}={digest.sha256}" for digest in digests)
