"""The sandbox's own books: every call, and what it would have billed.

Kept apart from what it reports on the wire, so that tests can reconcile the relay's usage records against a second
source.  Input is billed when the answer begins, output as it is sent, whether or not the client is still there to
read its usage.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from typing import Any, Final

from relay.sandbox import markers, openai_request
from relay.sandbox.cache import Plan

# Enough for the largest soak of the plan to be read back in one go; some 500 B each.
_RECENT_MAX: Final = 10_000
# Ten times what both providers list; the end of a model's name is free text.
_MODELS_MAX: Final = 1_000
_TTL_NAMES: Final = {ttl_s: name for name, ttl_s in (markers.TTL_S | openai_request.TTL_S).items()}


@dataclass(slots=True)
class Bill:
    """Tokens in the members of a usage record."""

    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_by_ttl: Counter[str] = field(default_factory=Counter)
    output_tokens: int = 0

    def add_input(self, plan: Plan) -> None:
        self.input_tokens += plan.uncached_tokens
        self.cache_read_tokens += plan.read_tokens
        for ttl_s, tokens in plan.written_by_ttl.items():
            self.cache_write_by_ttl[_TTL_NAMES[ttl_s]] += tokens

    def as_json(self) -> dict[str, Any]:
        return {
            "input_tokens": self.input_tokens,
            "cache_read_tokens": self.cache_read_tokens,
            "cache_write_tokens": self.cache_write_by_ttl.total(),
            "cache_write_by_ttl": dict(self.cache_write_by_ttl),
            "output_tokens": self.output_tokens,
        }


@dataclass(slots=True)
class Call:
    """One call.  ``call_id`` is what the caller named it by (``x-relay-call-id``), if it did."""

    request_id: str
    path: str
    call_id: str | None
    model: str | None = None
    stream: bool = False
    status: int | None = None  # None until the first byte is out
    outcome: str = "open"
    bill: Bill = field(default_factory=Bill)

    def as_json(self) -> dict[str, Any]:
        return {
            "request_id": self.request_id,
            "path": self.path,
            "call_id": self.call_id,
            "model": self.model,
            "stream": self.stream,
            "status": self.status,
            "outcome": self.outcome,
            "bill": self.bill.as_json(),
        }


class Accounts:
    """All calls since the start in sums, the recent ones one by one."""

    def __init__(self) -> None:
        self.recent: deque[Call] = deque(maxlen=_RECENT_MAX)
        self.open = 0
        self._calls = 0
        self._outcomes: Counter[str] = Counter()
        self._total = Bill()
        self._by_model: defaultdict[str, Bill] = defaultdict(Bill)

    def begin(self, call: Call) -> None:
        self._calls += 1
        self.open += 1
        self.recent.append(call)

    def bill_input(self, call: Call, plan: Plan) -> None:
        for bill in self._bills(call):
            bill.add_input(plan)

    def bill_output(self, call: Call, tokens: int) -> None:
        for bill in self._bills(call):
            bill.output_tokens += tokens

    def end(self, call: Call, outcome: str) -> None:
        call.outcome = outcome
        self.open -= 1
        self._outcomes[outcome] += 1

    def as_json(self) -> dict[str, Any]:
        return {
            "calls": self._calls,
            "open": self.open,
            "outcomes": dict(self._outcomes),
            "bill": self._total.as_json(),
            "bill_by_model": {model: bill.as_json() for model, bill in self._by_model.items()},
        }

    def _bills(self, call: Call) -> tuple[Bill, Bill, Bill]:
        model = call.model or ""
        if model not in self._by_model and len(self._by_model) >= _MODELS_MAX:
            model = "other"
        return call.bill, self._total, self._by_model[model]
