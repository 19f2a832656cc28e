"""One item of a batch: how it becomes a job, and how the job becomes a line of the results.

``BatchRunner`` calls it. An item that cannot be a job (nobody serves its model, its breakpoints are wrong) gets its
line at once, with the error a call of its own would have been answered with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from relay.broker.api_keys import ApiKey
from relay.broker.batch import Batch
from relay.broker.batches import is_big
from relay.broker.queue import JobStatus
from relay.core.batch import items
from relay.core.batch.items import Item
from relay.core.batch.lines import CANCELED, EXPIRED, Kind, Line, Outcome, line_of
from relay.core.errors import (
    ClientError,
    Expired,
    JobLost,
    NotFound,
    RelayError,
    TooManyRequests,
    Unavailable,
    body_of,
)
from relay.core.job import CANCELLED, DONE
from relay.core.translate.errors_between import kept_error
from relay.ingress.submission import Asked, Terms, plan
from relay.ingress.wiring import Ingress

# The names a provider's answer has its id under.
_REQUEST_ID = ("request-id", "x-request-id")


class BatchItems:
    """The items of the batches of one ingress."""

    def __init__(self, ingress: Ingress) -> None:
        self._ingress = ingress

    def job_id(self, batch: Batch, number: int) -> str:
        return items.job_id(self._ingress.settings.partition, batch.id, number)

    async def submit(self, batch: Batch, number: int, item: Item) -> Line | None:
        """Make a job of it; the line instead, where that cannot be.  Raises ``TooManyRequests``, ``Unavailable``."""
        job_id, ingress = self.job_id(batch, number), self._ingress
        headers = {name.encode(): value.encode("latin-1") for name, value in batch.headers.items()}
        asked = Asked(batch.surface, batch.endpoint, batch.query, headers, item.body)
        terms = Terms("finish", {"batch_id": batch.id, "custom_id": item.custom_id}, "low")
        try:
            job, _ = await plan(ingress, _key_of(batch), asked, terms)
        except ClientError as error:
            return self._told(batch, item.custom_id, job_id, error)
        job = replace(job, id=job_id, batch=f"{batch.id} {number}", log=batch.log, expires_at_ms=batch.expires_ms)
        if job.body_pieces and await self._is_job(job_id, batch.tenant):
            return None  # to store a body again would shorten its life
        try:
            await ingress.queue.submit(job, item.body)
        except ClientError as error:
            if isinstance(error, TooManyRequests):
                raise
            return self._told(batch, item.custom_id, job_id, error)
        return None

    async def line(self, batch: Batch, number: int, name: str) -> Line:
        """The result of an item whose job has ended, or is gone."""
        job_id = self.job_id(batch, number)
        try:
            status = await self._ingress.queue.status(job_id, batch.tenant)
        except NotFound:
            return self._told(batch, name, job_id, JobLost("Redis has lost the job of this item."))
        try:
            return line_of(batch.surface, name, job_id, await self._outcome(status))
        except Unavailable:
            raise
        except RelayError as error:
            return self._told(batch, name, job_id, error)

    async def let_go(self, batch: Batch, numbers: Sequence[int], lines: Sequence[Line]) -> None:
        """Once its line is kept, a job that went well need not be for as long as others are."""
        pairs = zip(numbers, lines, strict=True)
        done = [self.job_id(batch, number) for number, line in pairs if line.kind == "succeeded"]
        await self._ingress.batch_steps.let_go(done, keep_answers=bool(batch.log))

    async def forget_big(self, batch: Batch, submitted: Sequence[Item]) -> None:
        """The requests that were kept apart, now that their jobs have them."""
        big = [number for number, item in enumerate(submitted, batch.fed) if is_big(item)]
        if big:
            await self._ingress.batch_steps.drop_items(batch, big)

    async def _is_job(self, job_id: str, tenant: str) -> bool:
        try:
            await self._ingress.queue.status(job_id, tenant)
        except NotFound:
            return False
        return True

    async def _outcome(self, status: JobStatus) -> Outcome:
        job, results = status.job, self._ingress.results
        if status.state == CANCELLED:
            return CANCELED
        if status.error == Expired.code:
            return EXPIRED
        answer = await (results.of(job) if status.state == DONE else results.refusal(job))
        if answer is None:
            return _failure(status)
        kind: Kind = "succeeded" if status.state == DONE and answer.status < 400 else "errored"
        return Outcome(kind, answer.status, answer.body, _request_id(answer.headers))

    def _told(self, batch: Batch, name: str, job_id: str, error: RelayError) -> Line:
        outcome = Outcome("errored", error.status, body_of(error, batch.surface, job_id))
        return line_of(batch.surface, name, job_id, outcome)


def _failure(status: JobStatus) -> Outcome:
    job = status.job
    code, message = status.error or "internal", status.message or ""
    return Outcome("errored", *kept_error(job.surface, code, message, status.http_status, job.id))


def _request_id(headers: Iterable[tuple[str, str]]) -> str:
    return next((value for name, value in headers if name.lower() in _REQUEST_ID), "")


def _key_of(batch: Batch) -> ApiKey:
    """Whose batch it is: what of the key counts for a job. It may be revoked by now; what was accepted is kept."""
    return ApiKey(batch.key_id, batch.app, batch.tenant, (), 0, digest="", last4="", cache=batch.cache)
