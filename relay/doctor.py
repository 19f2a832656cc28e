"""``relay doctor``: what is wrong, or soon will be, with everything a relay stands on.  It changes nothing.

Settings and secrets, Redis, API keys, workers, the ledger's database, and whether providers can be reached; no provider
is called, since a call costs money. What an operator should see first comes first.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from relay.broker.checkup import Finding, check_keys, check_queue, check_redis, check_usage_stream
from relay.broker.connections import Link, RedisError, address, client
from relay.broker.keys import Keys
from relay.core.errors import RelayError
from relay.provider import Provider
from relay.reference import SettingsError
from relay.settings import Settings


async def examine(settings: Settings, redis_url: str) -> AsyncIterator[Finding]:
    """The findings, as they are made."""
    if settings.sandbox:
        yield Finding("providers", "warning", "none is configured; the sandbox stands in")
    for provider in settings.providers.values():
        if not provider.is_sandbox:
            yield await _provider(provider)
    redis, link = client(redis_url), Link(address(redis_url), "relay-doctor")
    try:
        for finding in await check_redis(redis):
            yield finding
        keys = Keys(settings.partition)
        yield await check_keys(redis)
        for finding in await check_queue(link, keys, settings):
            yield finding
        yield await check_usage_stream(link, keys)
    except (RedisError, OSError) as error:
        yield Finding("redis", "wrong", f"cannot be reached: {error}")
    finally:
        link.close()
        await redis.aclose()
    yield await asyncio.to_thread(_database, settings)


async def _provider(provider: Provider) -> Finding:
    about = f"provider {provider.name}"
    try:
        provider.secret()
        provider.static_headers()
    except SettingsError as error:
        return Finding(about, "wrong", str(error))
    url = urlsplit(provider.base_url)
    secure = ssl.create_default_context() if url.scheme == "https" else None
    port = url.port or (443 if secure else 80)
    began = time.monotonic()
    try:
        async with asyncio.timeout(provider.connect_s):
            _, writer = await asyncio.open_connection(url.hostname, port, ssl=secure)
    except TimeoutError:
        return Finding(about, "wrong", f"{url.hostname} port {port} does not answer within {provider.connect_s:g} s")
    except (OSError, ssl.SSLError) as error:
        return Finding(about, "wrong", f"{url.hostname} port {port} cannot be reached: {error}")
    writer.close()
    key = "with" if provider.api_key else "without"
    return Finding(about, "ok", f"{url.hostname} answers in {(time.monotonic() - began) * 1000:.0f} ms; {key} a key")


def _database(settings: Settings) -> Finding:
    from relay.ledger.reading import look

    try:
        return Finding("database", "ok", look(settings))
    except (SettingsError, RelayError) as error:
        return Finding("database", "wrong", str(error))
