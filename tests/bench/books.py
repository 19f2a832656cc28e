"""The provider's books against the ledger's rows: what must agree, and where it does not.  Pure.

A call is one entry of the sandbox's books, named by its ``x-relay-call-id``; a row is one of ``calls``. What the relay
cannot know it must not invent: a row of kind ``partial`` says what had been heard when the answer broke off, one of
kind ``unknown`` says nothing. The gap between the two sums is shown and is no difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from relay.broker.usage_stream import FINAL, PARTIAL, UNKNOWN
from relay.core.pricing import Amounts, PriceTable
from relay.core.usage import Buckets, Usage
from relay.ledger.tables import MONEY, TOKENS

Call = Mapping[str, Any]
Row = Mapping[str, Any]

KINDS = (FINAL, PARTIAL, UNKNOWN)
NOTHING = Buckets(0, 0, 0, 0, 0)

# What Anthropic's first event says of an output that has not begun; the bill counts what was sent.
_OPENING = 1


@dataclass(slots=True)
class Law:
    """Something that must hold, for how many it was looked at, and where it does not."""

    text: str
    checked: int = 0
    broken: list[str] = field(default_factory=list)

    def check(self, holds: bool, otherwise: str) -> None:
        self.checked += 1
        if not holds:
            self.broken.append(otherwise)


@dataclass(frozen=True, slots=True)
class Books:
    """Both sides, by the name of the call."""

    calls: Mapping[str, Call]
    rows: Mapping[str, Row]
    prices: PriceTable

    def reconcile(self) -> list[Law]:
        return [self._existence(), self._arrival(), self._final(), self._partial(), self._unknown(), self._money()]

    def pairs(self, kind: str) -> Iterator[tuple[Call, Row]]:
        for name, row in self.rows.items():
            if row["kind"] == kind and name in self.calls:
                yield self.calls[name], row

    def charged(self, call: Call, row: Row) -> Amounts | None:
        """What the provider's tokens cost; None where nobody knows the price."""
        return self._priced(call, row, bill(call))

    def owed(self, call: Call, row: Row) -> Amounts | None:
        """As much of it as a row can know: of an answer that broke off, what was heard of the output."""
        heard, billed = reported(row), bill(call)
        if heard is None:
            return None
        return self._priced(call, row, billed if row["kind"] == FINAL else billed._replace(output=heard.output))

    def _priced(self, call: Call, row: Row, tokens: Buckets) -> Amounts | None:
        # The books know a vendor by its wire form; every provider of the run has its vendor's prices.
        vendor = "openai" if _is_chat(call) else "anthropic"
        price = self.prices.find(vendor, call["model"], row["started_ms"])
        return price.amounts(tokens) if price else None

    def _existence(self) -> Law:
        law = Law("a row for every call the provider saw")
        for name, call in self.calls.items():
            law.check(name in self.rows, f"{name}: {call['outcome']}, {bill(call)}")
        return law

    def _arrival(self) -> Law:
        law = Law("a call for every row, save unknown ones that never arrived")
        for name, row in self.rows.items():
            law.check(name in self.calls or row["kind"] == UNKNOWN, _shown(row))
        return law

    def _final(self) -> Law:
        law = Law("final rows: all five buckets equal, to the token")
        for call, row in self.pairs(FINAL):
            law.check(told(call) == (reported(row) or NOTHING), _shown(row, call))
        return law

    def _partial(self) -> Law:
        law = Law("partial rows: input equal, output no more than was sent")
        for call, row in self.pairs(PARTIAL):
            heard, billed = reported(row), told(call)
            if heard is None:
                # Anthropic's streams open with their count, so only one that showed nothing may lack it.
                holds = row["provider"] != "anthropic" or not row["stream"] or not billed.output
            else:
                holds = heard[:4] == billed[:4] and heard.output <= max(billed.output, _OPENING)
            law.check(holds, _shown(row, call))
        return law

    def _unknown(self) -> Law:
        law = Law("unknown rows: no number and no money")
        for row in self.rows.values():
            if row["kind"] == UNKNOWN:
                law.check(all(row[column] is None for column in (*TOKENS, *MONEY)), _shown(row))
        return law

    def _money(self) -> Law:
        law = Law("every row costs what the provider's tokens cost, to the nano-dollar")
        for call, row in (*self.pairs(FINAL), *self.pairs(PARTIAL)):
            owed = self.owed(call, row)
            stored = tuple(row[column] for column in MONEY)
            holds = stored == (owed or (None,) * len(MONEY)) and row["cost"] == (owed and owed.cost)
            law.check(holds, f"{_shown(row, call)}; owed {owed}")
        return law


def same_sums(text: str, stored: Mapping[Any, Any], summed: Mapping[Any, Any]) -> Law:
    """Sums as they are stored, and as the rows make them."""
    law = Law(text)
    for group in stored.keys() | summed.keys():
        one, other = stored.get(group), summed.get(group)
        law.check(one == other, f"{group}: stored {one}, summed {other}")
    return law


def named_once(calls: Sequence[Call], booked: int) -> Law:
    """The list of calls is whole, and no name is given twice: it is what all else is compared with."""
    law = Law("a name of its own for every call")
    for name, times in Counter(call["call_id"] for call in calls).items():
        law.check(bool(name) and times == 1, f"{name}: {times} calls")
    law.check(len(calls) == booked, f"{booked} calls were booked and {len(calls)} are listed")
    return law


def bill(call: Call) -> Buckets:
    """The five buckets, as the provider booked them."""
    booked = call["bill"]
    return Usage(
        input_tokens=booked["input_tokens"],
        cache_read_tokens=booked["cache_read_tokens"],
        cache_write_by_ttl=booked["cache_write_by_ttl"],
        output_tokens=booked["output_tokens"],
    ).buckets


def told(call: Call) -> Buckets:
    """The same as far as the wire tells it: Chat Completions has no times, and the relay books the shorter one."""
    billed = bill(call)
    if not _is_chat(call):
        return billed
    return billed._replace(cache_write_5m=billed.cache_write_5m + billed.cache_write_1h, cache_write_1h=0)


def reported(row: Row) -> Buckets | None:
    """The five buckets of a row, if it has them."""
    found = [row[name] for name in TOKENS[:5]]
    return None if None in found else Buckets(*found)


def total(buckets: Iterable[Buckets | None]) -> Buckets:
    return Buckets(*map(sum, zip(NOTHING, *filter(None, buckets), strict=True)))


def _is_chat(call: Call) -> bool:
    return bool(call["path"].endswith("/chat/completions"))


def _shown(row: Row, call: Call | None = None) -> str:
    said = f"{row['call']}: {row['kind']}, {row['outcome']}, of {row['provider']}, v{row['v']}"
    said += f", {reported(row)}, cost {row['cost']}"
    return said if call is None else f"{said}; the provider: {call['outcome']}, {told(call)}"
