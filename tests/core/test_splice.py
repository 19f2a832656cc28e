"""Cuts and insertions: what was asked for changes, and not a byte beside it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.errors import InvalidRequest
from relay.core.splice import Splice
from tests.support import json_text
from tests.support.json_text import Spelled


def without(body: bytes, path: str = "") -> bytes:
    splice = Splice(body)
    splice.remove(path, "x")
    return splice.result()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"x":1}', b"{}"),
        (b'{ "x" : 1 }', b"{ }"),
        (b'{"x":1,"a":2}', b'{"a":2}'),
        (b'{ "x":1 , "a":2}', b'{ "a":2}'),
        (b'{"a":2,"x":1}', b'{"a":2}'),
        (b'{"a":2 ,\n "x" : [1,"}"] }', b'{"a":2 }'),
        (b'{"a":2,"x":1,"b":3}', b'{"a":2,"b":3}'),
        (b'{"x":1,"x":2}', b"{}"),
        (b'{"x":1,"x":2,"a":3}', b'{"a":3}'),
        (b'{"x":1,"a":3,"x":2,"x":4}', b'{"a":3}'),
        (b'{"a":1,"\\u0078":2}', b'{"a":1}'),
        (b'{"a":{"x":1},"b":"x"}', b'{"a":{"x":1},"b":"x"}'),
        (b'\n{"x":1}\n', b"\n{}\n"),
        (b"{}", b"{}"),
    ],
)
def test_a_member_goes_with_one_comma(before: bytes, after: bytes) -> None:
    assert without(before) == after


def test_a_member_goes_from_where_it_was_asked_to() -> None:
    assert without(b'{"x":1,"a":[{"x":2},{"x":3,"b":4}]}', "a.1") == b'{"x":1,"a":[{"x":2},{"b":4}]}'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"{}", b'{"y":0}'),
        (b"{ }", b'{"y":0 }'),
        (b'{"a":1}', b'{"a":1,"y":0}'),
        (b'{"a":1 }', b'{"a":1,"y":0 }'),
        (b'{"x":1}', b'{"y":0}'),
        (b'{"a":1,"x":1 }', b'{"a":1,"y":0 }'),
        (b'{"x":1,"a":1}', b'{"a":1,"y":0}'),
    ],
)
def test_a_member_is_added_behind_the_last(before: bytes, after: bytes) -> None:
    splice = Splice(before)
    splice.remove("", "x")
    splice.add("", b'"y":0')
    assert splice.result() == after


def test_changes_of_one_document_do_not_disturb_each_other() -> None:
    splice = Splice('{"é":"é","k":{"c":"t","x":1},"c":"u","x":2}'.encode())
    splice.remove("", "x")
    splice.wrap("c", b"[", b"]")
    splice.add("k", b'"y":3')
    splice.add("k", b'"z":4')
    splice.remove("k", "x")
    splice.remove("k", "c")
    assert splice.result() == '{"é":"é","k":{"y":3,"z":4},"c":["u"]}'.encode()


def test_a_value_is_wrapped_before_anything_is_added_behind_it() -> None:
    splice = Splice(b'{"c":"u"}')
    splice.add("", b'"z":4')
    splice.wrap("c", b"[", b"]")
    assert splice.result() == b'{"c":["u"],"z":4}'


@pytest.mark.parametrize("depth", [100, 990, 1020])
def test_what_a_repeated_name_hides_may_be_deep(depth: int) -> None:
    body = b'{"a":%b%b,"a":1,"x":2}' % (b"[" * depth, b"]" * depth)
    try:
        assert without(body) == body.replace(b',"x":2', b"")
    except InvalidRequest as error:
        assert error.message == "The request body is nested deeper than 100 levels."
        assert depth > 100


def test_nothing_asked_for_is_nothing_done() -> None:
    assert Splice(b' {"a" : 1 } ').result() == b' {"a" : 1 } '


MEMBERS = st.lists(st.tuples(st.sampled_from(["x", "a", "b"]), json_text.values(["x", "a"])), max_size=5)


def pairs(text: bytes) -> Any:
    """Every member, repeated ones too, with its digits as they stand."""
    return json.loads(text.decode(), parse_int=str, parse_float=str, object_pairs_hook=lambda members: members)


@given(MEMBERS.flatmap(json_text.objects))
def test_every_other_member_stays(document: Spelled) -> None:
    assert pairs(without(document.raw)) == [member for member in pairs(document.raw) if member[0] != "x"]


@given(MEMBERS.flatmap(json_text.objects))
def test_what_is_added_is_last_whatever_the_spelling(document: Spelled) -> None:
    splice = Splice(document.raw)
    splice.add("", b'"new":[]')
    assert pairs(splice.result()) == [*pairs(document.raw), ("new", [])]
