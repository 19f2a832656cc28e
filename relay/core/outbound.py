"""A request as one target takes it, where that is not the client's bytes with another model name in them.

Three things can be in the way: the target speaks the other dialect, it does not take ``cache_control``, or breakpoints
are to be put where the client set none.  Then the body is parsed here, once; equal bodies give equal bytes.  Workers
call it, in a process of its own where the body is big, so what goes in and out are bytes and plain values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import orjson

from relay.core import auto_cache, capabilities, document, pieces
from relay.core.body import model_spans, prefixes
from relay.core.capabilities import Capability, Change
from relay.core.job import Dialect, StreamUsage
from relay.core.splice import Splice
from relay.core.translate.request_to_anthropic import AnthropicOptions, to_anthropic
from relay.core.translate.request_to_openai import OpenAIOptions, to_openai
from relay.core.translate.spelling import decode, encode
from relay.core.translate.translation import Translation

_ASK_FOR_USAGE = b'"stream_options":{"include_usage":true}'
_LAST = b"}"


@dataclass(frozen=True, slots=True)
class Way:
    """From a surface to one target, and what is to happen on it.  Plain values: ``asdict`` and back through JSON.

    ``stream_usage``: how the client asked, where a stream of the same dialect must be asked for its usage.
    ``digests``: hash the prompt up to each breakpoint as it is sent. The rest is what the provider is like.
    """

    surface: Dialect
    dialect: Dialect
    model: str  # as the target knows it
    cache_control: Capability
    auto_cache: bool = False
    stream_usage: StreamUsage = ""
    digests: bool = False
    anthropic_version: str = "2023-06-01"
    role_system: Literal["hoist", "native"] = "hoist"
    default_max_tokens: int = 4096
    refuses_disabled_thinking: bool = False
    reasoning: Literal["drop", "extension"] = "drop"

    @property
    def translates(self) -> bool:
        return self.surface != self.dialect

    @property
    def marks(self) -> bool:
        """Whether breakpoints are to be added: not for a provider that would not take them."""
        return self.auto_cache and self.cache_control != "strip"


class Outbound(NamedTuple):
    """What goes upstream, and what is to be said of it.

    ``cache_control``: what became of the breakpoints, as the response header tells it. ``stripped`` and ``added``
    count them. ``dropped``: members without a counterpart, for the log.
    """

    body: bytes
    cache_control: str = ""
    stripped: int = 0
    added: int = 0
    dropped: tuple[str, ...] = ()
    digests: str = ""


def is_rewritten(body: bytes, way: Way) -> bool:
    """Whether this body has to be parsed on its way; if not, ``asked_for_usage`` and a new name are all it may need."""
    if way.translates or way.marks or way.stream_usage == "declined":
        return True
    return way.cache_control != "keep" and capabilities.may_have_markers(body)


def rewritten(body: bytes, way: Way) -> Outbound:
    """A body that ``peek`` took, for its target.  Raises ``InvalidRequest`` where the target cannot serve it."""
    sent, dropped, changes, added = _translated(body, way) if way.translates else _adapted(body, way)
    digests = pieces.digests(prefixes(sent, way.dialect), [sent]) if way.digests else ""
    stripped = sum(change.became is None for change in changes)
    return Outbound(sent, capabilities.header(changes, added), stripped, len(added), dropped, digests)


def asked_for_usage(pieces: list[bytes]) -> list[bytes]:
    """A body without ``stream_options``, its stream asked for the usage; behind all else, so no position moves."""
    at = len(pieces) - 1
    while not (last := pieces[at].rstrip()):  # a piece of blanks
        at -= 1
    assert last.endswith(_LAST), "a request is an object"
    return [*pieces[:at], last[:-1] + b"," + _ASK_FOR_USAGE + _LAST]


class _Sent(NamedTuple):
    body: bytes
    dropped: tuple[str, ...]
    changes: tuple[Change, ...]
    added: tuple[str, ...]


def _translated(body: bytes, way: Way) -> _Sent:
    request = decode(body)
    added = auto_cache.places(request, way.surface) if way.marks else ()
    if added:
        request = auto_cache.marked(request, way.surface)
    translation = _TRANSLATORS[way.dialect](request, way)
    members = {name: way.model if name == "model" else value for name, value in translation.request.items()}
    return _Sent(encode(members), translation.dropped, translation.changes, added)


def _to_anthropic(request: dict[str, Any], way: Way) -> Translation:
    options = AnthropicOptions(
        anthropic_version=way.anthropic_version,
        role_system=way.role_system,
        default_max_tokens=way.default_max_tokens,
        refuses_disabled_thinking=way.refuses_disabled_thinking,
        cache_control="keep" if way.cache_control == "keep" else "strip",
    )
    return to_anthropic(request, options)


def _to_openai(request: dict[str, Any], way: Way) -> Translation:
    return to_openai(request, OpenAIOptions(cache_control=way.cache_control, reasoning=way.reasoning))


_TRANSLATORS = {"anthropic": _to_anthropic, "openai": _to_openai}


def _adapted(body: bytes, way: Way) -> _Sent:
    """The client's bytes, with as few changes as the target needs."""
    added: tuple[str, ...] = ()
    if way.marks and (added := auto_cache.places(document.parse(body), way.dialect)):
        body = auto_cache.insert(body, way.dialect)
    body, changes = capabilities.adapt(body, way.dialect, way.cache_control)
    if way.stream_usage in ("unasked", "declined"):
        body = _with_usage_asked(body)
    [renamed] = pieces.replaced([body], model_spans(body), orjson.dumps(way.model))
    return _Sent(renamed, (), changes, added)


def _with_usage_asked(body: bytes) -> bytes:
    """A body with whatever ``stream_options``, its stream asked for the usage."""
    splice = Splice(body)
    options = document.parse(body).get("stream_options")
    if isinstance(options, dict):
        splice.remove("stream_options", "include_usage")
        splice.add("stream_options", b'"include_usage":true')
    else:
        splice.remove("", "stream_options")
        splice.add("", _ASK_FOR_USAGE)
    return splice.result()
