"""Frames out: what a worker's jobs have ready goes into their logs and onto their channels, one script call per flush.

Pacing: a flush starts at once when none has started in the last ``flush_ms``, else when that time is over, and only one
is under way. So nothing waits while little happens, and under load one call carries a frame of every busy job: system
calls are what streaming costs. A slow Redis makes flushes rarer and bigger by itself.

A frame that was sent is kept until Redis has answered and is sent again, unchanged, if the answer was lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from relay.broker import rq_records, scripts
from relay.broker.connections import Link
from relay.broker.keys import Keys
from relay.broker.leases import Lease
from relay.broker.queue import Limits
from relay.broker.retention import Retention
from relay.broker.rq_records import RqNames
from relay.broker.usage_stream import Record
from relay.core.frame import BODY, END, EVENTS, HEAD, encode
from relay.core.job import CANCELLED, DONE
from relay.core.translate.spelling import encode as encode_json

# A job whose frames Redis does not take for so long stops reading its provider; the longest answer seen is below 1 MiB.
BUFFER_BYTES = 8 << 20

# A frame of a body that is no stream. Redis drops a subscriber 32 MiB behind; small frames keep a reader's steps small.
BODY_FRAME_BYTES = 256 << 10


class Outlet:
    """The way out of one job: ``head``, then ``events``, then ``Publisher.finish``.

    ``lost``: the code with which Redis refused a frame (``scripts.NOT_OURS``, ``UNKNOWN``, ``HOLE``); it takes no more.
    ``refused`` is called when that happens, and when the job is to be cancelled.
    """

    __slots__ = (
        *("_count", "_draft", "_drained", "_events", "_head", "_publisher"),
        *("buffered", "closing", "dirty", "flying", "key", "lease", "lost", "refused", "sequence"),
    )

    def __init__(self, publisher: Publisher, key: str, lease: Lease, refused: Callable[[int], None]) -> None:
        self._publisher = publisher
        self._head: bytes | None = None
        self._events: list[bytes] = []  # ready, and not yet in a flush
        self._count = 0
        self._draft = ""
        self._drained: asyncio.Future[None] | None = None
        self.key = key
        self.lease = lease
        self.refused = refused
        self.sequence = 0  # of the last event handed to a flush
        self.buffered = 0  # bytes of the ready events
        self.closing = False  # waits for a flush to end it; what is ready goes with the end, never before it
        self.dirty = False
        self.flying = False  # a flush carries frames of it
        self.lost = 0

    def head(self, status: int, headers: list[tuple[str, str]]) -> None:
        """Upstream's status and the headers that travel back; they go out before any event."""
        self._head = orjson.dumps({"status": status, "headers": headers})
        self._publisher.mark(self)

    def events(self, data: bytes, count: int) -> None:
        """``count`` finished SSE events."""
        self._events.append(data)
        self._count += count
        self.buffered += len(data)
        if not self.dirty:
            self._publisher.mark(self)

    def usage(self, draft: Record) -> None:
        """What a worker that takes over should record, should we die. Goes with the next events."""
        self._draft = orjson.dumps([str(value) for value in draft]).decode()

    async def room(self) -> None:
        """Wait until Redis has taken what is ready, if that is much."""
        while self.buffered > BUFFER_BYTES and not self.lost:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    # -- for the publisher ---------------------------------------------------------------------------------------

    def take(self) -> list[tuple[str | int, int, bytes]]:
        """The ready frames, each with the sequence before it ('' for the head) and after it."""
        frames: list[tuple[str | int, int, bytes]] = []
        if self._head is not None:
            frames.append(("", 0, encode(self.lease.generation, 0, 0, HEAD, self._head)))
            self._head = None
        if self._count:
            data = self._events[0] if len(self._events) == 1 else b"".join(self._events)
            frames.append(self.number(EVENTS, data, self._count))
            self.discard()
        return frames

    def number(self, kind: str, data: bytes, events: int, step: int | None = None) -> tuple[int, int, bytes]:
        """A frame with the next ``step`` numbers (as many as it has events, unless given)."""
        before, self.sequence = self.sequence, self.sequence + (events if step is None else step)
        return before, self.sequence, encode(self.lease.generation, self.sequence, events, kind, data)

    def take_draft(self) -> str:
        draft, self._draft = self._draft, ""
        return draft

    def discard(self) -> None:
        """Nothing is ready any more."""
        self._events, self._count, self.buffered = [], 0, 0
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():  # who waited may have been stopped meanwhile
            drained.set_result(None)


@dataclass(frozen=True, slots=True)
class End:
    """How a job ends: its state, and the error where there is one.

    ``shown``: the provider's own bytes tell the client already, so readers add nothing. ``usage``: in the shape of the
    surface, where the stream itself does not tell it and the result has to.
    """

    state: str
    code: str = ""
    message: str = ""
    status: int | None = None
    shown: bool = True
    param: str | None = None  # what in the request was wrong
    was_retried: bool = False  # before it came to this
    usage: Mapping[str, Any] | None = None

    def encode(self) -> bytes:
        told: dict[str, Any] = {"state": self.state}
        if self.usage:
            told["usage"] = self.usage
        if not self.shown:
            error: dict[str, Any] = {"code": self.code, "message": self.message}
            error |= {"param": self.param} if self.param else {}
            told["error"] = error | ({"was_retried": True} if self.was_retried else {})
        return encode_json(told)  # which takes a provider's integers of any size


class Publisher:
    """All of one worker's outlets. ``flushes``, ``frames`` and ``fenced`` count what went out and what was refused."""

    def __init__(self, link: Link, keys: Keys, limits: Limits, worker: str, flush_s: float) -> None:
        self._link = link
        self._keys = keys
        self._limits = limits
        self._worker = worker
        self._rq = RqNames(limits.queue)
        self._flush_s = flush_s
        self._log_ttl_ms = int((limits.pending_ttl_s + limits.log_ttl_s) * 1000)
        self._dirty: list[Outlet] = []
        self._timer: asyncio.Handle | None = None
        self._flying: asyncio.Task[None] | None = None
        self._next_flush = 0.0
        self.flushes = 0
        self.frames = 0
        self.fenced = 0

    def open(self, lease: Lease, refused: Callable[[int], None]) -> Outlet:
        return Outlet(self, self._keys.job(lease.job.id), lease, refused)

    # -- flushing ------------------------------------------------------------------------------------------------

    def mark(self, outlet: Outlet) -> None:
        """This outlet has something ready."""
        if not outlet.dirty:
            outlet.dirty = True
            self._dirty.append(outlet)
        if self._flying is None and self._timer is None:
            self._schedule()

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        wait_s = self._next_flush - loop.time()
        self._timer = loop.call_later(wait_s, self._start) if wait_s > 0 else loop.call_soon(self._start)

    def _start(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        self._next_flush = loop.time() + self._flush_s
        self._flying = loop.create_task(self._flush())

    async def _flush(self) -> None:
        try:
            outlets, keys, args = self._collect()
            if outlets:
                codes = await self._link.insist(scripts.APPEND, keys, args)
                self.flushes += 1
                self.frames += len(outlets)
                for outlet, code in zip(outlets, codes, strict=True):
                    outlet.flying = False
                    if code:
                        self._refuse(outlet, code)
        finally:
            self._flying = None
            if self._dirty:
                self._schedule()

    def _collect(self) -> tuple[list[Outlet], list[str], list[Any]]:
        """The outlet of each frame that is ready, and the call that sends them."""
        dirty, self._dirty = self._dirty, []
        outlets: list[Outlet] = []
        args: list[Any] = [self._log_ttl_ms]
        drafts: list[Any] = []
        for outlet in dirty:
            outlet.dirty = False
            if outlet.lost or outlet.closing:
                continue
            lease = outlet.lease
            for before, after, frame in outlet.take():
                outlets.append(outlet)
                args += (lease.id, before, after, f"{lease.generation}-{after}", frame)
                outlet.flying = True
            if outlet.flying and (draft := outlet.take_draft()):
                drafts += (len(outlets), draft)
        return outlets, [outlet.key for outlet in outlets], args + drafts

    def _refuse(self, outlet: Outlet, code: int) -> None:
        if code != scripts.CANCEL_WANTED and not outlet.lost:
            self.fenced += code == scripts.NOT_OURS
            outlet.lost = code
            outlet.discard()
        outlet.refused(code)

    # -- the end -------------------------------------------------------------------------------------------------

    async def finish(
        self, outlet: Outlet, end: End, usage: Record, head: bytes | None = None, body: bytes = b""
    ) -> int:
        """End a job in one step with what it still has ready: 1 or 0 ended, else a code of ``scripts``.

        ``head`` and ``body`` are for an answer that is no stream: it goes out whole, with the end. ``usage`` is empty
        when the provider was not called.
        """
        outlet.closing = True
        while outlet.flying and self._flying is not None:
            await asyncio.shield(self._flying)  # what it carries comes first
        outlet.closing = False
        if outlet.lost:
            return outlet.lost
        before = outlet.sequence
        frames = outlet.take()
        if head is not None:
            frames.append(("", 0, encode(outlet.lease.generation, 0, 0, HEAD, head)))
        for at in range(0, len(body), BODY_FRAME_BYTES):
            frames.append(outlet.number(BODY, body[at : at + BODY_FRAME_BYTES], 1))
        frames.append(outlet.number(END, end.encode(), 0, step=1))
        last = [item for _, after, frame in frames for item in (after, frame)]
        lives = Retention.of(self._limits, outlet.lease.job, end.state, came_whole=head is not None)
        return int(await self._link.insist(*self._finish_call(outlet.lease, end, usage, lives, before, last)))

    def _finish_call(
        self, lease: Lease, end: End, usage: Record, lives: Retention, before: int, frames: list[Any]
    ) -> tuple[scripts.Script, list[str], list[Any]]:
        rq, limits, job_id, worker = self._rq, self._limits, lease.job.id, self._worker
        now, now_s = rq_records.timestamps()
        done = end.state == DONE
        result = rq_records.SUCCESSFUL if done else rq_records.STOPPED if end.state == CANCELLED else rq_records.FAILED
        status = "finished" if done else "stopped" if end.state == CANCELLED else "failed"
        names = [
            *(self._keys.job(job_id), rq.job(job_id), self._keys.leases, self._keys.usage),
            *(rq.worker(worker), rq.worker_executions(worker), rq.execution(job_id, lease.id)),
            *(rq.executions(job_id), rq.started, rq.finished if done else rq.failed, rq.results(job_id)),
            *(self._keys.due_results, rq.queue),
        ]
        error = "" if done else rq_records.error_text(f"{end.code}: {end.message}")
        args: list[Any] = [
            *(lease.id, end.state, before, lives.log_ms, lives.job_s, lives.body_s),
            *(end.code, end.message, "" if end.status is None else end.status),
            *(status, result, now, now_s, limits.usage_maxlen, error, lives.due_ms),
            *(len(usage), *usage, *frames),
        ]
        return scripts.FINISH, names, args
