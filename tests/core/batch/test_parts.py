"""Cutting a batch into its items: the same ones, however it arrives."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.batch.parts import REST_BYTES_MAX, Elements, Lines
from relay.core.errors import InvalidRequest, TooLarge

REQUESTS = [
    {"custom_id": "a", "params": {"system": 'a "quoted" \\ text, with ] and } in it', "n": [[{}], []]}},
    {"params": {}, "custom_id": "b"},
    {"custom_id": "ünï\u2028", "params": {"requests": [{"not": "one"}]}},
]
BODY = json.dumps(
    {"before": [{"requests": []}], "requests": REQUESTS, "after": {"requests": [{"nor": "this"}]}}, indent=1
).encode()

names = st.text('{}[]",:\\aé\n', max_size=6)
values = st.none() | st.integers() | names | st.lists(names, max_size=3) | st.dictionaries(names, names, max_size=3)


def elements(body: bytes, *cuts: int, limit: int = 10_000) -> tuple[list[bytes], dict[str, Any]]:
    cutter, found, last = Elements(limit), [], 0
    for cut in (*cuts, len(body)):
        found += cutter.feed(body[last:cut])
        last = cut
    return found, cutter.end()


def test_the_elements_are_found_as_they_stand_and_nothing_else() -> None:
    found, others = elements(BODY)
    assert [json.loads(element) for element in found] == REQUESTS
    assert all(element in BODY for element in found)
    assert set(others) == {"before", "after"}


@pytest.mark.parametrize("cut", range(1, len(BODY)))
def test_the_cut_makes_no_difference(cut: int) -> None:
    assert elements(BODY, cut) == elements(BODY)


def test_one_byte_at_a_time() -> None:
    assert elements(BODY, *range(1, len(BODY))) == elements(BODY)


@settings(max_examples=50)
@given(st.lists(st.dictionaries(names, values, max_size=3), min_size=1, max_size=3), st.integers(0, 3))
def test_whatever_json_they_are(requests: list[dict[str, Any]], indent: int) -> None:
    text = json.dumps({"requests": requests}, indent=indent or None, ensure_ascii=bool(indent))
    found, _ = elements(text.encode())
    assert [json.loads(element) for element in found] == requests


def test_a_name_that_is_spelled_with_escapes() -> None:
    found, _ = elements(b'{"\\u0072equests": [{"custom_id": "a"}]}')
    assert found == [b'{"custom_id": "a"}']


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty"),
        (b"[]", "JSON object with `requests`"),
        (b"{}", "requests: Field required"),
        (b'{"requests": {}}', "requests: Field required"),
        (b'{"requests": []}', "at least 1 item"),
        (b'{"requests": [{}, 7]}', "requests.1: Input should be a valid dictionary, not 7"),
        (b'{"requests": [{} {}]}', "not valid JSON"),
        (b'{"requests": [{},]}', "not valid JSON"),
        (b'{"requests": [{}', "not valid JSON"),
        (b'{"requests": [{}]}}', "not valid JSON"),
        (b'{"requests": [{"a": "', "not valid JSON"),
        (b'{"requests": [{}], "requests": [{}]}', "repeated"),
    ],
)
def test_what_is_no_batch_is_said_at_the_end(body: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said.replace("[", r"\[").replace("{", r"\{")):
        elements(body)


def test_an_element_has_a_limit_before_it_is_complete() -> None:
    with pytest.raises(TooLarge, match=r"requests\.1 is larger than 100 bytes"):
        elements(b'{"requests": [{}, {"a": "' + b"x" * 200, limit=100)


def test_so_has_what_is_between_them() -> None:
    with pytest.raises(TooLarge):
        elements(b'{"requests": [' + b" " * (REST_BYTES_MAX + 1))


def lines(data: bytes, *cuts: int) -> list[tuple[int, bytes]]:
    cutter, found, last = Lines(100), [], 0
    for cut in (*cuts, len(data)):
        found += cutter.feed(data[last:cut])
        last = cut
    return found + cutter.end()


@pytest.mark.parametrize("cut", range(20))
def test_lines_have_their_numbers_and_blank_ones_are_left_out(cut: int) -> None:
    assert lines(b'{"a":1}\r\n\n  \n{"b": 2} \n{}', cut) == [(1, b'{"a":1}'), (4, b'{"b": 2}'), (5, b"{}")]


def test_a_line_has_a_limit() -> None:
    with pytest.raises(TooLarge, match="Line 2 is longer than 100 bytes"):
        lines(b"{}\n" + b"x" * 101)
