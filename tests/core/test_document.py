"""Documents: every legal JSON text passes, nothing else does, and every part is found where it stands."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.document import MAX_DEPTH, Outline, parse
from relay.core.errors import InvalidRequest
from tests.support import json_text
from tests.support.json_text import Spelled, unhurried

DOCUMENTS = json_text.values(["a", "model", "messages", ""])
PIECES = [*(bytes([c]) for c in b'{}[]:,"\\1e-.\n'), b"u00", b"NaN", b"null"]
JSON_LIKE = st.lists(st.sampled_from(PIECES) | st.binary(max_size=2), max_size=12).map(b"".join)


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def exactly(text: bytes) -> Any:
    """The standard library's reading with nothing rounded and nothing merged."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return json.loads(text.decode(), parse_int=str, parse_float=str, parse_constant=refuse, object_pairs_hook=list)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (rb'"\ud800"', "\ud800"),
        (rb'{"\udc00": 1}', {"\udc00": 1}),
        (rb'"\u0000"', "\x00"),
        (b"1e400", float("inf")),
        (b"1e3", 1000.0),
        (b"1.10", 1.1),
        (b"-0", 0),
        (b"9" * 5000, float("inf")),
        (b'["\\ud800",%b]' % (b"9" * 25), ["\ud800", 1e25]),
        (b'["\\ud800",12,-3]', ["\ud800", 12, -3]),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b'{"\\u0061": 1}', {"a": 1}),
        (b" \t\r\n{} \n", {}),
        ('"\u2028\U0010ffff"'.encode(), "\u2028\U0010ffff"),
    ],
)
def test_legal_json_passes_whatever_its_spelling(text: bytes, value: Any) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "The request body is empty."),
        (b"   ", "byte 3, line 1, column 4"),
        (b'{"a": 1,}', "byte 8, line 1, column 9"),
        (b'{"a": 1,\n "b" 2}', "byte 14, line 2, column 6"),
        ('{"é": 1, 2}'.encode(), "byte 10, line 1, column 10"),
        (b'{"a": "NaN\\"", "b": [1, NaN]}', "NaN is not a JSON number (byte 24, line 1, column 25)"),
        (b"[\n-Infinity]", "-Infinity is not a JSON number (byte 2, line 2, column 1)"),
        (b"[-1, NaN]", "NaN is not a JSON number (byte 5, line 1, column 6)"),
        (b"Infinity", "Infinity is not a JSON number (byte 0, line 1, column 1)"),
        (b'"\x01"', "byte 1, line 1, column 2"),
        (b"\xef\xbb\xbf{}", "byte 0, line 1, column 1"),
        ("{}".encode("utf-16"), "not valid UTF-8: byte 0xff at offset 0"),
        (b'{"a": "\xc3("}', "not valid UTF-8: byte 0xc3 at offset 7"),
        (b'"\xed\xa0\x80"', "not valid UTF-8: byte 0xed at offset 1"),
        (b"{'a': 1}", "byte 1"),
        (b"{} {}", "byte 3"),
        (b"01", "byte 1"),
    ],
)
def test_what_is_not_json_is_refused_with_its_place(text: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(text)
    assert message in refused.value.message


@unhurried
@given(DOCUMENTS)
def test_every_document_passes(document: Spelled) -> None:
    parse(document.raw)


@unhurried
@given(JSON_LIKE)
def test_a_text_passes_if_and_only_if_it_is_json(text: bytes) -> None:
    try:
        exactly(text)
    except ValueError:
        with pytest.raises(InvalidRequest):
            parse(text)
    else:
        parse(text)


@pytest.mark.parametrize("padding", [b"", b" " * 20_000])
@pytest.mark.parametrize("head", [b"", b'"\\ud800",'])
def test_depth_101_is_refused_and_depth_100_is_not(head: bytes, padding: bytes) -> None:
    parse(b"[%b%b%b]" % (head, padding, nested(MAX_DEPTH - 1)))
    with pytest.raises(InvalidRequest, match="nested deeper than 100 levels"):
        parse(b"[%b%b%b]" % (head, padding, nested(MAX_DEPTH)))


def test_many_brackets_are_no_depth() -> None:
    parse(b"[" + b",".join([nested(50)] * 200) + b"]")
    parse(b'["' + b"[{" * 500 + b'"]')


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'["\\ud800",', b'{"a":1,"a":'])
@pytest.mark.parametrize("depth", [10_000, 1_000_000])
def test_bottomless_nesting_is_refused_quickly(opening: bytes, depth: int) -> None:
    started = time.process_time()
    with pytest.raises(InvalidRequest, match="nested deeper than 100 levels"):
        parse(opening * depth)
    assert time.process_time() - started < 5


@unhurried
@given(DOCUMENTS, json_text.blanks, json_text.blanks)
def test_every_part_is_found_where_it_stands(document: Spelled, before: bytes, after: bytes) -> None:
    text = before + document.raw + after
    outline = Outline(text)

    def compare(value: Spelled, at: int, path: str) -> None:
        assert list(outline.children(path)) == list(dict.fromkeys(step for step, _, _ in value.parts))
        for step in outline.children(path):
            start, part = value.part(step)
            here = f"{path}.{step}" if path else step
            assert outline.children(path)[step] == (at + start, at + start + len(part.raw))
            if part.raw[:1] in b"[{" and step:
                compare(part, at + start, here)

    if document.raw[:1] in b"[{":
        compare(document, len(before), "")
        found = [(step, start - len(before)) for step, (start, _) in outline.members()]
        assert found == [(step, start) for step, start, _ in document.parts]
