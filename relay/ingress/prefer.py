"""What a client would rather have (RFC 7240): an answer later, or one that waits.

Preferences are wishes: what is not known or makes no sense is not refused, and the answer says which were granted.
"""

from __future__ import annotations

from typing import NamedTuple

HEADER = b"prefer"
APPLIED = b"preference-applied"

# Between us and the client are machines that give up a silent connection after about so long.
WAIT_MAX_S = 60


class Prefer(NamedTuple):
    respond_async: bool = False
    wait_s: int = 0


def prefer(value: bytes) -> Prefer:
    """The preferences in a header's value; of a repeated one the first counts."""
    wishes: dict[str, str] = {}
    for wish in value.decode("latin-1").split(","):
        name, _, given = wish.partition(";")[0].partition("=")
        wishes.setdefault(name.strip().lower(), given.strip().strip('"'))
    wait = wishes.get("wait", "")
    wait_s = min(int(wait[:9]), WAIT_MAX_S) if wait.isascii() and wait.isdigit() else 0
    return Prefer("respond-async" in wishes, wait_s)
