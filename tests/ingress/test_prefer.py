"""Preferences: what is a wish is granted, what is none is passed over."""

from __future__ import annotations

import pytest

from relay.ingress.prefer import WAIT_MAX_S, Prefer, prefer


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"", Prefer()),
        (b"respond-async", Prefer(True, 0)),
        (b"Respond-Async, wait=10", Prefer(True, 10)),
        (b'wait = "5"', Prefer(False, 5)),
        (b"return=minimal; foo=bar,wait=7;x=y , respond-async", Prefer(True, 7)),
        (b"wait=3, wait=9", Prefer(False, 3)),
        (b"wait=100000000000000000000000000", Prefer(False, WAIT_MAX_S)),
        (b"wait=-1", Prefer()),
        (b"wait=1.5", Prefer()),
        (b"wait=\xb2", Prefer()),
        (b"wait", Prefer()),
        (b"respond-asynchronously", Prefer()),
    ],
)
def test_the_wishes_in_a_header(value: bytes, expected: Prefer) -> None:
    assert prefer(value) == expected
