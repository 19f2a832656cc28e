"""Files of tenants: uploads that become batches, and what batches leave behind.

The ingress calls it. A file is its facts and its pieces; whoever uploads stores the pieces first, so that a file that
is listed is whole. It refuses nothing about what is in a file.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import NamedTuple

from relay.broker.asking import Asking
from relay.broker.connections import Link
from relay.broker.keys import Keys
from relay.broker.queue import fields
from relay.core.errors import Gone, NotFound

# Pieces of an upload that never ends in a file, because its client left, go after so long without another one.
ORPHAN_TTL_S = 600

# Facts are asked for one by one; ids of files that have expired cost a look each.
LOOKS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class File:
    """Times are Unix milliseconds."""

    id: str
    tenant: str
    filename: str
    purpose: str
    bytes: int
    created_ms: int
    expires_ms: int

    @classmethod
    def decode(cls, stored: dict[str, str]) -> File:
        return cls(
            stored["id"],
            stored["tenant"],
            stored["filename"],
            stored["purpose"],
            int(stored["bytes"]),
            int(stored["created_ms"]),
            int(stored["expires_ms"]),
        )


class Page(NamedTuple):
    files: list[File]
    more: bool


class Files:
    """The files of one partition.  Raises ``Unavailable`` when Redis cannot be asked."""

    def __init__(self, link: Link, keys: Keys) -> None:
        self._ask = Asking(link)
        self._keys = keys

    async def store(self, file_id: str, number: int, piece: bytes) -> None:
        """Keep a piece of a file to be."""
        key = self._keys.file_data(file_id)
        await self._ask.execute("HSET", key, number, piece)
        await self._ask.execute("EXPIRE", key, ORPHAN_TTL_S)

    async def forget(self, file_id: str) -> None:
        """Of a file that is not made after all."""
        await self._ask.execute("UNLINK", self._keys.file_data(file_id))

    async def create(self, file: File) -> None:
        """Make a file of the pieces that were stored."""
        keys, ttl_ms = self._keys, file.expires_ms - file.created_ms
        facts = [item for pair in asdict(file).items() for item in pair]
        await self._ask.execute("PEXPIRE", keys.file_data(file.id), ttl_ms)
        await self._ask.execute("HSET", keys.file(file.id), *facts)
        await self._ask.execute("PEXPIRE", keys.file(file.id), ttl_ms)
        index = keys.files(file.tenant)
        await self._ask.execute("ZADD", index, 0, file.id)
        # A key without an expiry is no greater than any: `NX` is for the first file, `GT` for the others.
        await self._ask.execute("PEXPIRE", index, ttl_ms, "NX")
        await self._ask.execute("PEXPIRE", index, ttl_ms, "GT")

    async def get(self, file_id: str, tenant: str) -> File:
        """Raises ``NotFound``, for another tenant's file as for none."""
        stored = fields(await self._ask.execute("HGETALL", self._keys.file(file_id)))
        if stored.get("tenant") != tenant:
            raise NotFound(f"No such File object: {file_id[:80]}", param="id")
        return File.decode(stored)

    async def page(self, tenant: str, purpose: str, after: str, limit: int, *, newest_first: bool) -> Page:
        """At most ``limit`` files behind ``after`` ('' begins at the beginning)."""
        index, found = self._keys.files(tenant), list[File]()
        begin, end = (f"({after}" if after else "+", "-") if newest_first else (f"({after}" if after else "-", "+")
        order = ("BYLEX", "REV") if newest_first else ("BYLEX",)
        ids = await self._ask.execute("ZRANGE", index, begin, end, *order, "LIMIT", 0, LOOKS_MAX)
        for raw in ids:
            stored = fields(await self._ask.execute("HGETALL", self._keys.file(raw.decode())))
            if not stored:
                await self._ask.execute("ZREM", index, raw)
            elif stored["tenant"] == tenant and purpose in ("", stored["purpose"]):
                found.append(File.decode(stored))
            if len(found) > limit:
                return Page(found[:limit], True)
        return Page(found, False)

    async def delete(self, file_id: str, tenant: str) -> None:
        """Raises ``NotFound``."""
        file = await self.get(file_id, tenant)
        await self._ask.execute("ZREM", self._keys.files(tenant), file.id)
        await self._ask.execute("UNLINK", self._keys.file(file.id), self._keys.file_data(file.id))

    async def content(self, file_id: str, size: int) -> AsyncIterator[bytes]:
        """Its pieces, one after the other.  Raises ``Gone`` when it ends before its time."""
        key, number = self._keys.file_data(file_id), 0
        while size > 0:
            piece: bytes | None = await self._ask.execute("HGET", key, number)
            if not piece:
                raise Gone(f"The content of {file_id} is not kept any more.")
            yield piece
            size -= len(piece)
            number += 1
