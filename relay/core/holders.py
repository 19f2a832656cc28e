"""Every object of a request on which a client may have put a marker, legal or not.

For code that moves or removes markers; ``cache_control`` says which of them are breakpoints.  By position only:
whatever is inside a schema, a tool's input or arguments, or a text is data.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from relay.core.job import Dialect

Holders = Iterator[tuple[str, dict[str, Any]]]


def holders(request: dict[str, Any], dialect: Dialect) -> Holders:
    """The objects with their paths, in processing order; the request itself, whose path is empty, comes first."""
    yield "", request
    yield from _BEFORE_MESSAGES[dialect](request)
    for path, message in objects(request, "messages"):
        yield path, message
        for at, block in objects(message, "content", path):
            yield at, block
            yield from objects(block, "content", at)
            if isinstance(block.get("source"), dict):
                yield from objects(block["source"], "content", f"{at}.source")
        yield from objects(message, "tool_calls", path)


def is_marked(holder: dict[str, Any]) -> bool:
    """The SDKs' types take null for absent."""
    return holder.get("cache_control") is not None


def objects(holder: dict[str, Any], name: str, path: str = "") -> Holders:
    """The objects in the list that is the member ``name`` of what is at ``path``."""
    entries = holder.get(name)
    if isinstance(entries, list):
        prefix = f"{path}.{name}" if path else name
        yield from ((f"{prefix}.{i}", entry) for i, entry in enumerate(entries) if isinstance(entry, dict))


def _anthropic(request: dict[str, Any]) -> Holders:
    yield from objects(request, "tools")
    yield from objects(request, "system")


def _openai(request: dict[str, Any]) -> Holders:
    for path, tool in objects(request, "tools"):
        yield path, tool
        if isinstance(tool.get("function"), dict):
            yield f"{path}.function", tool["function"]


_BEFORE_MESSAGES = {"anthropic": _anthropic, "openai": _openai}
