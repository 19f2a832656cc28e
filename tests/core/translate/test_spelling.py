"""What is decoded and encoded again is spelled as it was: the digits, the order, and every odd character."""

import json
import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.errors import InvalidRequest
from relay.core.translate.spelling import Number, decode, decode_exactly, encode
from tests.support import json_text
from tests.support.json_text import Spelled

ODD = ["1.10", "1e3", "1E+2", "-0.0", "0.1e-400", "1e400", "9" * 18, "9" * 19, "-" + "8" * 5000, "18446744073709551616"]

DOCUMENTS = json_text.values(["a", "b", ""])


def exactly(text: bytes) -> Any:
    """The standard library's reading, with the digits of every number as text."""

    def integer(digits: str) -> str:
        return digits.replace("-0", "0") if digits == "-0" else digits

    return json.loads(text.decode(), parse_int=integer, parse_float=str)


@pytest.mark.parametrize("number", ODD)
def test_a_number_keeps_its_digits(number: str) -> None:
    text = b'{"a":{"b":[%b]}}' % number.encode()
    assert encode(decode(text)) == text
    assert encode(decode_exactly(number.encode())) == number.encode()


@pytest.mark.parametrize("number", ODD)
def test_a_number_at_the_top_keeps_its_value(number: str) -> None:
    with_one_below = b'{"top_p":%b,"a":[1.5]}' % number.encode()
    assert encode(decode(with_one_below)) == with_one_below
    assert float(decode(b'{"top_p":%b}' % number.encode())["top_p"]) == float(number)


def test_what_is_no_part_of_a_prompt_is_parsed_but_once() -> None:
    assert type(decode(b'{"temperature":0.50,"a":[1,{}]}')["temperature"]) is float


def test_a_number_is_one() -> None:
    (number,) = decode(b'{"a":[1.70]}')["a"]
    assert isinstance(number, Number)
    assert (number, number > 1, min(number, 1)) == (1.7, True, 1)


def test_order_and_data_stay_and_blanks_go() -> None:
    assert (
        encode(decode(b'{"z": 1, "a" : {"y":null , "b":[true,\n false]}}'))
        == b'{"z":1,"a":{"y":null,"b":[true,false]}}'
    )


def test_half_a_surrogate_pair_is_written_as_an_escape_and_nothing_around_it_changes() -> None:
    text = '{"a\\udc00":["\\ud800","é\\n\\"",1.10,1e3,null,true,12]}'.encode()
    assert encode(decode(text)) == text


@given(DOCUMENTS)
def test_every_document_survives(document: Spelled) -> None:
    written = encode(decode_exactly(document.raw))
    assert exactly(written) == exactly(document.raw)
    assert encode(decode_exactly(written)) == written
    assert encode(decode(b'{"a":[%b]}' % document.raw)) == b'{"a":[%b]}' % written


LEAVES = st.none() | st.booleans() | st.text(max_size=4) | st.floats(0, 1)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(VALUES)
def test_there_is_one_spelling_whichever_way_it_was_written(value: Any) -> None:
    """A surrogate somewhere must not respell the rest of the prompt."""
    alone, beside = encode([value]), encode([value, "\ud800"])
    assert alone == orjson.dumps([value])
    assert beside == alone[:-1] + b',"\\ud800"]'


def test_what_a_repeated_name_hides_may_be_too_deep() -> None:
    body = b'{"a":%b%b,"a":[1.50]}' % (b"[" * 1020, b"]" * 1020)
    try:
        assert encode(decode(body)) == b'{"a":[1.50]}'
    except InvalidRequest as error:
        assert error.message == "The JSON is nested deeper than 100 levels."


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        decode(b'{"a": NaN}')
    with pytest.raises(TypeError, match=re.escape("set")):
        encode({"a": {1, 2}})


def test_deeper_than_orjson_writes_is_still_written() -> None:
    value: Any = []
    for _ in range(300):
        value = [value]
    assert encode(value) == b"[" * 301 + b"]" * 301
