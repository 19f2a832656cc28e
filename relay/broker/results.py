"""The whole answer of a job that has ended, whether it came whole or as a stream.

An answer that came whole is its log, which lives as long as the job where somebody may come back for it
(``retention``). One that streamed is put together from its log when it is first asked for, and kept; for jobs that are
finished without a reader a worker does that before their logs expire (``Keeper``). So nothing is parsed while it
streams, and a day's results cost a day of answers, not of events: about a tenth.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, NamedTuple

import orjson

from relay.broker import scripts
from relay.broker.asking import PIECE_BYTES, Asking
from relay.broker.connections import Link
from relay.broker.keys import Keys
from relay.broker.queue import JobStatus, Limits, fields
from relay.core.assembly.assembly import Assembly
from relay.core.errors import Gone, RelayError, Unavailable, UpstreamProtocolError
from relay.core.frame import BODY, END, EVENTS, HEAD, Frame, decode
from relay.core.job import DONE, Job

log = logging.getLogger("relay.results")

# A page of a log: about so much, as far as the size of the frames before tells.
PAGE_BYTES, PAGE_FRAMES, FIRST_PAGE_FRAMES = 256 << 10, 64, 4

# A worker takes so many logs at a time, and has a minute before another one takes them too. An answer of 500 events
# takes some 2 ms.
DUE_AT_ONCE = 20
DUE_AGAIN_MS = 60_000

# The field of a result that has all but its body.
HEAD_FIELD = "head"


class Answer(NamedTuple):
    """As the provider would have given it unstreamed."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Results:
    """The results of one partition's jobs.  Raises ``Unavailable`` when Redis cannot be asked."""

    def __init__(self, link: Link, keys: Keys, limits: Limits) -> None:
        self._ask = Asking(link)
        self._keys = keys
        self._limits = limits

    async def of(self, job: Job) -> Answer:
        """The provider's whole answer to a job that has ended.

        Raises ``Gone`` when it is not kept any more, ``UpstreamProtocolError`` when it is no answer.
        """
        if stored := await self._stored(job):
            return stored
        read = Reading(job)
        async for frame in self._log(job):
            read.see(frame)
        answer = read.answer()
        if answer is None:
            raise UpstreamProtocolError("The provider's stream holds no answer.")
        if read.streamed:
            with suppress(Unavailable):  # it can be made again, as long as there is the log
                await self._store(job, answer)
        return answer

    async def refusal(self, job: Job) -> Answer | None:
        """The provider's own answer to a job that failed; None when there was none, or it is not kept any more."""
        read = Reading(job)
        with suppress(Gone):
            async for frame in self._log(job):
                if frame.kind == EVENTS:
                    return None
                read.see(frame)
        return read.answer()

    async def _stored(self, job: Job) -> Answer | None:
        key = self._keys.result(job.id)
        raw = await self._ask.execute("HGET", key, HEAD_FIELD)
        if raw is None:
            return None
        head = orjson.loads(raw)
        body = await self._ask.load(key, -(-head["bytes"] // PIECE_BYTES))
        if len(body) != head["bytes"]:
            return None
        return Answer(head["status"], _pairs(head["headers"]), body)

    async def _store(self, job: Job, answer: Answer) -> None:
        """The head comes last: with it the rest is complete."""
        key, ttl_s = self._keys.result(job.id), int(self._limits.result_ttl_s)
        await self._ask.store(key, answer.body, ttl_s)
        head = {"status": answer.status, "headers": answer.headers, "bytes": len(answer.body)}
        await self._ask.execute("HSET", key, HEAD_FIELD, orjson.dumps(head))

    async def _log(self, job: Job) -> AsyncIterator[Frame]:
        """Every frame of the job's log.  Raises ``Gone`` when it has expired."""
        key, after, frames = self._keys.log(job.id), "-", FIRST_PAGE_FRAMES
        page = await self._ask.execute("XRANGE", key, after, "+", "COUNT", frames)
        if not page:
            raise Gone("The result of this job has expired.")
        while page:
            size = 0
            for _, entry in page:
                size += len(entry[1])
                yield decode(entry[1])
            frames = max(1, min(PAGE_FRAMES, PAGE_BYTES * len(page) // size))
            after = f"({page[-1][0].decode()}"
            page = await self._ask.execute("XRANGE", key, after, "+", "COUNT", frames)


class Reading:
    """One pass through a log, frame by frame; the ledger's ``contents`` makes one too."""

    def __init__(self, job: Job) -> None:
        self._dialect = job.surface
        self._status = 0
        self._headers: list[tuple[str, str]] = []
        self._body: list[bytes] = []
        self._assembly = Assembly(job.surface)
        self._usage: dict[str, Any] | None = None  # that the stream itself does not tell
        self.streamed = False

    def see(self, frame: Frame) -> None:
        if frame.kind == HEAD:  # a second one is that of another attempt
            head = orjson.loads(frame.data)
            self._status, self._headers = head["status"], _pairs(head["headers"])
            self._body.clear()
            self._assembly, self.streamed = Assembly(self._dialect), False
        elif frame.kind == BODY:
            self._body.append(frame.data)
        elif frame.kind == EVENTS:
            self.streamed = True
            self._assembly.feed(frame.data)
        elif frame.kind == END:
            self._usage = orjson.loads(frame.data).get("usage")

    def answer(self) -> Answer | None:
        """None if there is none."""
        if not self.streamed:
            return Answer(self._status, self._headers, b"".join(self._body)) if self._body else None
        body = self._assembly.body()
        if body is None:
            return None
        if self._usage and not orjson.loads(body).get("usage"):
            body = orjson.dumps(orjson.loads(body) | {"usage": self._usage})
        headers = [(name, value) for name, value in self._headers if name.lower() != "content-type"]
        return Answer(self._status, [*headers, ("content-type", "application/json")], body)


class Keeper:
    """Puts together, before their logs expire, the answers that streamed and that nobody has asked for yet."""

    def __init__(self, link: Link, keys: Keys, limits: Limits) -> None:
        self._ask = Asking(link)
        self._keys = keys
        self._results = Results(link, keys, limits)

    async def keep(self) -> int:
        """Settle what is due; how many there were.  Call it again when these were ``DUE_AT_ONCE``."""
        due = self._keys.due_results
        ids = [item.decode() for item in await self._ask.run(scripts.DUE_RESULTS, [due], [DUE_AT_ONCE, DUE_AGAIN_MS])]
        for job_id in ids:
            stored = fields(await self._ask.execute("HGETALL", self._keys.job(job_id)))
            if stored.get("state") == DONE:
                try:
                    await self._results.of(JobStatus.decode(stored).job)
                except Unavailable:
                    continue  # handed out again
                except RelayError as error:
                    log.warning("job %s: no result is kept: %s", job_id, error)
            await self._ask.execute("ZREM", due, job_id)
        return len(ids)


def _pairs(headers: list[list[str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers]
