"""JSON in and out, with every value spelled as its author spelled it: what is cached must be the same bytes next time.

The translators' ``decode`` and ``encode``.  They refuse nothing that ``document.parse`` takes.

Members keep their order and numbers their digits (1.10, 1e3, integers of any length), except that blanks go, escapes
take their shortest form, of a repeated key the last value stays, and -0 becomes 0.  Numbers right at the top of a
request (sampling parameters) may be respelled too, as 1.0 for 1e0: they are no part of the prompt.
"""

from __future__ import annotations

import json
from json.encoder import encode_basestring
from typing import Any

import orjson

from relay.core import document
from relay.core.errors import InvalidRequest


class Number(float):
    """A number that remembers how it was written."""

    __slots__ = ("text",)

    text: str

    def __new__(cls, text: str) -> Number:
        number = super().__new__(cls, text)
        number.text = text
        return number


def _integer(digits: str) -> int | Number:
    """Past 64 bits ``orjson`` writes no integer, and reads a float."""
    return int(digits) if len(digits) < 19 else Number(digits)


_EXACTLY = json.JSONDecoder(parse_int=_integer, parse_float=Number)


def decode(body: bytes) -> Any:
    """A request.  Without fractions or huge numbers below its top, as most are, it costs one quick parse."""
    request = document.parse(body)
    return _exactly(body) if _holds_a_float_below(request) else request


def decode_exactly(text: bytes) -> Any:
    """Any document, the top included."""
    document.parse(text)
    return _exactly(text)


def _exactly(text: bytes) -> Any:
    try:
        return _EXACTLY.decode(text.decode())
    except RecursionError as error:  # Only what a repeated name hides can be so deep.
        raise InvalidRequest(f"The JSON is nested deeper than {document.MAX_DEPTH} levels.") from error


def _holds_a_float_below(read: Any) -> bool:
    level = [child for child in _children(read) if isinstance(child, (dict, list))]
    while level:
        children = [child for node in level for child in _children(node)]
        if float in set(map(type, children)):
            return True
        level = [child for child in children if isinstance(child, (dict, list))]
    return False


def _children(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []


def encode(value: Any) -> bytes:
    """Compact JSON; equal values give equal bytes.  ``decode`` reads it back as it was."""
    try:
        return orjson.dumps(value, default=_as_written)
    except orjson.JSONEncodeError:
        return _patiently(value).encode("utf-8", "backslashreplace")


def _as_written(number: Number) -> orjson.Fragment:
    """Anything else that ``orjson`` does not know has no text, and is an error."""
    return orjson.Fragment(number.text)


def _patiently(value: Any) -> str:
    """The same spelling where ``orjson`` gives up, as at half a surrogate pair, which JSON has as an escape only."""
    if isinstance(value, str):
        return encode_basestring(value)
    if type(value) is int:  # of any size
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{encode_basestring(k)}:{_patiently(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_patiently, value)) + "]"
    return orjson.dumps(value, default=_as_written).decode()
