"""One answer, fed with the finished events of a job's log; at any time its whole body so far, and a snapshot.

The ingress calls it: for the result of a job that streamed, and for a reader who comes late and wants what was said so
far before the live tail.  Each dialect has a module of its own behind it.  It reads no frames and keeps no cursor, and
it does not ask whether the answer is complete.
"""

from __future__ import annotations

from typing import Any, Protocol

from relay.core.assembly.chunks import Chunks
from relay.core.assembly.growing import written
from relay.core.assembly.messages import MessageEvents
from relay.core.errors import UpstreamProtocolError
from relay.core.job import Dialect
from relay.core.sse import Decoder, Event

# The longest answers sold have 128,000 tokens; as one chunk of about 300 bytes for each (OpenAI's, with padding) that
# is a stream of 38 MB.  Whatever is kept of an answer is smaller than its stream.
MAX_BYTES = 64 * 1024 * 1024


class Assembly:
    """One answer of one attempt: its log starts again with another generation, and so does its assembly.

    Every method may raise ``UpstreamProtocolError``, and nothing else: past ``limit_bytes`` of stream or another bound
    of the core (from then on all of them do, for a part must not pass for the whole), or where JSON is nested too deep
    to be written again.
    """

    def __init__(self, dialect: Dialect, *, limit_bytes: int = MAX_BYTES) -> None:
        self._events: _Events = _EVENTS[dialect]()
        self._decoder = Decoder()
        self._left = limit_bytes
        self._refusal: UpstreamProtocolError | None = None

    def feed(self, data: bytes) -> None:
        """Note finished events; they may be cut anywhere, as long as all of them come in order."""
        self._check()
        try:
            for event in self._decoder.feed(self._within_limit(data)):
                self._events.see(event)
        except UpstreamProtocolError as error:
            self._refusal = error
            raise

    def body(self) -> bytes | None:
        """The JSON that the provider would have answered unstreamed, as far as it came; None before it began."""
        self._check()
        answer = self._events.answer()
        return None if answer is None else written(answer)

    def snapshot(self) -> list[bytes]:
        """Finished events, one each, that stand for all events so far: what comes next can follow them unchanged."""
        self._check()
        return self._events.condensed()

    def _within_limit(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise UpstreamProtocolError("the answer is too large to be put together; its stream can be read as it is")
        return data

    def _check(self) -> None:
        if self._refusal is not None:
            raise UpstreamProtocolError(self._refusal.message)


class _Events(Protocol):
    """What a dialect makes of its events."""

    def see(self, event: Event) -> None: ...

    def answer(self) -> dict[str, Any] | None: ...

    def condensed(self) -> list[bytes]: ...


_EVENTS: dict[Dialect, type[MessageEvents] | type[Chunks]] = {"anthropic": MessageEvents, "openai": Chunks}
