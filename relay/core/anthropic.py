"""What an Anthropic answer means: its content, its end, its error, its usage.  The worker's meter for this dialect.

Only the JSON ``type`` counts: on compatible servers the ``event:`` line is missing or wrong.  Unknown events are passed
over.  Nothing here builds or changes an event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from relay.core.meter import InputTokensSemantics, Outcome, ProviderError, error_in, member, object_in, text
from relay.core.sse import Event
from relay.core.usage import RawUsage, Usage, share_out, ttl_of_markers

# An object that begins so is a content delta: nothing behind it can matter here, and most events are one.
_DELTAS = (b'{"type":"content_block_delta",', b'{"type": "content_block_delta",')

_TTLS = {"ephemeral_5m_input_tokens": "5m", "ephemeral_1h_input_tokens": "1h"}


class AnthropicMeter:
    """The ``Meter`` of a Messages answer.  ``marker_ttls`` are the times of the request's breakpoints."""

    def __init__(
        self, marker_ttls: Sequence[str] = (), input_tokens_semantics: InputTokensSemantics = "exclusive"
    ) -> None:
        self.visible = False
        self.error: ProviderError | None = None
        self.stop_reason: str | None = None
        self.refusal_category: str | None = None
        self.model: str | None = None
        self.message_id: str | None = None
        self._marker_ttls = tuple(marker_ttls)
        self._semantics = input_tokens_semantics
        self._totals: Totals | None = None
        self._stopped = False

    @property
    def ended(self) -> bool:
        return self._stopped or self.error is not None

    @property
    def outcome(self) -> Outcome:
        if self.error is not None:
            return "error"
        return "completed" if self._stopped else "truncated"

    @property
    def usage(self) -> Usage | None:
        return self._totals.usage(self._marker_ttls, self._semantics) if self._totals else None

    def see(self, event: Event) -> None:
        if self._stopped:
            return
        if event.data.startswith(_DELTAS):
            self.visible = True
            return
        payload = object_in(event.data)
        match payload.get("type"):
            case "message_start":
                self._see_message(member(payload, "message"), closing=False)
            case "content_block_start":
                self.visible = True
                self._see_fallback(member(payload, "content_block"))
            case "content_block_delta":
                self.visible = True
            case "message_delta":
                self._see_stop(member(payload, "delta"))
                self._see_usage(member(payload, "usage"), closing=self.stop_reason is not None)
            case "message_stop":
                self._stopped = True
            case "error" | None:
                self.error = self.error or error_in(payload)

    def see_body(self, body: bytes) -> None:
        if self._stopped:
            return
        payload = object_in(body)
        self.error = self.error or error_in(payload)
        if self.error or "content" not in payload:
            return
        self._see_stop(payload)
        self._see_message(payload, closing=True)
        for block in payload["content"] if isinstance(payload["content"], list) else ():
            self._see_fallback(block if isinstance(block, dict) else {})
        self.visible = self._stopped = True

    def _see_message(self, message: Mapping[str, Any], *, closing: bool) -> None:
        self.message_id = text(message.get("id")) or self.message_id
        self.model = text(message.get("model")) or self.model
        self._see_usage(member(message, "usage"), closing=closing)

    def _see_stop(self, delta: Mapping[str, Any]) -> None:
        self.stop_reason = text(delta.get("stop_reason")) or self.stop_reason
        self.refusal_category = text(member(delta, "stop_details").get("category")) or self.refusal_category

    def _see_fallback(self, block: Mapping[str, Any]) -> None:
        """The model that message_start named declined, and another one serves."""
        if block.get("type") == "fallback":
            self.model = text(member(block, "to").get("model")) or self.model

    def _see_usage(self, raw: Mapping[str, Any], *, closing: bool) -> None:
        # An empty object reports nothing.
        if raw:
            self._totals = (self._totals or Totals()).merge(raw, closing=closing)
            if fallback := _fallback(RawUsage(raw)):
                self.model = text(fallback.raw.get("model")) or self.model


@dataclass(frozen=True, slots=True)
class Totals:
    """What an answer has said about its usage so far; None is "not said", which is not zero.

    Every usage object holds running totals, so ``merge`` overwrites and never adds.
    """

    input: int | None = None
    read: int | None = None
    written: int | None = None
    split: Mapping[str, int] | None = None
    output: int | None = None
    thinking: int | None = None
    server_tool_use: Mapping[str, int] | None = None
    service_tier: str | None = None
    speed: str | None = None
    inference_geo: str | None = None
    final: bool = False
    suspect: bool = False
    first_raw: Mapping[str, Any] | None = None
    last_raw: Mapping[str, Any] | None = None

    def merge(self, raw: Mapping[str, Any], *, closing: bool) -> Totals:
        """The totals after one more usage object; ``closing``: a whole answer's, or given with the stop_reason."""
        said = RawUsage(raw)
        fallback = _fallback(said)

        def overwrite(known: int | None, name: str) -> int | None:
            # Sloppy servers send zeros for what they do not know; only a fallback really takes a count back to 0.
            count = said.count(name)
            return count if count or (count == 0 and (fallback or not known)) else known

        return Totals(
            input=overwrite(self.input, "input_tokens"),
            read=overwrite(self.read, "cache_read_input_tokens"),
            written=overwrite(self.written, "cache_creation_input_tokens"),
            split=_split(said, fallback) if fallback else _split(said) or self.split,
            output=_latest(self.output, said.count("output_tokens")),
            thinking=_latest(self.thinking, said.members("output_tokens_details").count("thinking_tokens")),
            server_tool_use=said.members("server_tool_use").all_counts() or self.server_tool_use,
            service_tier=self.service_tier or said.word("service_tier"),
            speed=self.speed or said.word("speed"),
            inference_geo=self.inference_geo or said.word("inference_geo"),
            final=self.final or closing,
            first_raw=self.first_raw or raw,
            last_raw=raw,
            suspect=self.suspect or bool(said.doubts),  # Last: reading is what raises the doubts.
        )

    def usage(self, marker_ttls: Sequence[str], semantics: InputTokensSemantics = "exclusive") -> Usage:
        """The record, given the times of the request's breakpoints and what the upstream means by input."""
        # The split comes at the start only.  What is written on top of it later is the provider's own breakpoint on a
        # server tool's result, always 5m; otherwise the request's markers are the best witness.
        server_tool_ran = any((self.server_tool_use or {}).values())
        rest_ttl = "5m" if self.split and server_tool_ran else ttl_of_markers(marker_ttls)
        by_ttl, agrees = share_out(self.written or None, self.split or {}, rest_ttl)
        read, plain = self.read or 0, self.input or 0
        if semantics == "inclusive":
            plain -= read + sum(by_ttl.values())
        unsaid = self.input is None or self.output is None
        return Usage(
            input_tokens=max(0, plain),
            cache_read_tokens=read,
            cache_write_by_ttl=by_ttl,
            output_tokens=self.output or 0,
            reasoning_tokens=self.thinking,
            server_tool_use=self.server_tool_use,
            service_tier=self.service_tier,
            final=self.final,
            suspect=self.suspect or unsaid or not agrees or plain < 0,
            speed=self.speed,
            inference_geo=self.inference_geo,
            first_raw=self.first_raw,
            last_raw=self.last_raw,
        )


class Iteration(NamedTuple):
    """One pass of a call that made several; ``model`` is None where it is the message's own."""

    kind: str
    model: str | None
    usage: Usage


def iterations(usage: Usage, marker_ttls: Sequence[str] = ()) -> tuple[Iteration, ...]:
    """The passes a call is billed by, each at its model; empty for a plain call, whose record is the bill.

    The record of a call with passes leaves some of them out: compaction, and attempts that a fallback took over from.
    """
    passes = RawUsage(usage.last_raw or {}).entries("iterations")
    return tuple(
        Iteration(
            kind=text(entry.raw.get("type")) or "message",
            model=text(entry.raw.get("model")),
            usage=Totals().merge(entry.raw, closing=True).usage(marker_ttls),
        )
        for entry in passes
    )


def _fallback(said: RawUsage) -> RawUsage | None:
    """The pass of the model that took over, if one did."""
    passes = said.entries("iterations")
    return next((entry for entry in reversed(passes) if entry.raw.get("type") == "fallback_message"), None)


def _split(*objects: RawUsage) -> dict[str, int] | None:
    """The writes by time, from the first object that has them."""
    splits = (said.members("cache_creation").counts(_TTLS) for said in objects)
    return next((split for split in splits if split), None)


def _latest(known: int | None, count: int | None) -> int | None:
    return known if count is None else count
