"""Calls as a file: CSV for people with a spreadsheet, JSON lines for programs. Page by page, so memory stays flat.

In CSV a text that a spreadsheet would take for a formula gets an apostrophe before it: model names, apps and users are
what strangers wrote. JSON lines have every text as it is. The console streams it; ``relay usage export`` writes it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from io import StringIO
from typing import Any, Final, Literal

import orjson

from relay.console.usage_views import CALL, call_view

Format = Literal["csv", "jsonl"]

TYPES: Final[Mapping[str, str]] = {"csv": "text/csv; charset=utf-8", "jsonl": "application/jsonl"}

# Calls a page: 3 MB of them, and one query.
PAGE_CALLS: Final = 1000

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def head(form: Format) -> bytes:
    """What the file begins with."""
    return _csv([CALL]) if form == "csv" else b""


def lines(form: Format, rows: Iterable[Mapping[str, Any]]) -> bytes:
    """A piece of the file."""
    views = [call_view(row) for row in rows]
    if form == "jsonl":
        return b"".join(orjson.dumps(view, option=orjson.OPT_APPEND_NEWLINE) for view in views)
    return _csv([_cell(view[name]) for name in CALL] for view in views)


def _csv(rows: Iterable[Iterable[Any]]) -> bytes:
    text = StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)  # as RFC 4180 has it
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, int):  # a bool too
        return value
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return f"'{text}" if text.startswith(_FORMULA) else text
