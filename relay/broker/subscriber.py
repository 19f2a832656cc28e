"""Frames in: live from pub/sub, from the log where live has a hole, and each exactly once.

One pub/sub connection serves all readers of a process. A reader subscribes first, waits for the acknowledgement, then
reads the log behind its cursor, then goes on live; what it saw before is dropped, and any hole sends it back to the
log. Pub/sub promises nothing, so three more things send readers back: a lost connection, a queue that ran over, and a
look at the job's newest number for every reader that heard nothing for a while (a lost *last* message shows no hole).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from typing import Any

from relay.broker.connections import Address, ConnectionError, Link, RedisError, Wire
from relay.broker.keys import Keys
from relay.core.errors import Gone, Interrupted, JobLost, Unavailable
from relay.core.frame import END, EVENTS, HEAD, START, Cursor, Frame, after, decode
from relay.core.job import ENDED

# A reader that is further behind its job than this reads the log instead, a page at a time: memory stays flat and
# nobody is disconnected. An event is some 200 bytes, so this is a slow reader, not a busy moment.
QUEUE_BYTES = 256 << 10
# A page of the log: about QUEUE_BYTES, as far as the size of the frames before tells, and at first a careful few.
PAGE_FRAMES, FIRST_PAGE_FRAMES = 64, 4

# After this silence a reader's job is looked at. Jittered, so that a thousand readers do not ask at once.
SILENCE_S = 1.0
# How long a job may be unknown to Redis before it is given up: longer than a restart or a failover takes.
LOST_AFTER_S = 8.0
# A connection that does not acknowledge a subscription for so long is deaf, and given up.
ACK_S = 5.0
CHECK_AT_ONCE = 200


class Reader:
    """One reader of one job.  ``read`` gives frames in order, without hole or repeat; after an END there are none."""

    __slots__ = (
        "_bytes",
        "_closed",
        "_cursor",
        "_from_log",
        "_missing_since",
        "_page_frames",
        "_queue",
        "_shown",
        "_subscriber",
        "_waiter",
        "heard",
        "job_id",
    )

    def __init__(self, subscriber: Subscriber, job_id: str, cursor: Cursor, from_log: bool) -> None:
        self._subscriber = subscriber
        self.job_id = job_id
        self._cursor = cursor
        self._shown = cursor.sequence > 0  # events were delivered: another generation must not follow them
        self._from_log = from_log
        self._page_frames = FIRST_PAGE_FRAMES
        self._queue: list[Frame] = []
        self._bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False
        self._missing_since: float | None = None
        self.heard = asyncio.get_running_loop().time()

    @property
    def cursor(self) -> Cursor:
        return self._cursor

    async def read(self) -> list[Frame]:
        """The next frames, at least one.

        Raises ``Interrupted`` when the job was begun anew after output was shown, ``JobLost`` when Redis forgot it,
        ``Gone`` when the log has expired, ``Unavailable`` after ``close``.
        """
        while True:
            if self._closed:
                raise Unavailable("This reader is closed.")
            if self._from_log:
                self._from_log = False
                try:
                    frames = await self._read_log()
                except BaseException:  # a cancelled read is no read: the log is still to be looked at
                    self._from_log = True
                    raise
                if frames:
                    self._from_log = True
                    return frames
                continue
            if self._queue:
                waiting, self._queue, self._bytes = self._queue, [], 0
                frames, hole = self._accept(waiting)
                if hole:
                    self._subscriber.gap_rereads += 1
                    self._from_log = True
                if frames:
                    return frames
                continue
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    async def _read_log(self) -> list[Frame]:
        page = await self._subscriber.page(self.job_id, self._cursor, self._page_frames)
        if not page and (end := await self._subscriber.end_of(self.job_id)):
            # An end at or before the cursor: a failover forgot what this reader was shown. It is an end all the same.
            if end.cursor <= self._cursor:
                return [end]
            page = await self._subscriber.page(self.job_id, self._cursor, self._page_frames)
        if size := sum(len(frame.data) for frame in page):
            self._page_frames = max(1, min(PAGE_FRAMES, QUEUE_BYTES * len(page) // size))
        frames, hole = self._accept(page)
        if hole and not frames:
            raise JobLost("Redis lost part of this answer.")
        return frames

    def close(self) -> None:
        """Stop listening; a ``read`` under way ends with ``Unavailable``."""
        if not self._closed:
            self._closed = True
            self._queue.clear()
            self._subscriber.leave(self)
            self._wake()

    # -- fed by the subscriber -----------------------------------------------------------------------------------

    def push(self, frame: Frame, size: int) -> None:
        if self._bytes + size > QUEUE_BYTES and self._queue:
            self.reread()
            return
        self._queue.append(frame)
        self._bytes += size
        if self._waiter is not None:
            self._wake()

    def reread(self) -> None:
        """Go back to the log; what is queued is there as well."""
        self._queue.clear()
        self._bytes = 0
        self._from_log = True
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _accept(self, frames: Iterable[Frame]) -> tuple[list[Frame], bool]:
        """The part of ``frames`` that comes next, and whether a hole ended it."""
        accepted: list[Frame] = []
        for frame in frames:
            generation, sequence = self._cursor
            if frame.generation != generation or frame.kind != EVENTS or frame.sequence - frame.events != sequence:
                # Anything but the very next events, which is what nearly every frame brings.
                fitting, hole = self._fit(frame)
                if hole:
                    return accepted, True
                if fitting is None:
                    continue
                frame = fitting
            accepted.append(frame)
            self._cursor = frame.cursor
            self._shown = self._shown or frame.events > 0
        return accepted, False

    def _fit(self, frame: Frame) -> tuple[Frame | None, bool]:
        """What of this frame is new to the reader, and whether something is missing before it."""
        generation, sequence = self._cursor
        if frame.kind == HEAD and sequence == 0:
            # The head of the first attempt, or of one that follows an attempt which showed nothing.
            return (frame if frame.cursor > self._cursor else None), False
        fitting = after(frame, self._cursor)
        if fitting is None:
            # An end that lies behind the reader: a failover forgot what it was shown. The log tells.
            return None, frame.kind == END
        if self._shown and frame.generation != generation:
            raise Interrupted("The job was begun anew after part of an answer had been shown.")
        return fitting, fitting.follows > (sequence if frame.generation == generation else 0)

    def verdict(self, newest: Cursor | None, now: float) -> None:
        """What the tail check found: the job's newest number; None: no such job."""
        if newest is None:
            if self._missing_since is None:
                self._missing_since = now
            elif now - self._missing_since > self._subscriber.lost_after_s:
                self._fail(JobLost("Redis lost this job."))
            return
        self._missing_since = None
        if newest.sequence > 0 and newest > self._cursor and not self._from_log:
            self._subscriber.tail_rereads += 1
            self.reread()

    def _fail(self, error: Exception) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)


class Subscriber(Link):
    """The readers of one process, on one pub/sub connection.  ``link`` is for reading logs."""

    def __init__(
        self,
        address: Address,
        link: Link,
        keys: Keys,
        name: str = "relay-subscriber",
        *,
        silence_s: float = SILENCE_S,
        lost_after_s: float = LOST_AFTER_S,
        ack_s: float = ACK_S,
    ) -> None:
        super().__init__(address, name)
        self.lost_after_s = lost_after_s
        self._silence_s = silence_s
        self._ack_s = ack_s
        self._link = link
        self._keys = keys
        self._readers: dict[bytes, list[Reader]] = {}
        self._acks: dict[bytes, asyncio.Future[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._revive: asyncio.Event = asyncio.Event()
        self.gap_rereads = 0
        self.tail_rereads = 0
        self.resubscribes = 0

    @property
    def open_readers(self) -> int:
        return sum(map(len, self._readers.values()))

    async def start(self) -> None:
        self._tasks = [asyncio.create_task(self._check_tails()), asyncio.create_task(self._keep_subscribed())]

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        super().close()

    async def open(self, job_id: str, cursor: Cursor = START, *, fresh: bool = False) -> Reader:
        """A reader behind ``cursor``; its subscription is acknowledged.  ``fresh``: the job is about to be submitted.

        Raises ``Unavailable`` when Redis cannot be reached.
        """
        channel = self._keys.live(job_id).encode()
        reader = Reader(self, job_id, cursor, from_log=not fresh)
        self._readers.setdefault(channel, []).append(reader)
        try:
            await self._subscribe(channel)
        except (RedisError, TimeoutError) as error:
            reader.close()
            raise Unavailable("Redis cannot be reached.", retry_after_s=2) from error
        except BaseException:
            reader.close()
            raise
        return reader

    def leave(self, reader: Reader) -> None:
        channel = self._keys.live(reader.job_id).encode()
        readers = self._readers.get(channel)
        if readers is None or reader not in readers:
            return
        readers.remove(reader)
        if not readers:
            del self._readers[channel]
            self._acks.pop(channel, None)
            if self.wire is not None:
                self.wire.write("UNSUBSCRIBE", channel)

    async def page(self, job_id: str, cursor: Cursor, frames: int) -> list[Frame]:
        """The next ``frames`` of a job's log behind ``cursor``, the frame it stands in among them."""
        entries = await self._ask("XRANGE", self._keys.log(job_id), f"({cursor}", "+", "COUNT", frames)
        return [decode(fields[1]) for _, fields in entries]

    async def end_of(self, job_id: str) -> Frame | None:
        """The END of a job that has ended, None while it runs.  Raises ``Gone`` when its log has expired."""
        state = await self._ask("HGET", self._keys.job(job_id), "state")
        if state is None or state.decode() not in ENDED:
            return None
        newest = await self._ask("XREVRANGE", self._keys.log(job_id), "+", "-", "COUNT", 1)
        if not newest:
            raise Gone("The events of this job have expired.")
        return decode(newest[0][1][1])

    async def _ask(self, *command: Any) -> Any:
        """A question to Redis, asked again while it cannot be reached: the reader's client keeps its connection."""
        while True:
            try:
                return await self._link.execute(*command)
            except ConnectionError:
                await asyncio.sleep(random.uniform(0.05, 0.3))

    # -- pub/sub -------------------------------------------------------------------------------------------------

    async def _subscribe(self, channel: bytes) -> None:
        wire = self.wire or await self.connect()
        ack = self._acks.get(channel)
        if ack is None:
            ack = self._acks[channel] = asyncio.get_running_loop().create_future()
            wire.write("SUBSCRIBE", channel)
        if not ack.done():
            await self._acknowledged(wire, [ack])

    async def _acknowledged(self, wire: Wire, acks: Iterable[asyncio.Future[None]]) -> None:
        try:
            async with asyncio.timeout(self._ack_s):
                for ack in acks:
                    await asyncio.shield(ack)
        except TimeoutError:
            wire.drop("a subscription was not acknowledged in time")
            raise

    def receive(self, wire: Wire, reply: Any) -> None:
        if type(reply) is list and len(reply) == 3:
            kind, channel, payload = reply
            if kind == b"message":
                readers = self._readers.get(channel)
                if readers:
                    try:
                        frame = decode(payload)
                    except ValueError:
                        return  # anybody may publish; what is no frame of ours is not in the log either
                    size = len(payload)
                    heard = asyncio.get_running_loop().time()
                    for reader in readers:
                        reader.heard = heard
                        reader.push(frame, size)
                return
            if kind == b"subscribe":
                ack = self._acks.get(channel)
                if ack is not None and not ack.done():
                    ack.set_result(None)
                return
            if kind == b"unsubscribe":
                return
        wire.answer(reply)

    def dropped(self, wire: Wire) -> None:
        super().dropped(wire)
        acks, self._acks = self._acks, {}
        for ack in acks.values():
            if not ack.done():
                ack.set_exception(wire.lost or ConnectionError("connection lost"))
                ack.exception()
        self._revive.set()

    async def _keep_subscribed(self) -> None:
        """After a lost connection: subscribe again, then let every reader look into the log for what it missed."""
        while True:
            await self._revive.wait()
            self._revive.clear()
            if not self._readers or self._closed:
                continue
            try:
                wire = await self.connect()
                channels = [channel for channel in self._readers if channel not in self._acks]
                loop = asyncio.get_running_loop()
                acks = [self._acks.setdefault(channel, loop.create_future()) for channel in channels]
                for channel in channels:
                    wire.write("SUBSCRIBE", channel)
                await self._acknowledged(wire, acks)
            except (RedisError, TimeoutError):
                await asyncio.sleep(random.uniform(0.05, 0.3))
                self._revive.set()
                continue
            self.resubscribes += 1
            for reader in [reader for readers in self._readers.values() for reader in readers]:
                reader.reread()

    # -- the tail check ------------------------------------------------------------------------------------------

    async def _check_tails(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._silence_s * random.uniform(0.5, 1.0))
            now = loop.time()
            silent = [r for readers in self._readers.values() for r in readers if now - r.heard > self._silence_s]
            for at in range(0, len(silent), CHECK_AT_ONCE):
                await self._check(silent[at : at + CHECK_AT_ONCE])

    async def _check(self, readers: list[Reader]) -> None:
        try:
            asked = [
                self._link.execute("HMGET", self._keys.job(reader.job_id), "generation", "sequence")
                for reader in readers
            ]
            answers = await asyncio.gather(*asked)
        except RedisError:
            return
        now = asyncio.get_running_loop().time()
        for reader, answer in zip(readers, answers, strict=True):
            reader.heard = now
            reader.verdict(None if answer[0] is None else Cursor(int(answer[0]), int(answer[1])), now)
