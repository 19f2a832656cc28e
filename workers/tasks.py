"""The task: one job from its lease to its end.

Dispatch, call the provider, pass its events on as they come, read what it cost, end the job. What a job needs to know
of its dialect it asks its meter. Every way out leads through one ``finish``: the job's end and its usage record.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import NamedTuple, cast

import orjson

from relay.broker import scripts
from relay.broker.leases import Lease, Leases
from relay.broker.publisher import BUFFER_BYTES, End, Publisher
from relay.broker.queue import CANCELLED_MESSAGE
from relay.broker.usage_stream import FINAL, PARTIAL, UNKNOWN, Call, Record, now_ms
from relay.core.anthropic import AnthropicMeter
from relay.core.errors import (
    Cancelled,
    Internal,
    JobLost,
    RelayError,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamTruncated,
    UpstreamUnreachable,
)
from relay.core.job import CANCELLED, DONE, FAILED, Dialect
from relay.core.meter import Meter, object_in
from relay.core.openai import OpenAIMeter
from relay.core.pieces import digests, moved, replaced
from relay.core.sse import Decoder
from relay.provider import Provider
from workers.upstream import Answer, Upstream, reading

log = logging.getLogger("relay.worker")

METERS: dict[Dialect, Callable[..., Meter]] = {"anthropic": AnthropicMeter, "openai": OpenAIMeter}

# The largest answer that is not a stream; the longest real ones, with images in base64, stay below 20 MB.
ANSWER_BYTES = 64 << 20
# A provider that has sent its last event, or an error, and keeps the connection open gets so long to end the body
# properly, so that the connection can be used again.
LINGER_S = 1.0


def relay(job_id: str) -> None:
    """What RQ's records name as the job's function. It is never called by name: workers know their one task."""
    raise RuntimeError(f"{job_id} runs in workers.worker.RelayWorker only")


class _Lost(RelayError):
    """Redis does not take our word for this job any more: it was given away, or forgotten."""

    code = "lost"

    def __init__(self, answer: int) -> None:
        super().__init__("the job was given away")
        self.answer = answer


class Ending(NamedTuple):
    """How a job ends, and the word for it in the usage record."""

    end: End
    outcome: str


class Task:
    """One job of this worker.

    The worker calls ``watch`` several times a second; ``unread_since`` is its note of when the last reader left.
    """

    def __init__(self, lease: Lease, leases: Leases, publisher: Publisher, upstream: Upstream) -> None:
        self.lease = lease
        self.unread_since: float | None = None
        self._leases = leases
        self._publisher = publisher
        self._upstream = upstream
        self._outlet = publisher.open(lease, self.refused)
        self._call = Call(lease.job, lease.generation, lease.attempt, started_ms=0)
        self._meter: Meter = METERS[lease.job.surface]()
        self._provider: Provider | None = None
        self._answer: Answer | None = None
        self._head: list[tuple[str, str]] = []  # headers of the answer, ours included
        self._body: bytes | None = None  # an answer that is no stream goes out whole
        self._news = False  # the provider was heard since the last watch
        self._patience: tuple[float, str] = (math.inf, "")  # how long it may be silent, and what to call it then
        self._waiting_since = math.inf
        self._call_since = math.inf
        self._why: RelayError | None = None
        self._running: asyncio.Task[None] | None = None
        self._finishing = False

    def start(self) -> asyncio.Task[None]:
        self._running = asyncio.create_task(self._run(), name=self.lease.job.id)
        return self._running

    def stop(self, why: RelayError | None) -> None:
        """End the job early for this reason; None: the worker settles it, this task only lets go."""
        if self._running is not None and self._why is None and not (self._finishing and why):
            self._why = why
            self._running.cancel()

    def watch(self, now: float) -> None:
        """Stop a call whose provider has been silent for too long.  ``now`` is the loop's time."""
        if self._news:
            self._news = False
            self._waiting_since = now
        patience_s, otherwise = self._patience
        if now - self._waiting_since > patience_s:
            self.stop(UpstreamTimeout(f"the provider {otherwise} for {patience_s:g} s"))
        elif self._provider and now - self._call_since > self._provider.total_s:
            self.stop(UpstreamTimeout(f"the provider took longer than {self._provider.total_s:g} s"))

    def refused(self, code: int) -> None:
        """Redis does not take our frames or heartbeats any more, or asks for the job to be cancelled."""
        cancelled = code == scripts.CANCEL_WANTED
        self.stop(Cancelled(CANCELLED_MESSAGE) if cancelled else _Lost(code))

    # -- from lease to end ---------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            ending = await self._outcome()
            self._finishing = True  # no reason to stop comes in between any more
            if ending.end.state != DONE and self._answer:
                await self._answer.close()  # the provider need not go on
            await self._finish(ending)
        finally:
            if self._answer:
                await self._answer.close(LINGER_S if self._meter.ended else 0)

    async def _outcome(self) -> Ending:
        try:
            return await self._relay()
        except asyncio.CancelledError:
            if self._why is None:
                raise
            # Stopped with a reason, which is not a cancellation for whoever runs us.
            cast("asyncio.Task[None]", self._running).uncancel()
            return _failed(self._why, self._call.status)
        except RelayError as error:
            return _failed(error, self._call.status)
        except Exception:
            log.exception("unforeseen failure of job %s", self.lease.job.id)
            return _failed(Internal("The worker failed on this job; its log says why."), self._call.status)

    async def _relay(self) -> Ending:
        pieces = await self._prepare()
        self._call.started_ms = now_ms()
        code = await self._leases.dispatch(self.lease, self._call.draft())
        if code != 1:
            self._call.started_ms = 0  # the provider was not called
            raise Cancelled(CANCELLED_MESSAGE) if code == scripts.CANCEL_WANTED else _Lost(code)
        provider = cast(Provider, self._provider)
        self._call_since = self._waiting_since = asyncio.get_running_loop().time()
        self._patience = (provider.first_byte_s, "sent no answer")
        answer = self._answer = await self._upstream.open(self.lease.job, self._call.id, pieces)
        pieces.clear()
        self._call.status = answer.status
        self._head += answer.headers
        with reading():
            if answer.is_stream and answer.status == 200:
                return await self._stream(answer, provider.idle_s)
            return await self._whole(answer, provider.idle_s)

    async def _prepare(self) -> list[bytes]:
        """The bytes that go upstream: the client's, with the model in the provider's words.

        They are never parsed here: the job says where things stand in them.
        """
        job = self.lease.job
        self._provider = provider = self._upstream.provider(job.provider)
        if provider is None:
            raise UpstreamUnreachable(f"no provider {job.provider!r} is configured at this worker")
        self._meter = METERS[provider.dialect](job.marker_ttls, provider.input_tokens_semantics)
        pieces = await self._leases.body(self.lease)
        if sum(map(len, pieces)) != job.body_bytes:
            raise JobLost("Redis lost the bytes of this request.")
        prefixes = job.prefixes
        if job.target != job.model:
            assert job.model_spans, "the ingress finds what is to be renamed"
            name = orjson.dumps(job.target)
            pieces = replaced(pieces, job.model_spans, name)
            prefixes = moved(prefixes, job.model_spans, len(name))
        if prefixes:
            # Hashing lets go of the interpreter, so beside the event loop it holds up nobody.
            sent = await asyncio.to_thread(digests, prefixes, pieces)
            self._head.append(("x-relay-prompt-sha256-sent", sent))
        return pieces

    # -- an answer that streams ----------------------------------------------------------------------------------

    async def _stream(self, answer: Answer, idle_s: float) -> Ending:
        outlet, meter, decoder = self._outlet, self._meter, Decoder()
        outlet.head(answer.status, self._head)
        async for chunk in answer.body:
            events = decoder.feed(chunk)
            if not events:
                continue
            for event in events:
                meter.see(event)
            if len(events) > 1 or events[0].name != b"ping":
                self._news = True  # a provider that only pings is silent
            if self._call.usage is None:
                self._first_news(idle_s)
            data = events[0].raw if len(events) == 1 else b"".join([event.raw for event in events])
            if meter.error:
                outlet.events(self._scrubbed(data), len(events))
                await self._rest_of_error(answer, decoder)
                return self._ending()
            outlet.events(data, len(events))
            if meter.ended:
                return self._ending()
            if outlet.buffered > BUFFER_BYTES:
                await outlet.room()
        if cut := decoder.flush():
            for event in cut:
                meter.see(event)
            outlet.events(b"".join([event.raw for event in cut]), len(cut))
        elif decoder.tail:
            meter.see_body(decoder.tail)
            if meter.error:  # the last bytes were an error, but no event: the client has not seen it
                said = self._scrubbed((meter.error["message"] or meter.error["type"] or "").encode()).decode()
                raise UpstreamProtocolError(f"the provider broke off: {said}")
        return self._ending()

    async def _rest_of_error(self, answer: Answer, decoder: Decoder) -> None:
        """What follows an error is part of the answer (OpenAI's ``[DONE]``), if it follows soon."""
        try:
            with reading():
                async with asyncio.timeout(LINGER_S):
                    async for chunk in answer.body:
                        if events := decoder.feed(chunk):
                            self._outlet.events(self._scrubbed(b"".join([event.raw for event in events])), len(events))
        except UpstreamError:
            pass  # the client knows of the error; that the connection broke, too, is no news

    def _first_news(self, idle_s: float) -> None:
        """Time the first event, and leave a first count behind for whoever must end this job in our place."""
        call = self._call
        if call.first_event_ms is None:
            call.first_event_ms = now_ms()
            self._patience = (idle_s, "was silent")
        call.usage = self._meter.usage
        if call.usage is not None:
            self._outlet.usage(call.draft())

    def _ending(self) -> Ending:
        """The end of an answer whose own bytes tell the client how it went."""
        meter, status = self._meter, self._call.status
        if meter.outcome == "completed":
            return Ending(End(DONE, status=status), "completed")
        if meter.error is None:
            raise UpstreamTruncated("the provider's stream ended in the middle")
        code = meter.error["type"] or "upstream_error"
        message = self._scrubbed(meter.error["message"].encode()).decode()
        return Ending(End(FAILED, code, message, status), "error")

    def _scrubbed(self, text: bytes) -> bytes:
        """What a provider says of an error, without its key: some quote the key they did not like."""
        return self._upstream.scrub(self.lease.job.provider, text)

    # -- an answer that comes whole ------------------------------------------------------------------------------

    async def _whole(self, answer: Answer, idle_s: float) -> Ending:
        parts: list[bytes] = []
        size = 0
        async for chunk in answer.body:
            if self._call.first_event_ms is None:
                self._call.first_event_ms = now_ms()
                self._patience = (idle_s, "was silent")
            self._news = True
            parts.append(chunk)
            size += len(chunk)
            if size > ANSWER_BYTES:
                raise UpstreamProtocolError(f"the provider's answer is larger than {ANSWER_BYTES} bytes")
        self._body = self._scrubbed(b"".join(parts))
        self._meter.see_body(self._body)
        if answer.status != 200 or self._meter.error:
            error = self._meter.error
            code = (error and error["type"]) or f"http_{answer.status}"
            return Ending(End(FAILED, code, error["message"] if error else "", answer.status), "error")
        if not object_in(self._body):
            self._body = None
            raise UpstreamProtocolError(
                f"the provider answered 200 with {answer.content_type or 'a body'} that is no JSON"
            )
        return Ending(End(DONE, status=answer.status), "completed")

    # -- the end -------------------------------------------------------------------------------------------------

    async def _finish(self, ending: Ending) -> None:
        """End the job in Redis."""
        record = self._record(ending)
        if isinstance(self._why, _Lost):
            code = self._why.answer
        else:
            code = await self._publisher.finish(self._outlet, ending.end, record, *self._whole_answer())
        if code == scripts.HOLE:
            await self._leases.release([self.lease], "Redis lost part of this answer.")
        elif code == scripts.NOT_OURS and (usage := self._meter.usage) and usage.final:
            await self._leases.late_usage(self.lease, self._record(ending, version=2))

    def _whole_answer(self) -> tuple[bytes | None, bytes]:
        if self._body is None:
            return None, b""
        return orjson.dumps({"status": self._call.status, "headers": self._head}), self._body

    def _record(self, ending: Ending, version: int = 1) -> Record:
        call, usage = self._call, self._meter.usage
        if not call.started_ms:
            return []
        call.usage, call.stop_reason = usage, self._meter.stop_reason
        if usage:
            kind = FINAL if usage.final else PARTIAL
        else:
            kind = FINAL if self._body is not None else PARTIAL if call.first_event_ms else UNKNOWN
        return call.record(kind, ending.outcome, ending.end.code, version)


def _failed(error: RelayError, status: int | None) -> Ending:
    state = CANCELLED if isinstance(error, Cancelled) else FAILED
    outcome = {"upstream_truncated": "truncated"}.get(error.code, "cancelled" if state == CANCELLED else "error")
    return Ending(End(state, error.code, error.message, status, shown=False), outcome)
