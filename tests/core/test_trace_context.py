"""Which trace headers travel on; the cases are those of the W3C's own rules."""

from __future__ import annotations

import pytest

from relay.core.trace_context import headers

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    "parent", [GOOD, f"00-{TRACE}-{SPAN}-00", f"cc-{TRACE}-{SPAN}-01", f"01-{TRACE}-{SPAN}-01-what-comes"]
)
def test_a_good_parent_goes_on_as_it_came(parent: str) -> None:
    assert headers(parent) == {"traceparent": parent}


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "00-1-2-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        GOOD.upper(),
        f"{GOOD}-more",
        f"{GOOD}.",
        f"01-{TRACE}-{SPAN}-01.more",
        f"{GOOD}, {GOOD}",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-0ä",
    ],
)
def test_a_malformed_parent_is_no_parent(parent: str) -> None:
    assert headers(parent, "vendor=1") == {}


@pytest.mark.parametrize(
    "state", ["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "a=1, b=2 ,,c=3", "fw529a3039@dt=FfAA/d:1;x", "1a=b"]
)
def test_a_good_state_goes_with_it(state: str) -> None:
    assert headers(GOOD, state) == {"traceparent": GOOD, "tracestate": state}


@pytest.mark.parametrize(
    "state", ["", ",", "a", "A=1", "a=b=c", "a=ü", "a=\x01", "a=" + "x" * 257, ",".join(f"k{n}=1" for n in range(33))]
)
def test_a_bad_state_stays_behind_alone(state: str) -> None:
    assert headers(GOOD, state) == {"traceparent": GOOD}
