"""Trying again: which failures of a provider call are worth it, how long to wait, and where to go next.

Asked only while nothing of an answer was shown; after that a failure is final.  Three things keep retries from making
an outage worse: their number and time, a budget shared by all calls of a process to a provider, and a breaker that
keeps a failing target out while another one can serve.  Pure: the caller brings the time and the dice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from relay.core.errors import (
    InvalidRequest,
    RelayError,
    UpstreamError,
    UpstreamTimeout,
    UpstreamTruncated,
    UpstreamUnreachable,
)
from relay.core.job import Target
from relay.core.meter import ProviderError
from relay.core.translate.errors_between import status_of

# same: this target may do better next time.  next: it will not, another one may.  none: it is the request's own fault.
Advice = Literal["same", "next", "none"]

# A timeout, a conflict, a rate limit; and whatever is a server's fault.  As the SDKs do (anthropic 2.12, openai 3.54).
_SAME: Final = frozenset({408, 409, 429})
# The operator's credential or the target's name for the model: nothing in the request.
_NEXT: Final = frozenset({401, 402, 403, 404})
# 429s that time does not heal.
_SPENT: Final = frozenset({"insufficient_quota", "enforced_spend_limit_reached", "contract_spend_limit_reached"})

# Waits double from the first to the longest, as the SDKs' do, with full jitter.
_FIRST_WAIT_S: Final = 0.5
_LONGEST_WAIT_S: Final = 8.0

# A provider's budget counts calls: so many of them earn one retry, beside a reserve for quiet times. To a provider that
# is down 100 calls become 120.
_CALLS_PER_RETRY: Final = 10
_RESERVE: Final = 10 * _CALLS_PER_RETRY

# So many failures in a row make a target sit out for so long; then one call at a time finds out whether it is well.
BREAKER_FAILURES: Final = 5
BREAKER_S: Final = 30.0
# Model names are the clients' to choose, and each is a target of its own.
_REMEMBERED: Final = 1000
# However long a provider asks to be left alone, it is asked again after so long.
_LONGEST_PAUSE_S: Final = 60.0


class Failure(NamedTuple):
    """Why a call came to nothing.

    ``retry_after_s``: when the provider wants to be asked again, if it said so. ``was_called``: no call was made where
    the request cannot be put into the target's words.
    """

    advice: Advice
    retry_after_s: float | None = None
    was_called: bool = True


def failure_of(error: RelayError) -> Failure:
    """A call that got no answer, or none that can be passed on."""
    if isinstance(error, UpstreamTimeout | UpstreamUnreachable | UpstreamTruncated):
        return Failure("same")
    if isinstance(error, UpstreamError):
        return Failure("next")
    return Failure("next" if isinstance(error, InvalidRequest) else "none", was_called=False)


def failure_in(status: int, error: ProviderError | None, headers: Iterable[tuple[str, str]]) -> Failure:
    """An answer that says what went wrong: by its status or, where that is 200, by the error in it."""
    said = dict(headers)
    if status == 200 and error:
        status = status_of(error["type"], error["code"])
    return Failure(_advice(status, error, said.get("x-should-retry")), _retry_after_s(said))


def _advice(status: int, error: ProviderError | None, should_retry: str | None) -> Advice:
    is_spent = error is not None and not _SPENT.isdisjoint((error["type"], error["code"]))
    if status in _NEXT or (status == 429 and is_spent):
        return "next"
    if status in _SAME or status >= 500:
        return "next" if should_retry == "false" else "same"
    return "same" if should_retry == "true" else "none"


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """In seconds; a date, which the providers do not send here, is not read."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit_s
        except (KeyError, ValueError):
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    return None


@dataclass(slots=True)
class _Breaker:
    """Of one target."""

    failures: int = 0
    open_until: float = 0.0

    def is_open(self, now: float) -> bool:
        return now < self.open_until

    def called(self, now: float) -> None:
        """While a target is on probation, one call keeps the others out."""
        if self.failures >= BREAKER_FAILURES:
            self.open_until = now + BREAKER_S

    def failed(self, now: float, retry_after_s: float | None) -> None:
        self.failures += 1
        pause_s = min(retry_after_s or 0.0, _LONGEST_PAUSE_S)
        if self.failures >= BREAKER_FAILURES:
            pause_s = max(pause_s, BREAKER_S)
        self.open_until = max(self.open_until, now + pause_s) if pause_s else self.open_until


class Failover:
    """What one process knows of its targets.  ``retries``: of one target for one job, begun within ``retry_s``."""

    def __init__(self, retries: int, retry_s: float, dice: Callable[[], float]) -> None:
        self.retries = retries
        self.retry_s = retry_s
        self.dice = dice  # evenly from 0 to 1
        self._breakers: dict[Target, _Breaker] = {}
        self._budgets: dict[str, int] = {}

    def course(self, targets: Sequence[Target], now: float) -> Course:
        """The way of one job."""
        return Course(self, targets, now)

    def breaker(self, target: Target) -> _Breaker:
        """Of a target that is well it is a new one: only failures are remembered."""
        return self._breakers.get(target) or _Breaker()

    def failed(self, target: Target, now: float, retry_after_s: float | None) -> None:
        breaker = self._breakers.pop(target, None) or _Breaker()
        breaker.failed(now, retry_after_s)
        self._breakers[target] = breaker
        if len(self._breakers) > _REMEMBERED:
            del self._breakers[next(iter(self._breakers))]  # the one that failed longest ago

    def succeeded(self, target: Target) -> None:
        self._breakers.pop(target, None)

    def out(self, now: float) -> list[Target]:
        """The targets that are not called for now. Another thread may ask."""
        return [target for target, breaker in list(self._breakers.items()) if breaker.is_open(now)]

    def earn(self, target: Target) -> None:
        left = self._budgets.get(target.provider, _RESERVE)
        self._budgets[target.provider] = min(_RESERVE, left + 1)

    def spend(self, target: Target) -> bool:
        """Take one retry from the provider's budget, if there is one."""
        left = self._budgets.get(target.provider, _RESERVE)
        if left < _CALLS_PER_RETRY:
            return False
        self._budgets[target.provider] = left - _CALLS_PER_RETRY
        return True


class Course:
    """One job's way through its targets.  Call ``target`` and report; ``failed`` says what next."""

    def __init__(self, failover: Failover, targets: Sequence[Target], now: float) -> None:
        self._failover = failover
        closed = [target for target in targets if not failover.breaker(target).is_open(now)]
        # Where all are out, the one that is back first: a relay that asks nobody helps nobody.
        back_first = min(targets, key=lambda target: failover.breaker(target).open_until)
        self._left = closed or [back_first]
        self._begin(now)

    @property
    def target(self) -> Target:
        return self._left[0]

    def succeeded(self) -> None:
        """The target answered; what it said is for the client to judge."""
        self._failover.succeeded(self.target)

    def failed(self, failure: Failure, now: float) -> float | None:
        """How long to wait, in seconds, before ``target`` is called; None: this failure is the job's."""
        if failure.advice == "none":
            if failure.was_called:
                self.succeeded()
            return None
        if failure.was_called:
            self._failover.failed(self.target, now, failure.retry_after_s)
        wait_s = self._wait_s(failure.retry_after_s)
        if self._may_repeat(failure, now, wait_s) and self._failover.spend(self.target):
            self._repeats += 1
            return wait_s
        others = [target for target in self._left[1:] if not self._failover.breaker(target).is_open(now)]
        if not others:
            return None
        self._left = others
        self._begin(now)
        return 0.0

    def _begin(self, now: float) -> None:
        self._repeats, self._began = 0, now
        self._failover.breaker(self.target).called(now)
        self._failover.earn(self.target)

    def _may_repeat(self, failure: Failure, now: float, wait_s: float) -> bool:
        if failure.advice != "same" or self._repeats >= self._failover.retries:
            return False
        if len(self._left) > 1 and wait_s > _LONGEST_WAIT_S:
            return False  # another target is sooner there
        return now + wait_s - self._began <= self._failover.retry_s

    def _wait_s(self, retry_after_s: float | None) -> float:
        doubled: float = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**self._repeats)
        return (retry_after_s or 0.0) + self._failover.dice() * doubled
