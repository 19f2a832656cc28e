"""How often a login may fail: bounds for each address and for all of them, so that nobody tries keys by the thousand.

Pure: time is an argument. Counted in this process alone, and forgotten with it: keys of ours have 256 random bits and
cannot be guessed, but an operator may have given a short one. Behind a proxy all addresses are the proxy's, since what
a client says of its own address is not believed; then the tighter bound holds for everybody who has no session yet.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

# Whoever pastes the wrong key a few times is not kept out; then one attempt in six seconds.
EACH_BURST, EACH_S = 10, 6.0
# Of everybody together: a minute of an attack from many places tries a hundred keys.
ALL_BURST, ALL_S = 60, 0.6
# Addresses that are remembered, the latest; each for a minute at most.
MOST: Final = 10_000


class Pace(NamedTuple):
    """So many at once, and then one each so many seconds (the generic cell rate algorithm)."""

    burst: int
    every_s: float

    def wait_s(self, used_until: float, now: float) -> float:
        """How long until another one is allowed; 0: now."""
        return max(0.0, used_until - now - (self.burst - 1) * self.every_s)

    def use(self, used_until: float, now: float) -> float:
        return max(used_until, now) + self.every_s


EACH, ALL = Pace(EACH_BURST, EACH_S), Pace(ALL_BURST, ALL_S)


class Guesses:
    """The failed logins of one console.  ``now`` is any clock that only goes forward."""

    def __init__(self) -> None:
        self._by_address: OrderedDict[str, float] = OrderedDict()
        self._all = 0.0

    def attempt(self, address: str, now: float) -> float:
        """Count an attempt, before it is looked at; else how many seconds to wait for the next one, and it is not."""
        used = self._by_address.get(address, 0.0)
        if wait_s := max(EACH.wait_s(used, now), ALL.wait_s(self._all, now)):
            return wait_s
        self._by_address[address] = EACH.use(used, now)
        self._by_address.move_to_end(address)
        self._all = ALL.use(self._all, now)
        if len(self._by_address) > MOST:
            self._by_address.popitem(last=False)
        return 0.0

    def take_back(self, address: str) -> None:
        """It was no guess: give back what the attempt took, and forget the address' mistakes."""
        self._by_address.pop(address, None)
        self._all -= ALL.every_s
