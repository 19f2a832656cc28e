"""The content of jobs that have ended, for the ledger: what the client sent, byte for byte, and what it was answered.

Read only for jobs whose clients asked to have it kept. ``finish.lua`` leaves the request of such a job for as long as
its events, so that the ledger finds it; ``let_go`` takes it away when that has been done. Knows nothing of how long
content is kept elsewhere.

Synchronous, as ``usage_reader`` is, for the same caller.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from relay.broker.asking import PIECE_BYTES
from relay.broker.connections import blocking_client
from relay.broker.keys import Keys
from relay.broker.queue import JobStatus, fields
from relay.broker.results import HEAD_FIELD, Answer, Reading
from relay.core.errors import Gone, UpstreamProtocolError
from relay.core.frame import Frame, decode
from relay.core.job import CANCELLED, FAILED
from relay.core.translate.errors_between import kept_error

log = logging.getLogger("relay.contents")

# A frame of an answer that came whole has 256 KiB.
_PAGE_FRAMES = 32


class Body(NamedTuple):
    """So many bytes; ``data`` is None where they are more than was asked for."""

    size: int
    data: bytes | None


class Content(NamedTuple):
    """``request`` and ``response`` are None where Redis has them no more, which makes it no ``whole``.

    A job that was cancelled before its provider said anything was answered nothing; it is whole nevertheless.
    """

    tenant: str
    request: Body | None
    status: int | None
    response: Body | None
    whole: bool

    @classmethod
    def nothing(cls, tenant: str) -> Content:
        return cls(tenant, None, None, None, whole=False)


class ContentReader:
    """Every method raises ``RedisError``."""

    def __init__(self, url: str, keys: Keys, limit_bytes: int) -> None:
        self._client = blocking_client(url)
        self._keys = keys
        self._limit_bytes = limit_bytes

    def read(self, job_id: str) -> Content | None:
        """What there is of it; None while the job has not ended.  Raises ``Gone``."""
        stored: Any = self._client.hgetall(self._keys.job(job_id))
        if not stored:
            raise Gone("Redis does not know this job any more.")
        try:
            status = JobStatus.decode(fields([item for pair in stored.items() for item in pair]))
            return self._of(status) if status.ended else None
        except (
            AttributeError,
            KeyError,
            TypeError,
            ValueError,
        ) as error:  # somebody spoilt the record of the job, or its log
            log.warning("job %s: what Redis has of it cannot be read: %s", job_id, type(error).__name__)
            raise Gone("What Redis has of this job cannot be read.") from error

    def let_go(self, job_id: str) -> None:
        """Its request is kept elsewhere now; that of a failed job stays, for its replay."""
        if self._client.hget(self._keys.job(job_id), "state") != FAILED.encode():
            self._client.unlink(self._keys.body(job_id))

    def close(self) -> None:
        self._client.close()

    def _of(self, status: JobStatus) -> Content:
        job = status.job
        request = self._request(status)
        try:
            answer = self._answer(status)
        except (Gone, UpstreamProtocolError):
            return Content(job.tenant, request, None, None, whole=False)
        if answer is None:
            return Content(job.tenant, request, None, None, whole=request is not None)
        response = Body(len(answer.body), answer.body if len(answer.body) <= self._limit_bytes else None)
        return Content(job.tenant, request, answer.status, response, whole=request is not None)

    def _request(self, status: JobStatus) -> Body | None:
        job = status.job
        if job.body_bytes > self._limit_bytes:
            return Body(job.body_bytes, None)
        data = self._pieces(self._keys.body(job.id), max(1, job.body_pieces))
        return Body(len(data), data) if len(data) == job.body_bytes else None

    def _answer(self, status: JobStatus) -> Answer | None:
        """The provider's, as far as it came; else the error that the client got.  Raises ``Gone``."""
        job = status.job
        reading, seen = Reading(job), False
        for frame in self._frames(job.id):
            reading.see(frame)
            seen = True
        answer = reading.answer() if seen else self._put_together(job.id)
        if answer or status.state == CANCELLED:
            return answer
        error = kept_error(job.surface, status.error or "internal", status.message or "", status.http_status, job.id)
        return Answer(error.status, [], error.body)

    def _put_together(self, job_id: str) -> Answer:
        """What is kept of an answer that streamed when its log has expired."""
        key = self._keys.result(job_id)
        raw = self._client.hget(key, HEAD_FIELD)
        head = orjson.loads(raw) if raw else {"bytes": -1}
        body = self._pieces(key, -(-head["bytes"] // PIECE_BYTES))
        if len(body) != head["bytes"]:
            raise Gone("The events of this job have expired.")
        return Answer(head["status"], [], body)

    def _pieces(self, key: str, count: int) -> bytes:
        pieces: list[Any] = [self._client.hget(key, str(number)) for number in range(count)]
        return b"".join(filter(None, pieces))

    def _frames(self, job_id: str) -> Iterator[Frame]:
        key, after = self._keys.log(job_id), "-"
        while page := self._page(key, after):
            yield from (decode(entry[b"f"]) for _, entry in page)
            after = f"({page[-1][0].decode()}"

    def _page(self, key: str, after: str) -> Any:
        return self._client.xrange(key, after, "+", count=_PAGE_FRAMES)
