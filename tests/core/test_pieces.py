"""A body in pieces: one value changed and prompts hashed by position, wherever the pieces are cut."""

import hashlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.document import Span
from relay.core.pieces import Prefix, digests, moved, replaced

BODY = b"0123456789"


def cut(body: bytes, *borders: int) -> list[bytes]:
    return [body[start:end] for start, end in pairwise([0, *sorted(borders), len(body)])]


def sha256(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


# ── replaced ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("borders", "spans", "pieces"),
    [
        ([], [(3, 5)], [b"012XYZ56789"]),
        ([], [(0, 10)], [b"XYZ"]),
        ([], [(0, 1), (3, 4), (9, 10)], [b"XYZ12XYZ45678XYZ"]),
        ([5], [(1, 2)], [b"0XYZ234", b"56789"]),
        ([5], [(5, 6)], [b"01234", b"XYZ6789"]),
        ([5], [(4, 5)], [b"0123XYZ", b"56789"]),
        ([5], [(4, 6)], [b"0123XYZ", b"6789"]),
        ([5], [(4, 6), (6, 7)], [b"0123XYZ", b"XYZ789"]),
        ([3, 6], [(2, 7)], [b"01XYZ", b"789"]),
        ([3, 6], [(3, 6)], [b"012", b"XYZ", b"6789"]),
    ],
)
def test_a_span_is_replaced_in_the_pieces_that_hold_it(
    borders: list[int], spans: list[Span], pieces: list[bytes]
) -> None:
    assert replaced(cut(BODY, *borders), spans, b"XYZ") == pieces


def test_pieces_without_a_span_are_not_copied() -> None:
    pieces = cut(BODY, 3, 6)
    first, _, last = replaced(pieces, [(4, 5)], b"XYZ")
    assert first is pieces[0]
    assert last is pieces[2]


@st.composite
def spans_in(draw: st.DrawFn, size: int) -> list[Span]:
    edges = sorted(draw(st.sets(st.integers(0, size), max_size=8)))
    return list(zip(edges[::2], edges[1::2], strict=False))


@given(st.binary(max_size=40), st.binary(max_size=5), st.data())
def test_where_the_pieces_are_cut_makes_no_difference(body: bytes, value: bytes, data: st.DataObject) -> None:
    spans = data.draw(spans_in(len(body)))
    borders = data.draw(st.lists(st.integers(0, len(body)), max_size=6))
    expected, done = b"", 0
    for start, end in spans:
        expected += body[done:start] + value
        done = end
    assert b"".join(replaced(cut(body, *borders), spans, value)) == expected + body[done:]


# ── prefixes ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_digest_is_of_the_names_and_texts_of_its_parts() -> None:
    prefixes = [Prefix("system.0", "5m", (("tools", 6, 8), ("system", 1, 4))), Prefix("", "1h", (("messages", 0, 10),))]
    system, everything = sha256(b"tools\0" + b"67" + b"system\0" + b"123"), sha256(b"messages\0" + BODY)
    assert digests(prefixes, [BODY]) == f"system.0={system}, body={everything}"


@given(st.lists(st.integers(0, len(BODY)), max_size=6), st.integers(0, 10), st.integers(0, 10))
def test_a_digest_does_not_see_the_pieces(borders: list[int], start: int, end: int) -> None:
    prefix = Prefix("tools.0", "5m", (("tools", *sorted((start, end))),))
    assert digests([prefix], cut(BODY, *borders)) == digests([prefix], [BODY])


def test_without_prefixes_there_is_nothing_to_tell() -> None:
    assert digests([], [BODY]) == ""


def test_a_prefix_moves_by_what_was_replaced_before_it() -> None:
    prefix = Prefix("messages.0", "5m", (("tools", 1, 2), ("system", 4, 5), ("messages", 8, 10)))
    assert moved([prefix], [(2, 4), (5, 8)], 5) == (
        Prefix("messages.0", "5m", (("tools", 1, 2), ("system", 7, 8), ("messages", 13, 15))),
    )
