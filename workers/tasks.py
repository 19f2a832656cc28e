"""The task: one job from its lease to its end.

Ask each target in turn, as long as a failure is worth another attempt and nothing was shown, then end the job. Every
provider call leaves its usage record; every way out leads through one ``finish``: the job's end and its last record.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, cast

import orjson

from relay.broker import scripts
from relay.broker.leases import Lease, Leases
from relay.broker.publisher import End, Publisher
from relay.broker.queue import CANCELLED_MESSAGE
from relay.broker.usage_stream import Call, Record, now_ms
from relay.core.errors import Cancelled, Internal, JobLost, RelayError, UpstreamTimeout, UpstreamUnreachable
from relay.core.job import CANCELLED, DONE, FAILED, Target
from relay.core.retry import Failover, Failure, failure_in, failure_of
from workers.attempt import Attempt, Ending
from workers.metrics import Metrics
from workers.outgoing import Outgoing, Rewriter
from workers.pricing import Pricing
from workers.upstream import Upstream

if TYPE_CHECKING:  # imported by whoever wants traces
    from workers.tracing import Tracing

log = logging.getLogger("relay.worker")


def relay(job_id: str) -> None:
    """What RQ's records name as the job's function. It is never called by name: workers know their one task."""
    raise RuntimeError(f"{job_id} runs in workers.worker.RelayWorker only")


class _Lost(RelayError):
    """Redis does not take our word for this job any more: it was given away, or forgotten."""

    code = "lost"

    def __init__(self, answer: int) -> None:
        super().__init__("the job was given away")
        self.answer = answer


class Parts(NamedTuple):
    """What the tasks of a worker share."""

    leases: Leases
    publisher: Publisher
    upstream: Upstream
    rewriter: Rewriter
    failover: Failover
    pricing: Pricing
    metrics: Metrics
    tracing: Tracing | None = None


class Task:
    """One job of this worker.

    The worker calls ``watch`` several times a second; ``unread_since`` is its note of when the last reader left.
    """

    def __init__(self, lease: Lease, parts: Parts) -> None:
        self.lease = lease
        self.unread_since: float | None = None
        self._leases = parts.leases
        self._publisher = parts.publisher
        self._upstream = parts.upstream
        self._rewriter = parts.rewriter
        self._failover = parts.failover
        self._pricing = parts.pricing
        self._metrics = parts.metrics
        self._trace = parts.tracing.job(lease) if parts.tracing else None
        self._outlet = parts.publisher.open(lease, self.refused)
        self._attempt: Attempt | None = None
        self._owed: Record = []  # of the call before, until Redis has it
        self._calls = 0  # of the provider, under this lease
        self._counted = 0  # of them, in the figures
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
        if self._attempt and (why := self._attempt.overdue(now)):
            self.stop(why)

    def refused(self, code: int) -> None:
        """Redis does not take our frames or heartbeats any more, or asks for the job to be cancelled."""
        cancelled = code == scripts.CANCEL_WANTED
        self.stop(Cancelled(CANCELLED_MESSAGE) if cancelled else _Lost(code))

    # -- from lease to end ---------------------------------------------------------------------------------------

    async def _run(self) -> None:
        ending: Ending | None = None
        try:
            ending = await self._guarded_course()
            self._finishing = True  # no reason to stop comes in between any more
            if ending.end.state != DONE and self._attempt:
                await self._attempt.close(cut=True)  # the provider need not go on
            await self._finish(ending)
        finally:
            if self._trace:
                self._trace.end(ending)
            if self._attempt:
                await self._attempt.close()

    async def _guarded_course(self) -> Ending:
        """An ending, whatever happens."""
        try:
            return await self._run_course()
        except asyncio.CancelledError:
            return _failed(self._reason(), self._attempt)
        except RelayError as error:
            return _failed(error, self._attempt)
        except Exception:
            log.exception("unforeseen failure of job %s", self.lease.job.id)
            return _failed(Internal("The worker failed on this job; its log says why."), self._attempt)

    async def _run_course(self) -> Ending:
        """Attempts, until one has shown something or there is no use in another."""
        loop = asyncio.get_running_loop()
        course = self._failover.course(self.lease.job.targets, loop.time())
        last_call: tuple[Ending, Attempt | None] | None = None
        while True:
            ending, failure = await self._try(course.target)
            if failure is None:
                course.succeeded()
            if failure is None or (self._attempt and self._attempt.shown):
                break
            if failure.was_called:
                last_call = ending, self._attempt
            wait_s = course.failed(failure, loop.time())
            if wait_s is None:
                # That a further target cannot serve the request must not look like the request's own fault.
                ending, self._attempt = last_call or (ending, self._attempt)
                break
            await self._forget(ending)
            await asyncio.sleep(wait_s)
        was_retried = ending.end.state != DONE and self._calls > 1
        if self._attempt and ending.end.shown:
            if was_retried:
                self._attempt.ask_for_no_retries()
            self._attempt.show()
        return ending._replace(end=replace(ending.end, was_retried=was_retried))

    async def _try(self, target: Target) -> tuple[Ending, Failure | None]:
        """One attempt, and why it failed.  Raises what has nothing to do with the target."""
        lease, number = self.lease, self._calls + 1
        provider = self._upstream.provider(target.provider)
        if provider is None:
            error: RelayError = UpstreamUnreachable(f"no provider {target.provider!r} is configured at this worker")
            return _failed(error, None), Failure("next", was_called=False)
        call = Call(lease.job, target, lease.generation, number, lease.calls + number)
        self._pricing.watch(call, lease.budget)
        attempt = self._attempt = Attempt(call, provider, self._outlet, self._upstream)
        try:
            ending = await self._call(attempt, target)
        except asyncio.CancelledError:
            if not isinstance(self._why, UpstreamTimeout):
                raise
            error = self._reason()
            self._why = None  # there may be another attempt, which can be stopped for another reason
        except RelayError as raised:
            error = raised
        else:
            if ending.end.state == DONE:
                return ending, None
            answer = attempt.answer
            return ending, failure_in(call.status or 200, attempt.meter.error, answer.headers if answer else ())
        if isinstance(error, Cancelled | _Lost):
            raise error
        return _failed(error, attempt), failure_of(error)

    async def _call(self, attempt: Attempt, target: Target) -> Ending:
        outgoing = await self._prepare(attempt, target)
        call = attempt.call
        call.cache_control = outgoing.cache_control
        call.started_ms = now_ms()
        code = await self._leases.dispatch(self.lease, call.draft())
        if code != 1:
            call.started_ms = 0  # the provider was not called
            raise Cancelled(CANCELLED_MESSAGE) if code == scripts.CANCEL_WANTED else _Lost(code)
        self._calls += 1
        trace = self._trace.call(call, attempt.provider) if self._trace else self.lease.job.trace
        return await attempt.run(outgoing, trace)

    async def _prepare(self, attempt: Attempt, target: Target) -> Outgoing:
        """The bytes that go upstream.  They are fetched anew for each attempt: to keep them would be a megabyte here
        and there for every job that waits for its provider.
        """
        job = self.lease.job
        pieces = await self._leases.body(self.lease)
        if sum(map(len, pieces)) != job.body_bytes:
            raise JobLost("Redis lost the bytes of this request.")
        outgoing = await self._rewriter.prepare(job, attempt.provider.way(job, target), pieces)
        if outgoing.dropped:
            log.info("job %s: %s does not know %s", job.id, target.provider, ", ".join(outgoing.dropped))
        return outgoing

    async def _forget(self, ending: Ending) -> None:
        """Settle an attempt that is followed by another."""
        if self._attempt is None:
            return
        await self._pricing.ready(self._attempt.call)  # who stops us meanwhile still finds it, and its record
        attempt, self._attempt = self._attempt, None
        self._owed = self._record(attempt, ending)
        await attempt.close(cut=True)
        if self._owed:
            code = await self._leases.call_failed(self.lease, self._owed)
            if code != 1:
                raise _Lost(code)
            self._owed = []

    def _record(self, attempt: Attempt, ending: Ending) -> Record:
        """Its usage record; and the call that it is of, once, in the figures and the trace."""
        record, call = attempt.record(ending), attempt.call
        if record and call.number > self._counted:
            self._counted = call.number
            self._metrics.count(call, attempt.provider.dialect, ending.outcome, ending.end.code)
            if self._trace:
                self._trace.called(call, attempt.meter, ending)
        return record

    def _reason(self) -> RelayError:
        """Why this task was cancelled by ``stop``; raises ``CancelledError`` if it was cancelled by somebody else."""
        if self._why is None:
            raise asyncio.CancelledError
        # Stopped with a reason, which is not a cancellation for whoever runs us.
        cast("asyncio.Task[None]", self._running).uncancel()
        return self._why

    # -- the end -------------------------------------------------------------------------------------------------

    async def _finish(self, ending: Ending) -> None:
        """End the job in Redis."""
        attempt = self._attempt
        if attempt:
            await self._pricing.ready(attempt.call)
        record = self._record(attempt, ending) if attempt else self._owed
        if isinstance(self._why, _Lost):
            code = self._why.answer
        else:
            code = await self._publisher.finish(self._outlet, ending.end, record, *self._whole_answer(ending))
        if code == scripts.HOLE:
            await self._leases.release([self.lease], "Redis lost part of this answer.")
        elif code == scripts.NOT_OURS and attempt and (usage := attempt.meter.usage) and usage.final:
            await self._leases.late_usage(attempt.call, attempt.record(ending, version=2))

    def _whole_answer(self, ending: Ending) -> tuple[bytes | None, bytes]:
        attempt = self._attempt
        if attempt is None or attempt.whole is None or not ending.end.shown:
            return None, b""
        status, body = attempt.whole
        return orjson.dumps({"status": status, "headers": attempt.headers}), body


def _failed(error: RelayError, attempt: Attempt | None) -> Ending:
    state = CANCELLED if isinstance(error, Cancelled) else FAILED
    outcome = {"upstream_truncated": "truncated"}.get(error.code, "cancelled" if state == CANCELLED else "error")
    status = attempt.call.status if attempt else None
    return Ending(End(state, error.code, error.message, status, shown=False, param=error.param), outcome)
