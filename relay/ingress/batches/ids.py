"""The ids of batches and files: as each provider spells them, with our partition inside."""

from __future__ import annotations

import re

from uuid_utils import uuid7

from relay.core.errors import NotFound

MESSAGE_BATCH, BATCH, FILE = "msgbatch_", "batch_", "file-"

_ID = re.compile(r"([a-z0-9]{1,16})_[0-9a-f]{32}", re.ASCII)


def new(prefix: str, partition: str) -> str:
    """Sortable by time."""
    return f"{prefix}{partition}_{uuid7().hex}"


def made_ms(made_id: str) -> int:
    """When an id was made, which is in it."""
    return int(made_id[-32:-20], 16)


def checked(prefix: str, partition: str, given: str) -> str:
    """An id that can be one of ours: others could name other keys in Redis.  Raises ``NotFound``."""
    match = _ID.fullmatch(given.removeprefix(prefix))
    if not given.startswith(prefix) or not match or match[1] != partition:
        raise NotFound(f"There is nothing with the id {given[:80]!r}.", param="id")
    return given
