"""Failed logins: a few are forgiven, many are slowed down, those of others count only when there are too many."""

from __future__ import annotations

from relay.console.guesses import ALL_BURST, EACH_BURST, EACH_S, MOST, Guesses

NOW = 1000.0


def failures(guesses: Guesses, address: str, count: int, now: float = NOW) -> list[float]:
    return [guesses.attempt(address, now) for _ in range(count)]


def test_a_burst_is_allowed_and_then_one_at_a_time() -> None:
    guesses = Guesses()
    assert failures(guesses, "a", EACH_BURST) == [0] * EACH_BURST
    assert guesses.attempt("a", NOW) == EACH_S
    assert guesses.attempt("a", NOW + EACH_S / 2) == EACH_S / 2
    assert failures(guesses, "a", 2, NOW + EACH_S) == [0, EACH_S]


def test_another_address_has_a_burst_of_its_own() -> None:
    guesses = Guesses()
    failures(guesses, "a", EACH_BURST + 1)
    assert guesses.attempt("b", NOW) == 0


def test_all_addresses_together_have_a_bound_too() -> None:
    guesses = Guesses()
    assert {guesses.attempt(f"address {n}", NOW) for n in range(ALL_BURST)} == {0}
    assert guesses.attempt("one more", NOW) > 0


def test_a_success_takes_nothing_and_forgives_the_mistakes_before_it() -> None:
    guesses = Guesses()
    for _ in range(10 * ALL_BURST):
        assert guesses.attempt("a", NOW) == 0
        guesses.take_back("a")
    failures(guesses, "a", EACH_BURST - 1)
    assert guesses.attempt("a", NOW) == 0
    guesses.take_back("a")
    assert failures(guesses, "a", EACH_BURST) == [0] * EACH_BURST


def test_addresses_are_remembered_within_a_bound() -> None:
    guesses = Guesses()
    for n in range(MOST + 10):
        assert guesses.attempt(f"address {n}", NOW + n) == 0
    assert len(guesses._by_address) == MOST
