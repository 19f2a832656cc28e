"""JSON values that grow by deltas: strings by pieces, lists by entries, objects by members.

``chunks`` calls it.  Adding costs the length of what is added, however much there is already, and no input makes it
raise.  ``written`` makes JSON of the result.

Different from the accumulator of the official SDK: numbers are replaced and not added up, members that name something
are not appended to themselves, null clears nothing, and entries without an index are no error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from relay.core.errors import UpstreamProtocolError

# Said once, and by sloppy servers again and again.
_NAMES = ("id", "type", "role", "name", "index", "format")

# The deepest string known to grow is choices[].delta.tool_calls[].function.arguments, three levels below its delta.
# Below this the latest value counts; without a bound hostile nesting would end in a RecursionError.
_MAX_DEPTH = 8


class Text:
    """A string that grows."""

    __slots__ = ("_pieces",)

    def __init__(self, piece: str) -> None:
        self._pieces = [piece]

    def add(self, piece: str) -> None:
        self._pieces.append(piece)

    def __bool__(self) -> bool:
        return bool(str(self))

    def __str__(self) -> str:
        self._pieces = ["".join(self._pieces)]
        return self._pieces[0]


class Entries:
    """A list that grows: an entry with a known index is more of the entry that had it, any other is a new one.

    A list of calls goes further, for sloppy servers: where the index is missing, a known id means that call, no id
    means the last one; and an index with another id and name than before means another call.
    """

    __slots__ = ("_are_calls", "_by_id", "_by_index", "_entries")

    def __init__(self, *, are_calls: bool = False) -> None:
        self._entries: list[Any] = []
        self._by_index: dict[int, dict[str, Any]] = {}
        self._by_id: dict[str, dict[str, Any]] = {}
        self._are_calls = are_calls

    def __bool__(self) -> bool:
        return bool(self._entries)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._entries)

    def add(self, entry: Any, depth: int = _MAX_DEPTH) -> None:
        if not isinstance(entry, dict) or not (self._are_calls or isinstance(entry.get("index"), int)):
            self._entries.append(entry)  # as it is: nothing can be added to it
            return
        known = self._more_of(entry)
        if known is None:
            known = {}
            self._entries.append(known)
        grow(known, entry, depth)
        if isinstance(index := entry.get("index"), int):
            self._by_index[index] = known
        if isinstance(entry_id := entry.get("id"), str):
            self._by_id[entry_id] = known

    def _more_of(self, entry: Mapping[str, Any]) -> dict[str, Any] | None:
        index, entry_id = entry.get("index"), entry.get("id")
        if isinstance(index, int):
            known = self._by_index.get(index)
            is_another = self._are_calls and known is not None and _names_another(known, entry)
            return None if is_another else known
        if isinstance(entry_id, str) and entry_id:
            return self._by_id.get(entry_id)
        last = self._entries[-1] if self._entries else None
        return last if isinstance(last, dict) else None


def grow(known: dict[str, Any], said: Mapping[str, Any], depth: int = _MAX_DEPTH) -> None:
    """Add a delta's members to those known."""
    for name, piece in said.items():
        known[name] = _grown(known.get(name), piece, name, depth)


def _grown(known: Any, piece: Any, name: str, depth: int) -> Any:
    if piece is None or (name in _NAMES and known):
        return known
    if isinstance(piece, str) and name not in _NAMES:
        return _longer(known, piece)
    if depth and isinstance(piece, dict):
        known = known if isinstance(known, dict) else {}
        grow(known, piece, depth - 1)
        return known
    if depth and isinstance(piece, list):
        entries = known if isinstance(known, Entries) else Entries(are_calls=name == "tool_calls")
        if isinstance(known, Text) and known:
            entries.add(_part(str(known)))
        for entry in piece:
            entries.add(entry, depth - 1)
        return entries
    return piece


def _longer(known: Any, piece: str) -> Any:
    if isinstance(known, Entries):  # servers whose content is now text, now a list of parts
        known.add(_part(piece))
        return known
    if isinstance(known, Text):
        known.add(piece)
        return known
    return Text(piece)


def _part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _names_another(known: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    function = entry.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    return bool(name and entry.get("id") and known.get("id") and entry["id"] != known["id"])


def written(value: Any) -> bytes:
    """Compact JSON.  What orjson reads it may refuse to write: it reads 1024 levels and writes 254."""
    try:
        return orjson.dumps(value, default=_plain)
    except TypeError as error:
        raise UpstreamProtocolError("the answer is nested too deep to be put together") from error


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Text) else list(value)
