"""API keys: made, listed, revoked, and looked up for every request.

Redis holds digests, never keys: one hash, digest to record. The ingress keeps what it learned for ``FRESH_S``, so a
revoked key is out within that time; while Redis does not answer, a key known good is taken for ``STALE_S`` at most.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import orjson
from redis.asyncio import Redis

from relay.broker import keys
from relay.broker.connections import RedisError
from relay.core import api_key
from relay.core.errors import InvalidRequest, NotFound, Unauthenticated, Unavailable

log = logging.getLogger("relay.api_keys")

# "A revoked key is out within 10 s": half of it in normal times, all of it when Redis is away.
FRESH_S, STALE_S = 5.0, 10.0

# A Redis that takes longer than this to read one field is away. Shorter than STALE_S - FRESH_S, so that a key at the
# end of its freshness is still known when the wait is over.
_LOOKUP_S = 2.0

# Some 500 bytes each, so 5 MB at most; unknown keys are kept too, or a client with a wrong key would cost a trip each.
REMEMBERED = 10_000

# A given key shorter than this is warned of, and four characters of it would be too much to show.
SHORT = 16

# What a key may do that was made without a word about it; what it may do only if that was said, as it shows the prompts
# of colleagues or erases them; and, for an operator's key alone, see and manage all tenants in the console, content
# included.
SCOPES = ("jobs:read", "jobs:write", "usage:read")
CONTENT_SCOPES = ("content:read", "content:write")
ADMIN = "admin"
ALL_SCOPES = (*SCOPES, *CONTENT_SCOPES, ADMIN)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key: everything but the key. Times are Unix seconds."""

    id: str
    name: str
    tenant: str
    scopes: tuple[str, ...]
    created_at: int
    digest: str
    last4: str
    expires_at: int | None = None
    revoked_at: int | None = None
    cache: str = ""  # "auto": breakpoints for requests that set none; "off": never
    on_disconnect: str = ""  # what becomes of a native call whose client has left, if it does not say: finish or cancel
    log: str = ""  # "content": the content of its calls is kept, if they do not say

    def refuse_if_over(self, now: float) -> None:
        """Raises ``Unauthenticated`` for a key that is revoked or expired."""
        if self.revoked_at is not None:
            raise Unauthenticated(f"this API key (…{self.last4}) was revoked")
        if self.expires_at is not None and now >= self.expires_at:
            raise Unauthenticated(f"this API key (…{self.last4}) has expired")

    def encode(self) -> bytes:
        return orjson.dumps(asdict(self))

    @classmethod
    def decode(cls, stored: bytes) -> ApiKey:
        """From Redis; members a newer version added are left alone."""
        record = orjson.loads(stored)
        known: dict[str, Any] = {name: record[name] for name in cls.__dataclass_fields__ if name in record}
        return cls(**known | {"scopes": tuple(record["scopes"])})


@dataclass(frozen=True, slots=True)
class _Seen:
    record: ApiKey | None  # None: there is no such key
    at: float


class ApiKeys:
    """The keys of one Redis. ``now`` is the wall clock, ``monotonic`` the one for ages."""

    def __init__(
        self,
        client: Redis,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        remembered: int = REMEMBERED,
    ) -> None:
        self._client = client
        self._now = now
        self._monotonic = monotonic
        self._remembered = remembered
        self._seen: OrderedDict[str, _Seen] = OrderedDict()

    async def authenticate(self, presented: str | None) -> ApiKey:
        """Whose key this is. Raises ``Unauthenticated``, or ``Unavailable`` when Redis is away and we cannot know."""
        if not presented:
            raise Unauthenticated("no API key; send it as x-api-key or as Authorization: Bearer")
        if len(presented) > api_key.MAX_LENGTH:
            raise Unauthenticated("this is no API key: it is too long")
        if api_key.is_mistyped(presented):
            raise Unauthenticated(f"this API key (…{presented[-4:]}) is mistyped: its checksum is wrong")
        record = await self.known(api_key.digest(presented))
        if record is None:
            raise Unauthenticated(f"this API key{_hint(presented)} is unknown")
        return record

    async def known(self, digest: str) -> ApiKey | None:
        """The key with this digest, None if there is no such key. Raises like ``authenticate``."""
        record = await self._lookup(digest)
        if record is not None:
            record.refuse_if_over(self._now())
        return record

    async def create(
        self,
        name: str,
        tenant: str,
        *,
        scopes: tuple[str, ...] = SCOPES,
        expires_at: int | None = None,
        cache: str = "",
        on_disconnect: str = "",
        log: str = "",
    ) -> tuple[ApiKey, str]:
        """A new key: its record and, this once, the key itself."""
        key = api_key.make(secrets.token_bytes(api_key.ID_BYTES + api_key.SECRET_BYTES))
        record = replace(self._record(key, name, tenant), scopes=scopes, expires_at=expires_at)
        record = replace(record, cache=cache, on_disconnect=on_disconnect, log=log)
        await self._store(record)
        return record, key

    async def ensure(self, key: str, name: str, tenant: str) -> ApiKey:
        """Make a given text a key, the operator's, unless it is one already; one that was revoked stays revoked."""
        if not key or len(key) > api_key.MAX_LENGTH:
            raise InvalidRequest(f"an API key has 1 to {api_key.MAX_LENGTH} characters")
        if api_key.is_mistyped(key):
            raise InvalidRequest("the given API key has the form of one of ours, but its checksum is wrong")
        if len(key) < SHORT:
            log.warning("the given API key has %d characters; one of fewer than %d can be guessed", len(key), SHORT)
        record = replace(self._record(key, name, tenant), scopes=ALL_SCOPES)
        await _redis(self._client.hsetnx(keys.API_KEYS, record.digest, record.encode()))
        return await self._fetch(record.digest) or record

    async def list(self) -> list[ApiKey]:
        """All records, oldest first."""
        stored = await _redis(self._client.hvals(keys.API_KEYS))
        return sorted((ApiKey.decode(value) for value in stored), key=lambda record: (record.created_at, record.id))

    async def revoke(self, id_or_prefix: str) -> ApiKey:
        """Put a key out of use, for good. Raises ``NotFound`` unless exactly one key has that id."""
        found = [record for record in await self.list() if id_or_prefix and record.id.startswith(id_or_prefix)]
        if len(found) != 1:
            many = f"{len(found)} API keys have an id that begins with" if found else "no API key has the id"
            raise NotFound(f"{many} {id_or_prefix!r}")
        record = found[0]
        if record.revoked_at is None:
            record = replace(record, revoked_at=int(self._now()))
            await self._store(record)
        return record

    def _record(self, key: str, name: str, tenant: str) -> ApiKey:
        return ApiKey(
            id=api_key.id_of(key),
            name=name,
            tenant=tenant,
            scopes=SCOPES,
            created_at=int(self._now()),
            digest=api_key.digest(key),
            last4=key[-4:] if len(key) >= SHORT else "",
        )

    async def _store(self, record: ApiKey) -> None:
        await _redis(self._client.hset(keys.API_KEYS, record.digest, cast(str, record.encode())))
        self._seen.pop(record.digest, None)

    async def _lookup(self, digest: str) -> ApiKey | None:
        seen = self._seen.get(digest)
        if seen and self._monotonic() - seen.at <= FRESH_S:
            return seen.record
        asked = self._monotonic()
        try:
            record = await self._fetch(digest)
        except Unavailable:
            if seen and seen.record and self._monotonic() - seen.at <= STALE_S:
                return seen.record
            raise
        self._seen[digest] = _Seen(record, asked)
        self._seen.move_to_end(digest)
        if len(self._seen) > self._remembered:
            self._seen.popitem(last=False)
        return record

    async def _fetch(self, digest: str) -> ApiKey | None:
        stored = await _redis(self._client.hget(keys.API_KEYS, digest))
        record = ApiKey.decode(stored) if stored else None
        # A record filed under another key's digest would lend that key its rights.
        return record if record and hmac.compare_digest(record.digest, digest) else None


def _hint(presented: str) -> str:
    return f" (…{presented[-4:]})" if len(presented) >= SHORT and presented.isascii() else ""


async def _redis(command: Any) -> Any:
    """The answer of Redis. Raises ``Unavailable``."""
    try:
        async with asyncio.timeout(_LOOKUP_S):
            return await command
    except (RedisError, TimeoutError, OSError) as error:
        raise Unavailable("Redis does not answer, so API keys cannot be checked", retry_after_s=1) from error
