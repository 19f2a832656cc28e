"""Turns of tests that compare times."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

from tests.support.alone import DOOR, Room
from tests.support.wait import wait_until


async def test_most_share_and_one_is_alone(tmp_path: Path) -> None:
    rooms = [Room(tmp_path) for _ in range(4)]
    inside: list[str] = []
    seen: list[list[str]] = []

    def test(room: Room, name: str, alone: bool) -> None:
        with room.held(alone=alone):
            inside.append(name)
            seen.append(sorted(inside))
            inside.remove(name)

    with ExitStack() as first:
        first.enter_context(rooms[0].held(alone=False))
        inside.append("first")
        await asyncio.to_thread(test, rooms[1], "sharer", False)
        waiting = asyncio.create_task(asyncio.to_thread(test, rooms[2], "alone", True))
        await wait_until(lambda: is_locked(tmp_path / DOOR), what="it stands in the door")
        late = asyncio.create_task(asyncio.to_thread(test, rooms[3], "late", False))
        inside.remove("first")
    await asyncio.gather(waiting, late)
    for room in rooms:
        room.close()
    assert seen == [["first", "sharer"], ["alone"], ["late"]]


def is_locked(path: Path) -> bool:
    with path.open() as file:
        try:
            flock(file, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            return True
    return False
