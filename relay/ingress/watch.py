"""Waiting for a job's frames without losing sight of the client.

A wait ends with frames, with silence, because the client left, or because this process must go. It costs one lazily
moved timer a stream and nothing a frame: ``asyncio.timeout`` around every read would be a timer for every event. The
connection itself says when the client is gone; a task that waits for that would be 1 KB of memory a stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from relay.broker.subscriber import Reader
from relay.core.errors import Interrupted, Unavailable
from relay.core.frame import Frame
from relay.ingress.exchange import ClientGone, Exchange


class Watch:
    """One client waiting for one reader's frames.  Made in the task that reads; ``close`` it in the end.

    ``quiet_s``: after so long without frames ``read`` answers an empty list; None: never. ``stopped``: the process is
    leaving, and ``read`` raises ``Interrupted``.
    """

    __slots__ = (
        *("_connection", "_loop", "_nudged", "_others", "_quiet_s", "_reader", "_since", "_task", "_timer", "_waiting"),
        *("_why", "stopped"),
    )

    def __init__(self, reader: Reader, exchange: Exchange, others: set[Watch], quiet_s: float | None = None) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self._loop, self._task, self._reader, self._others = loop, task, reader, others
        self._quiet_s = quiet_s
        self._since = loop.time()
        self._timer = None if quiet_s is None else loop.call_later(quiet_s, self._look)
        self._waiting = self._nudged = self.stopped = False
        self._why: Exception | None = None  # the wait is over for good
        others.add(self)
        self._connection = exchange.connection
        self._connection.on_lost = self._gone
        if self._connection.is_lost:
            self._gone()

    async def read(self) -> list[Frame]:
        """The next frames; none after a silence.  Raises ``ClientGone``, and what the reader raises."""
        if self._why is not None:
            raise self._why
        self._waiting = True
        try:
            frames = await self._reader.read()
        except asyncio.CancelledError:
            if not self._nudged or self._task.uncancel() > 0:
                raise
            frames = []
        except Unavailable:
            raise self._why or Unavailable("The job's reader was closed.") from None
        finally:
            self._waiting = self._nudged = False
        self._since = self._loop.time()
        return frames

    def expect(self, quiet_s: float) -> None:
        """Go on with another measure of silence."""
        if self._quiet_s is None or quiet_s < self._quiet_s:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(quiet_s, self._look)
        self._quiet_s = quiet_s

    def stop(self) -> None:
        """End the wait because the process is leaving."""
        self.stopped = True
        self._over(Interrupted("The relay is shutting down and could not finish this answer."))

    def close(self) -> None:
        self._others.discard(self)
        self._reader.close()
        if self._timer is not None:
            self._timer.cancel()
        self._connection.on_lost = None

    def _look(self) -> None:
        """Is it quiet?  Frames only note when they came; the timer is moved here, once per ``quiet_s``."""
        assert self._quiet_s is not None
        left_s = self._since + self._quiet_s - self._loop.time()
        quiet = left_s <= 0.001
        if quiet and self._waiting and not self._nudged:
            self._nudged = True
            self._task.cancel()
        self._timer = self._loop.call_later(self._quiet_s if quiet else left_s, self._look)

    def _gone(self) -> None:
        self._over(ClientGone())

    def _over(self, why: Exception) -> None:
        if self._why is None:
            self._why = why
            self._reader.close()  # which ends a read that waits


def stop_all(watches: Iterable[Watch]) -> None:
    for watch in list(watches):
        watch.stop()
