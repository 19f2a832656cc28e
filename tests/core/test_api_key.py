"""The form of an API key."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core import api_key

RANDOMNESS = st.binary(min_size=36, max_size=36)


@given(RANDOMNESS)
def test_a_key_made_here_is_never_mistyped_and_carries_its_id(randomness: bytes) -> None:
    key = api_key.make(randomness)
    assert key.startswith(f"rk_{api_key.id_of(key)}_")
    assert not api_key.is_mistyped(key)


@settings(max_examples=50)
@given(RANDOMNESS, st.integers(min_value=3, max_value=84), st.sampled_from("0123456789abcdef"))
def test_one_wrong_digit_is_noticed(randomness: bytes, place: int, digit: str) -> None:
    key = api_key.make(randomness)
    typed = key[:place] + digit + key[place + 1 :]
    # A digit in the place of an underscore makes it no key of ours any more; then Redis is asked, and knows none.
    assert typed == key or api_key.is_mistyped(typed) or key[place] == "_"


def test_any_other_text_is_no_mistyped_key_of_ours() -> None:
    for text in ("secret", "rk_", "rk_12345678_short_00000000", "sk-ant-api03-abc"):
        assert not api_key.is_mistyped(text)
        assert len(api_key.id_of(text)) == 8


def test_the_digest_takes_any_text_a_header_can_carry() -> None:
    assert api_key.digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert len({api_key.digest(text) for text in ("é", "e", "\ud800", "")}) == 4
