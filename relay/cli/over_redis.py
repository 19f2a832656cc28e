"""How the command line reaches Redis: the one that is configured, else that of a running ``relay up``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from relay.core.errors import Unavailable
from relay.local.data_dir import DataDir
from relay.settings import Settings

if TYPE_CHECKING:
    from relay.broker.connections import Client, Link

T = TypeVar("T")

# What a command needs to find its Redis.
FLAGS = ("redis_url", "data_dir", "log_level")


def on_redis(settings: Settings, use: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
    """Do one thing there with redis-py."""
    from relay.broker.connections import client

    async def connected() -> T:
        redis = client(url_of(settings))
        try:
            return await use(redis)
        finally:
            await redis.aclose()

    return asyncio.run(connected())


def on_link(settings: Settings, use: Callable[[Link], Coroutine[Any, Any, T]]) -> T:
    """The same with a connection of the data path.  Raises ``Unavailable``."""
    from relay.broker.connections import ConnectionError, Link, address

    async def connected() -> T:
        link = Link(address(url_of(settings)), "relay-cli")
        try:
            return await use(link)
        except ConnectionError as error:
            raise Unavailable("Redis cannot be reached.") from error
        finally:
            link.close()

    return asyncio.run(connected())


def url_of(settings: Settings) -> str:
    if "redis_url" in settings.model_fields_set:
        return settings.redis_url
    return DataDir(settings.data_dir).redis_url or settings.redis_url
