"""A JSON document as bytes: is it one, and where in the bytes do its parts stand?

The request half of the core calls it.  It refuses to repair, to write JSON, and to know what a member means.

Every legal JSON text passes, whatever its spelling; nothing else does.  Differences from the parsers it stands on:
orjson refuses lone surrogates and numbers past a double's range, the standard library refuses integers of more than
4,300 digits; all of these are legal.  The standard library takes NaN, Infinity and UTF-16; none of these is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

import orjson

from relay.core.errors import InvalidRequest

# Whoever handles the same body later can take twice as much: orjson writes 254 levels, pydantic reads about 210.
# What a repeated key hides ({"a": <deep>, "a": 1}) is not measured; the parsers stop it at about 1,000 levels.
MAX_DEPTH = 100

# Below this size counting brackets is cheaper than walking the parsed document (measured: 16 KB take 16 µs to count).
_WORTH_COUNTING_BYTES = 16_384

Span = tuple[int, int]

_BLANKS = re.compile(r"[ \t\n\r]*+")
_UP_TO_CONSTANT = re.compile(r'(?:[^"NI-]++|-(?!I)|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+', re.DOTALL)


class _NotANumber(Exception):
    """The document holds NaN or Infinity, which Python reads and JSON does not know."""


def _integer(digits: str) -> int | float:
    """Like orjson: beyond 64 bits an integer is a float.  ``int`` is quadratic, and stops at 4,300 digits."""
    return int(digits) if len(digits) < 20 else float(digits)


def _constant(name: str) -> NoReturn:
    raise _NotANumber(name)


_DECODER = json.JSONDecoder(parse_int=_integer, parse_constant=_constant)


def parse(body: bytes) -> Any:
    """The document; of a repeated key the last value.  ``InvalidRequest`` says where the JSON ends to be JSON."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = _parse_patiently(body)
    few_brackets = len(body) <= _WORTH_COUNTING_BYTES and body.count(b"[") + body.count(b"{") <= MAX_DEPTH
    if not few_brackets and _is_too_deep(document):
        raise _too_deep()
    return document


def _parse_patiently(body: bytes) -> Any:
    """What orjson refuses: legal spellings it does not know, and everything that is wrong."""
    if not body:
        raise InvalidRequest("The request body is empty.")
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        message = f"The request body is not valid UTF-8: byte 0x{body[error.start]:02x} at offset {error.start}."
        raise InvalidRequest(message) from error
    try:
        return _DECODER.decode(text)
    except RecursionError as error:
        raise _too_deep() from error
    except _NotANumber as error:
        # The hook is not told where it was called; up to there the text is in order, so a pattern finds it.
        before = _UP_TO_CONSTANT.match(text)
        raise _not_json(f"{error} is not a JSON number", text, before.end() if before else 0) from error
    except json.JSONDecodeError as error:
        raise _not_json(error.msg, text, error.pos) from error


def _not_json(what: str, text: str, at: int) -> InvalidRequest:
    line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
    offset = len(text[:at].encode())
    return InvalidRequest(f"The request body is not valid JSON: {what} (byte {offset}, line {line}, column {column}).")


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"The request body is nested deeper than {MAX_DEPTH} levels.")


def _is_too_deep(document: Any) -> bool:
    level = [document] if isinstance(document, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return False
    return bool(level)


class Outline:
    """Where in the bytes the parts of a document stand.  Each object and array asked for is read once.

    Each value is skipped by the standard library's scanner, in C (measured: 1 ms for a megabyte of prose, 20 ms for
    one of small tokens). It reads the bytes as Latin-1, one character each, so that its indexes are byte offsets:
    JSON's own characters are ASCII, and no byte of a longer UTF-8 sequence is.
    """

    def __init__(self, body: bytes) -> None:
        """``body`` is one that ``parse`` took."""
        self._text = body.decode("latin-1")
        self._root = _after_blanks(self._text, 0)
        self._children: dict[str, dict[str, Span]] = {}

    def members(self) -> Iterator[tuple[str, Span]]:
        """Every member of the document, repeated ones included, and where its value stands."""
        return _children(self._text, self._root)

    def children(self, path: str) -> dict[str, Span]:
        """The members or elements of the object or array at ``path``; of a repeated key the last."""
        if path not in self._children:
            start = self.span(path)[0] if path else self._root
            self._children[path] = dict(_children(self._text, start))
        return self._children[path]

    def span(self, path: str) -> Span:
        """Of the value at ``path``, as ``messages.3.content.1``."""
        parent, _, step = path.rpartition(".")
        return self.children(parent)[step]


def _children(text: str, start: int) -> Iterator[tuple[str, Span]]:
    has_names = text[start] == "{"
    at, index = _after_blanks(text, start + 1), 0
    while text[at] not in "}]":
        step = str(index)
        if has_names:
            step, colon = _decode(text, at)
            at = _after_blanks(text, _after_blanks(text, colon) + 1)
        _, end = _decode(text, at)
        yield step, (at, end)
        at, index = _after_blanks(text, end), index + 1
        if text[at] == ",":
            at = _after_blanks(text, at + 1)


def _decode(text: str, at: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, at)
    except RecursionError as error:
        raise _too_deep() from error


def _after_blanks(text: str, at: int) -> int:
    blanks = _BLANKS.match(text, at)
    assert blanks, "the pattern matches nothing, too"
    return blanks.end()
