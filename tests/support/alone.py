"""Tests that compare times and are marked ``alone``: while one runs, no other test of the same ``make test`` does.

Sessions that run side by side take turns by two files that they lock: every test holds the room, most of them together,
one that is marked for itself. The root conftest puts it around each test. A single session has nobody to wait for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_SH, LOCK_UN, flock
from pathlib import Path

DOOR = "door.lock"


class Room:
    """``directory`` is the same for all sessions of one run, and no other's."""

    def __init__(self, directory: Path) -> None:
        self._door = (directory / DOOR).open("w")
        self._room = (directory / "room.lock").open("w")

    @contextmanager
    def held(self, *, alone: bool) -> Iterator[None]:
        # Whoever waits to be alone stands in the door: else those who share would follow each other for ever.
        with _locked(self._door.fileno(), LOCK_EX):
            flock(self._room, LOCK_EX if alone else LOCK_SH)
        try:
            yield
        finally:
            flock(self._room, LOCK_UN)

    def close(self) -> None:
        self._door.close()
        self._room.close()


@contextmanager
def _locked(file: int, how: int) -> Iterator[None]:
    flock(file, how)
    try:
        yield
    finally:
        flock(file, LOCK_UN)
