"""What a translated request is, and the notes that are taken while it is made.

The rule for both directions: what has a counterpart is translated, what the answer could not do without is refused with
its place, everything else is dropped and listed.  A marker is never lost without a ``Change``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from relay.core.capabilities import Capability, Change, carried, change_of
from relay.core.errors import InvalidRequest
from relay.core.holders import holders
from relay.core.job import Dialect
from relay.core.translate.reading import Json, place

# For one log line: names are the client's to choose, and a body has room for millions.
_DROPPED_MAX = 32
_NAME_CHARS_MAX = 64
_INDEX = re.compile(r"\.\d+")


@dataclass(frozen=True, slots=True)
class Translation:
    """A request in its new form.

    ``dropped``: members without a counterpart, each once, without indexes (``messages.name``), for one log line.
    ``changes``: markers that do not reach the provider as they were written, for the header and the usage record.
    """

    request: Json
    dropped: tuple[str, ...]
    changes: tuple[Change, ...]


class Made(NamedTuple):
    """A block or part, and the marker that is to be on it; ``path`` is where the client put what the marker was on."""

    block: Json
    path: str
    marker: Any = None


class Notes:
    """The losses of one translation, and the way back from a translated block to the client's words for it."""

    def __init__(self, capability: Capability, breakpoint_ttl: Any = None) -> None:
        self.breakpoint_ttl = breakpoint_ttl  # of a ``prompt_cache_breakpoint`` that has none
        self._capability = capability
        self._dropped: dict[str, None] = {}
        self._changes: list[Change] = []
        self._marked: list[tuple[Json, str]] = []

    def drop(self, path: str) -> None:
        if len(self._dropped) < _DROPPED_MAX:
            name = _INDEX.sub("", path)[:_NAME_CHARS_MAX]
            self._dropped[name.encode("utf-8", "replace").decode()] = None  # Half surrogate pairs cannot be logged.

    def drop_others(self, holder: Json, known: Iterable[str], path: str = "") -> None:
        """Every member that is neither ``known`` nor null."""
        for name in [name for name in holder if name not in known and holder[name] is not None]:
            self.drop(place(path, name))

    def strip(self, marker: Any, path: str) -> None:
        if marker is not None:
            self._changes.append(change_of(path, marker, {}))

    def marked(self, made: Made) -> Json:
        """The block with its marker, as far as the provider takes it."""
        if made.marker is None:
            return made.block
        member = carried(made.marker, made.block, self._capability)
        if "cache_control" not in member:
            self._changes.append(change_of(made.path, made.marker, member))
        block = made.block | member
        self._marked.append((block, made.path))
        return block

    def all_marked(self, made: Iterable[Made]) -> list[Json]:
        return [self.marked(each) for each in made]

    def translation(self, request: Json) -> Translation:
        return Translation(request, tuple(self._dropped), tuple(self._changes))

    def in_the_clients_words(self, refused: InvalidRequest, request: Json, dialect: Dialect) -> InvalidRequest:
        """What is wrong with a translated request, said of the one it was made from."""
        param = refused.param or ""
        origins = {id(block): origin for block, origin in self._marked}
        for path, holder in holders(request, dialect):
            if param.startswith(f"{path}.") and id(holder) in origins:
                origin = origins[id(holder)] + param.removeprefix(path)
                return InvalidRequest(origin + refused.message.removeprefix(param), param=origin)
        return refused


def with_own_marker(made: list[Made], marker: Any, path: str, notes: Notes) -> list[Made]:
    """A message's or a result's own marker falls on the last thing made of it, if that has none."""
    if marker is None:
        return made
    if not made or made[-1].marker is not None or made[-1].block.get("type") in ("thinking", "redacted_thinking"):
        notes.strip(marker, path)
        return made
    return [*made[:-1], Made(made[-1].block, path, marker)]
