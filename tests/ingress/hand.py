"""A worker led by hand: it takes real jobs from the real queue and sends what the test tells it to."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from relay.broker.leases import Lease
from relay.broker.publisher import End
from relay.broker.scripts import CANCEL_WANTED
from relay.core.frame import Cursor
from relay.core.job import DONE, FAILED
from tests.broker.system import Broker, Worker, event, flushed, record_of
from tests.support.wait import wait_until

Headers = Sequence[tuple[str, str]]

STREAM: Headers = (("content-type", "text/event-stream; charset=utf-8"), ("request-id", "req_up_1"))
JSON: Headers = (("content-type", "application/json"), ("request-id", "req_up_1"))


class HandWorker:
    """Takes jobs one by one."""

    def __init__(self, broker: Broker) -> None:
        self._worker = broker.worker()

    async def take(self) -> Work:
        """The next job, as soon as there is one; its provider may have been called."""
        await self._worker.register()
        [lease] = await wait_until(lambda: self._worker.leases.claim([], 1), what="a job is in the queue")
        await self._worker.dispatch(lease)
        return Work(self._worker, lease)

    async def readers(self, work: Work) -> int:
        """How many listen to this job."""
        [count] = await self._worker.leases.readers([work.lease])
        return count


class Work:
    """One job in our hands."""

    def __init__(self, worker: Worker, lease: Lease) -> None:
        self.job = lease.job
        self.lease = lease
        self._worker = worker
        self._outlet = worker.outlet(lease)

    @property
    def body(self) -> bytes:
        return self.lease.inline

    @property
    def cancel_wanted(self) -> bool:
        """Whether Redis said so with what we sent last."""
        return CANCEL_WANTED in self._worker.refusals.codes

    def cursor(self, number: int) -> str:
        """The id of an event."""
        return str(Cursor(self.lease.generation, number))

    async def head(self, status: int = 200, headers: Headers = STREAM) -> None:
        self._outlet.head(status, list(headers))
        await flushed(self._outlet)

    async def events(self, *events: bytes) -> None:
        """Finished events, in one frame."""
        self._outlet.events(b"".join(events), len(events))
        await flushed(self._outlet)

    async def count_to(self, last: int) -> None:
        """Events with the numbers up to ``last``, each in a frame of its own."""
        for number in range(self._outlet.sequence + 1, last + 1):
            await self.events(event(number))

    async def end(self) -> None:
        """The provider's bytes told the story."""
        await self._finish(End(DONE, status=200))

    async def fail(self, code: str, message: str) -> None:
        """With an error that readers have to be shown."""
        await self._finish(End(FAILED, code, message, shown=False))

    async def answer(self, status: int = 200, body: bytes = b"{}", headers: Headers = JSON) -> None:
        """An answer that is no stream."""
        head = orjson.dumps({"status": status, "headers": list(headers)})
        state = DONE if status < 400 else FAILED
        await self._finish(End(state, "" if state == DONE else "upstream_error", status=status), head, body)

    async def _finish(self, end: End, head: bytes | None = None, body: bytes = b"") -> None:
        assert await self._worker.publisher.finish(self._outlet, end, record_of(self.lease), head, body) == 1
