"""What an OpenAI answer means: its content, its end, its error, its usage.  The worker's meter for this dialect.

It reads Chat Completions, the Responses API, and the variants of compatible servers, told apart by their members alone.
Nothing here builds or changes an event.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from relay.core.errors import RelayError
from relay.core.meter import InputTokensSemantics, Outcome, ProviderError, error_in, member, object_in, text
from relay.core.sse import Event
from relay.core.usage import RawUsage, Usage, share_out, ttl_of_markers

# A key whose value is a piece of text, up to that piece; and the inside of a JSON string.
_TEXT_KEY = re.compile(rb'(?:content|arguments)": ?"')
_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+')

_NO_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')

# OpenAI's own limit for ``n``.
MAX_CHOICES = 128

_TTLS = {"ttl_30m_tokens": "30m", "ttl_12h_tokens": "12h"}
_COMPATIBLE_TTLS = {"ephemeral_5m_input_tokens": "5m", "ephemeral_1h_input_tokens": "1h"}

# Responses API: how most of its events begin, in which nothing matters here; what brings no content; how it ends.
_DELTA = b'{"type":"response.output_text.delta",'
_SILENT = ("response.created", "response.queued", "response.in_progress", "response.failed")
_FINAL_STATES = ("completed", "incomplete", "failed")

# Reasons that are no good end, with or without an error object beside them.
_FAILURES = {"error", "failed"}


class OpenAIMeter:
    """The ``Meter`` of a Chat Completions or Responses answer.

    ``writes_follow_markers`` is for a gateway in front of Anthropic that reports cache writes without their times:
    they are those of ``marker_ttls``.  ``input_tokens_semantics`` is of no use here: prompts always include the cached.
    """

    refusal_category = None

    def __init__(
        self,
        marker_ttls: Sequence[str] = (),
        input_tokens_semantics: InputTokensSemantics = "exclusive",
        *,
        writes_follow_markers: bool = False,
    ) -> None:
        self.visible = False
        self.ended = False
        self.error: ProviderError | None = None
        self.model: str | None = None
        self.message_id: str | None = None
        self._write_ttl = ttl_of_markers(marker_ttls) if writes_follow_markers else None
        self._finishes: dict[int, str | None] = {}  # finish_reason of every choice seen
        self._usage: Usage | None = None
        self._usage_at_top = False
        self._service_tier: str | None = None
        self._closed = False  # whatever comes now does not count
        self._known: _Shape | None = None

    @property
    def outcome(self) -> Outcome:
        if self.error is not None:
            return "error"
        return "completed" if self._finished else "truncated"

    @property
    def stop_reason(self) -> str | None:
        """The first choice's finish_reason, or the state a response ended in."""
        return self._finishes[min(self._finishes)] if self._finishes else None

    @property
    def usage(self) -> Usage | None:
        return replace(self._usage, service_tier=self._service_tier) if self._usage else None

    def see(self, event: Event) -> None:
        data = event.data
        if self._closed or (self._known is not None and self._known.covers(data)):
            return
        if data.startswith(_DELTA):
            self.visible = True
            return
        if data.startswith(b"[DONE]"):
            self.ended = self._closed = True
            return
        payload = object_in(data)
        if event.name == b"error" and "error" not in payload and "choices" not in payload:
            payload = {"error": payload}
        kind = text(payload.get("type")) or ""
        if kind.startswith("response."):
            self._see_response(member(payload, "response"))
            self.visible = self.visible or kind not in _SILENT
        else:
            self._see_chunk(payload)
            # Without choices it is no chunk, or none that could be parsed.
            self._known = _Shape.of(data) if self.visible and "choices" in payload else None

    def see_body(self, body: bytes) -> None:
        if self._closed:
            return
        payload = object_in(body)
        if payload.get("object") == "response":
            self._see_response(payload)
        else:
            self._see_chunk(payload)
            self.ended = self._closed = self.ended or self._finished
        self.visible = self.visible or self.outcome == "completed"

    @property
    def _finished(self) -> bool:
        return bool(self._finishes) and None not in self._finishes.values()

    def _see_chunk(self, chunk: Mapping[str, Any]) -> None:
        """Note a chunk, or a whole completion.  To see one again at once changes nothing."""
        self._see_names(chunk)
        choices = chunk.get("choices")
        choices = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
        for choice in choices:
            self._see_choice(choice)
        self._see_error(chunk)
        self._see_usage(chunk, choices)

    def _see_choice(self, choice: Mapping[str, Any]) -> None:
        index = choice.get("index")
        index = index if isinstance(index, int) else 0
        if index not in self._finishes and len(self._finishes) >= MAX_CHOICES:
            return
        self._finishes[index] = text(choice.get("finish_reason")) or self._finishes.get(index)
        part = member(choice, "delta") or member(choice, "message")
        # Text, refusal, tool calls, reasoning under any of its names: whatever is not the role and not empty.
        self.visible = self.visible or any(value for name, value in part.items() if name != "role")

    def _see_response(self, response: Mapping[str, Any]) -> None:
        """Note the state of a response; it counts as the one choice of its answer."""
        self._see_names(response)
        state = text(response.get("status"))
        if state in _FINAL_STATES:
            self._finishes[0] = state
            self.ended = self._closed = True
        self._see_error(response)
        self._see_usage(response, [])

    def _see_names(self, payload: Mapping[str, Any]) -> None:
        self.message_id = text(payload.get("id")) or self.message_id
        self.model = text(payload.get("model")) or self.model
        self._service_tier = text(payload.get("service_tier")) or self._service_tier

    def _see_error(self, payload: Mapping[str, Any]) -> None:
        error = error_in(payload)
        if error is None and not _FAILURES.isdisjoint(self._finishes.values()):
            error = ProviderError(type=None, message="", code=None)
        if error is not None:
            self.error = self.error or error
            self.ended = True

    def _see_usage(self, payload: Mapping[str, Any], choices: Sequence[Mapping[str, Any]]) -> None:
        at_top = member(payload, "usage")
        # Kimi also writes it into the choice; beside one at top level that is a repetition.
        in_choices = [] if at_top or self._usage_at_top else [member(choice, "usage") for choice in choices]
        self._usage_at_top = self._usage_at_top or bool(at_top)
        for raw in (at_top, *in_choices):
            if raw:
                self._usage = openai_usage(raw, self._usage, final=self._finished, write_ttl=self._write_ttl)


def openai_usage(raw: Mapping[str, Any], before: Usage | None, *, final: bool, write_ttl: str | None = None) -> Usage:
    """The record after one more usage object, which holds running totals and replaces the one before.

    ``write_ttl`` is the time of writes that the object gives without one; by default the one its dialect would mean.
    """
    said = RawUsage(raw)
    prompt, output = said.count("prompt_tokens", "input_tokens"), said.count("completion_tokens", "output_tokens")
    half = prompt is None or output is None
    if half and before is not None:
        # Replacing good numbers by half an object would turn nonsense into zeros.
        return replace(before, final=final, suspect=True, last_raw=raw)
    details = said.members("prompt_tokens_details", "input_tokens_details")
    # Where it says so: OpenAI and most others in the details, DeepSeek, Kimi.
    read = _either(details.count("cached_tokens"), said.count("prompt_cache_hit_tokens", "cached_tokens"), 0)
    by_ttl, agrees = _writes(details, write_ttl)
    uncached = (prompt or 0) - read - sum(by_ttl.values())
    thinking = said.members("completion_tokens_details", "output_tokens_details").count("reasoning_tokens")
    return Usage(
        input_tokens=max(0, uncached),
        cache_read_tokens=read,
        cache_write_by_ttl=by_ttl,
        output_tokens=output or 0,
        reasoning_tokens=thinking,
        final=final,
        suspect=half or uncached < 0 or not agrees or bool(said.doubts),
        first_raw=before.first_raw if before else raw,
        last_raw=raw,
    )


def _writes(details: RawUsage, write_ttl: str | None) -> tuple[dict[str, int], bool]:
    """Cache writes by time: OpenAI's own members, or those of DashScope, which speaks of Anthropic's times."""
    written = details.count("cache_write_tokens")
    if written is not None:
        split = details.members("cache_write_tokens_details").counts(_TTLS)
        return share_out(written, split, write_ttl or "30m")
    written = details.count("cache_creation_input_tokens")
    split = details.members("cache_creation").counts(_COMPATIBLE_TTLS)
    return share_out(written, split, write_ttl or "5m")


class WithoutUsage:
    """A stream for a client that did not ask for its usage: the chunk that has nothing else is left out.

    The relay asks for it in any case.  A translator's interface, which has nothing to add at the end.
    """

    error: RelayError | None = None

    def feed(self, event: Event) -> list[bytes]:
        # Inside a text the quotes would be escaped.
        if _NO_CHOICES.search(event.data) and member(object_in(event.data), "usage"):
            return []
        return [event.raw]

    def close(self) -> list[bytes]:
        return []


class _Shape(NamedTuple):
    """The last chunk parsed, as a pattern for the many like it that follow.

    A chunk is covered if it differs only inside one text (content, reasoning or arguments) and inside the padding.  It
    then says the same wherever a meter looks, and need not be parsed.  That the bytes show: no JSON string holds an
    unescaped quote, so ``content":"`` can only be the end of a key and the start of its value.
    """

    before: bytes  # up to the text
    between: bytes  # from its closing quote to the padding, or to the end
    after: bytes  # from the padding's closing quote

    @classmethod
    def of(cls, chunk: bytes) -> _Shape | None:
        text_key = _TEXT_KEY.search(chunk)
        if text_key is None:
            return None
        rest = chunk[_end_of_string(chunk, text_key.end()) :]
        between, padding, after = rest.partition(b'"obfuscation":"')
        return cls(chunk[: text_key.end()], between + padding, after[_end_of_string(after, 0) :])

    def covers(self, chunk: bytes) -> bool:
        before, between, after = self
        if not chunk.startswith(before):
            return False
        end = _end_of_string(chunk, len(before))
        if not chunk.startswith(between, end):
            return False
        end += len(between)
        return chunk[_end_of_string(chunk, end) :] == after if after else end == len(chunk)


def _end_of_string(data: bytes, start: int) -> int:
    return match.end() if (match := _STRING.match(data, start)) else start


def _either(*counts: int | None) -> int:
    return next(count for count in counts if count is not None)
