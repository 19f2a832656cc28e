"""One attempt: a provider call from its first byte to its last, in the words of the surface that asked.

What comes before the first visible event is held back, so that a call that comes to nothing until then leaves no trace
and another one can be made.  What an attempt has to know of the dialects it asks its meter and its translator.  It
decides nothing about another attempt; ``tasks`` does.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from relay.broker.publisher import BUFFER_BYTES, End, Outlet
from relay.broker.usage_stream import FINAL, PARTIAL, UNKNOWN, Call, Record, now_ms
from relay.core import capabilities
from relay.core.anthropic import AnthropicMeter
from relay.core.errors import RelayError, UpstreamError, UpstreamProtocolError, UpstreamTimeout, UpstreamTruncated
from relay.core.job import DONE, FAILED, Dialect
from relay.core.meter import Meter, object_in
from relay.core.openai import OpenAIMeter, WithoutUsage
from relay.core.sse import Decoder, Event
from relay.core.translate import answer_to_anthropic, answer_to_openai
from relay.core.translate.errors_between import error_answer, headers_between
from relay.core.translate.stream_to_anthropic import StreamToAnthropic
from relay.core.translate.stream_to_openai import StreamToOpenAI
from relay.core.translate.usage_shapes import in_openai_shape
from relay.provider import Provider
from workers.outgoing import Outgoing
from workers.upstream import Answer, Upstream, reading

METERS: dict[Dialect, Callable[..., Meter]] = {"anthropic": AnthropicMeter, "openai": OpenAIMeter}

# The largest answer that is not a stream; the longest real ones, with images in base64, stay below 20 MB.
ANSWER_BYTES = 64 << 20
# More than any provider sends before its first content; who does sends pings only, and its client may see them.
HELD_BYTES = 1 << 20
# A provider that has sent its last event, or an error, and keeps the connection open gets so long to end the body
# properly, so that the connection can be used again.
LINGER_S = 1.0


class Translator(Protocol):
    """Makes the surface's events of a provider's.  ``error``: why it ended the stream by itself."""

    error: RelayError | None

    def feed(self, event: Event) -> list[bytes]: ...
    def close(self) -> list[bytes]: ...


class Ending(NamedTuple):
    """How an attempt ended, and the word for it in its usage record."""

    end: End
    outcome: str


class Whole(NamedTuple):
    """An answer that is no stream, as the client is to get it."""

    status: int
    body: bytes


class Attempt:
    """``run`` it, then ``show`` what it holds or make another one; ``record`` it, ``close`` it in any case.

    ``answer``: None until the provider has answered. ``whole``: an answer that goes out at once, with the job's end.
    """

    def __init__(self, call: Call, provider: Provider, outlet: Outlet, upstream: Upstream) -> None:
        self.call = call
        self.answer: Answer | None = None
        self.whole: Whole | None = None
        self.headers: list[tuple[str, str]] = []  # of the answer, ours included
        self.shown = False  # there is something in the outlet: no other attempt may be made
        self.provider = provider
        self._outlet = outlet
        self._upstream = upstream
        self._meter: Meter = METERS[provider.dialect]()
        self._breakpoints = 0
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._news = False  # the provider was heard since it was last asked about
        self._patience: tuple[float, str] = (math.inf, "")  # how long it may be silent, and what to call it then
        self._waiting_since = self._began = math.inf

    @property
    def meter(self) -> Meter:
        return self._meter

    def overdue(self, now: float) -> UpstreamTimeout | None:
        """Whether the provider has been silent for too long.  ``now`` is the loop's time."""
        if self._news:
            self._news = False
            self._waiting_since = now
        patience_s, otherwise = self._patience
        if now - self._waiting_since > patience_s:
            return UpstreamTimeout(f"the provider {otherwise} for {patience_s:g} s")
        if now - self._began > self.provider.total_s:
            return UpstreamTimeout(f"the provider took longer than {self.provider.total_s:g} s")
        return None

    async def run(self, outgoing: Outgoing, trace: Mapping[str, str]) -> Ending:
        """Call the provider, pass on what it says.  Raises ``RelayError`` where its own bytes do not tell the end.

        ``trace``: the headers by which the provider learns of the trace this is part of.
        """
        provider, call = self.provider, self.call
        self._meter = METERS[provider.dialect](outgoing.breakpoints, provider.input_tokens_semantics)
        self._breakpoints = len(outgoing.breakpoints)
        self._began = self._waiting_since = asyncio.get_running_loop().time()
        self._patience = (provider.first_byte_s, "sent no answer")
        answer = self.answer = await self._upstream.open(call, outgoing.pieces, trace)
        outgoing.pieces.clear()
        call.status = answer.status
        self.headers += self._passed_back(answer)
        if outgoing.digests:
            self.headers.append(("x-relay-prompt-sha256-sent", outgoing.digests))
        if outgoing.cache_control:
            self.headers.append((capabilities.HEADER, outgoing.cache_control))
        with reading():
            if answer.is_stream and answer.status == 200:
                return await self._stream(answer)
            return await self._read_whole(answer)

    def show(self) -> None:
        """Let out what was held back; from here on there is no other attempt."""
        if not self.shown and self.answer and self.whole is None:
            self._outlet.head(self.answer.status, self.headers)
            if self.call.usage:
                self._outlet.usage(self.call.draft())
            if self._held:
                self._outlet.events(b"".join(self._held), len(self._held))
        self.shown = True
        self._held = []

    def ask_for_no_retries(self) -> None:
        """Tell the client's SDK that it need not try again: that has been done for it."""
        name = "x-should-retry"
        self.headers = [*(header for header in self.headers if header[0] != name), (name, "false")]

    def record(self, ending: Ending, version: int = 1) -> Record:
        """What the call cost; nothing if the provider was not called."""
        call, usage = self.call, self._meter.usage
        if not call.started_ms:
            return []
        call.usage, call.stop_reason = usage, self._meter.stop_reason
        if usage:
            kind = FINAL if usage.final else PARTIAL
        else:
            kind = FINAL if self.whole is not None else PARTIAL if call.first_event_ms else UNKNOWN
        note = capabilities.too_short(call.target.model, self._breakpoints, usage) if usage else None
        return call.record(kind, ending.outcome, ending.end.code, note or "", version)

    async def close(self, *, cut: bool = False) -> None:
        """Give the connection back; ``cut``: the provider need not go on."""
        if self.answer:
            await self.answer.close(LINGER_S if self._meter.ended and not cut else 0)

    @property
    def _translates(self) -> bool:
        return self.call.job.surface != self.provider.dialect

    def _passed_back(self, answer: Answer) -> list[tuple[str, str]]:
        if not self._translates:
            return answer.headers
        kind = "text/event-stream; charset=utf-8" if answer.is_stream and answer.status == 200 else "application/json"
        headers = headers_between(self.call.job.surface, answer.headers, now_ms() / 1000)
        return [(name, value) for name, value in headers if name != "content-type"] + [("content-type", kind)]

    def _translator(self) -> Translator | None:
        """None where the provider's events go to the client as they are."""
        job, model = self.call.job, self.call.target.model
        if not self._translates:
            hides = job.stream_usage in ("unasked", "declined") and self.provider.stream_usage
            return WithoutUsage() if hides else None
        if job.surface == "anthropic":
            return StreamToAnthropic(self._meter, answer_id=f"msg_{job.id}", model=model)
        asked = job.stream_usage == "asked"
        created = job.created_ms // 1000
        return StreamToOpenAI(
            self._meter, created=created, include_usage=asked, answer_id=f"chatcmpl-{job.id}", model=model
        )

    # -- an answer that streams ----------------------------------------------------------------------------------

    async def _stream(self, answer: Answer) -> Ending:
        meter, decoder, translator = self._meter, Decoder(), self._translator()
        async for chunk in answer.body:
            events = decoder.feed(chunk)
            if not events:
                continue
            told = self._told(events, translator)
            if len(events) > 1 or events[0].name != b"ping":
                self._news = True  # a provider that only pings is silent
            if self.call.usage is None:
                self._first_news()
            self._pass_on(told)
            if meter.error:
                await self._rest_of_error(answer, decoder, translator)
                return self._ending(translator)
            if meter.ended or (translator and translator.error):
                return self._ending(translator)
            if self._outlet.buffered > BUFFER_BYTES:
                await self._outlet.room()
        self._end_of_body(decoder, translator)
        return self._ending(translator)

    def _told(self, events: list[Event], translator: Translator | None) -> list[bytes]:
        """The events as the client gets them; a translator asks the meter how things stand at each of them."""
        see = self._meter.see
        if translator is None:
            for event in events:
                see(event)
            return [event.raw for event in events]
        told = []
        for event in events:
            see(event)
            told += translator.feed(event)
        return told

    def _pass_on(self, told: list[bytes]) -> None:
        if not told:
            return
        if self._meter.error:
            told = [self._scrubbed(event) for event in told]
        if self.shown:
            self._outlet.events(told[0] if len(told) == 1 else b"".join(told), len(told))
            return
        self._held += told
        self._held_bytes += sum(map(len, told))
        if self._meter.visible or self._held_bytes > HELD_BYTES:
            self.show()

    def _end_of_body(self, decoder: Decoder, translator: Translator | None) -> None:
        meter = self._meter
        cut = decoder.flush()
        self._pass_on(self._told(cut, translator))
        if decoder.tail and not cut:
            meter.see_body(decoder.tail)
            if meter.error and not self._translates:  # the last bytes were an error, but no event
                said = self._scrubbed((meter.error["message"] or meter.error["type"] or "").encode()).decode()
                raise UpstreamProtocolError(f"the provider broke off: {said}")
        if translator:
            self._pass_on(translator.close())

    async def _rest_of_error(self, answer: Answer, decoder: Decoder, translator: Translator | None) -> None:
        """What follows an error is part of the answer (OpenAI's ``[DONE]``), if it follows soon."""
        try:
            with reading():
                async with asyncio.timeout(LINGER_S):
                    async for chunk in answer.body:
                        self._pass_on(self._told(decoder.feed(chunk), translator))
        except UpstreamError:
            pass  # the client knows of the error; that the connection broke, too, is no news
        except TimeoutError:
            pass

    def _first_news(self) -> None:
        """Time the first event, and leave a first count behind for whoever must end this job in our place."""
        call = self.call
        if call.first_event_ms is None:
            call.first_event_ms = now_ms()
            self._patience = (self.provider.idle_s, "was silent")
        call.usage = self._meter.usage
        if call.usage is not None and self.shown:
            self._outlet.usage(call.draft())

    def _ending(self, translator: Translator | None = None) -> Ending:
        """The end of an answer whose own bytes tell the client how it went."""
        meter, status = self._meter, self.call.status
        if translator and (own := translator.error):
            if not self.shown:
                raise own  # another attempt can be made
            outcome = "truncated" if isinstance(own, UpstreamTruncated) else "error"
            return Ending(End(FAILED, own.code, own.message, status), outcome)
        if meter.outcome == "completed":
            return Ending(End(DONE, status=status, usage=self._untold_usage()), "completed")
        if meter.error is None:
            raise UpstreamTruncated("the provider's stream ended in the middle")
        code = meter.error["type"] or "upstream_error"
        message = self._scrubbed(meter.error["message"].encode()).decode()
        return Ending(End(FAILED, code, message, status), "error")

    def _untold_usage(self) -> Mapping[str, Any] | None:
        """What a chat stream did not say of its usage because nobody asked; the job's result says it."""
        job, usage = self.call.job, self._meter.usage
        if usage is None or job.stream_usage not in ("unasked", "declined"):
            return None
        return in_openai_shape(usage) if self._translates else usage.last_raw

    def _scrubbed(self, text: bytes) -> bytes:
        """What a provider says of an error, without its key: some quote the key they did not like."""
        return self._upstream.scrub(self.provider.name, text)

    # -- an answer that comes whole ------------------------------------------------------------------------------

    async def _read_whole(self, answer: Answer) -> Ending:
        parts: list[bytes] = []
        size = 0
        async for chunk in answer.body:
            if self.call.first_event_ms is None:
                self.call.first_event_ms = now_ms()
                self._patience = (self.provider.idle_s, "was silent")
            self._news = True
            parts.append(chunk)
            size += len(chunk)
            if size > ANSWER_BYTES:
                raise UpstreamProtocolError(f"the provider's answer is larger than {ANSWER_BYTES} bytes")
        body = self._scrubbed(b"".join(parts))
        self._meter.see_body(body)
        error = self._meter.error
        if answer.status != 200 or error:
            self.whole = self._refused(answer, body)
            code = (error and error["type"]) or f"http_{answer.status}"
            return Ending(End(FAILED, code, error["message"] if error else "", answer.status), "error")
        if not object_in(body):
            raise UpstreamProtocolError(
                f"the provider answered 200 with {answer.content_type or 'a body'} that is no JSON"
            )
        self.whole = Whole(200, self._translated(body) if self._translates else body)
        return Ending(End(DONE, status=answer.status), "completed")

    def _refused(self, answer: Answer, body: bytes) -> Whole:
        if not self._translates:
            return Whole(answer.status, body)
        return Whole(*error_answer(self.call.job.surface, answer.status, body, f"req_{self.call.job.id}"))

    def _translated(self, body: bytes) -> bytes:
        job, model = self.call.job, self.call.target.model
        if job.surface == "anthropic":
            return answer_to_anthropic.translate(body, self._meter, answer_id=f"msg_{job.id}", model=model)
        created, answer_id = job.created_ms // 1000, f"chatcmpl-{job.id}"
        return answer_to_openai.translate(body, self._meter, created=created, answer_id=answer_id, model=model)
