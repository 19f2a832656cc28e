"""Origins as operators list them."""

from __future__ import annotations

import pytest

from relay.core.origins import origins_of


def test_a_list_with_commas_between() -> None:
    assert origins_of(" https://a.example.com, http://localhost:3000,,") == (
        "https://a.example.com",
        "http://localhost:3000",
    )
    assert origins_of("") == ()


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8000", "http://[::1]:8000", "capacitor://localhost"])
def test_what_is_an_origin(origin: str) -> None:
    assert origins_of(origin) == (origin,)


@pytest.mark.parametrize(
    "text",
    ["*", "null", "a.example.com", "https://", "https://a/", "https://a/b", "https://A.com", "https://u@a", "a b"],
)
def test_what_is_none_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="not the origin of a page") as refused:
        origins_of(f"https://good.example.com,{text}")
    assert repr(text) in str(refused.value)
