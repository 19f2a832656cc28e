"""Where ``cache_control`` may stand in an Anthropic request, and which lifetime each block gets.

Pure.  The checks are the provider's, written from its documentation, messages included as far as they are known.
The relay has checks of its own and must not share these: see the package's docstring.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, NoReturn

from relay.sandbox.refusal import Refusal

TTL_S: Final = {"5m": 300, "1h": 3600}
_BREAKPOINTS_MAX: Final = 4


class Site(NamedTuple):
    """A block where a breakpoint may stand, in processing order: tools, system, messages."""

    path: str  # as the provider's messages name it: messages.0.content.1
    section: str  # "tools", "system" or the role of the message
    block: dict[str, Any]


def lifetimes(sites: Sequence[Site], automatic: object) -> list[int | None]:
    """The lifetime in seconds of the breakpoint on each site.  ``automatic`` is the body's own ``cache_control``."""
    ttls: list[int | None] = []
    for site in sites:
        _refuse_nested(site)
        ttls.append(_read(f"{site.path}.cache_control", site.block.get("cache_control")))
        if ttls[-1] is not None:
            _refuse_position(site)
    _place_automatic(sites, ttls, automatic)
    _check_count_and_order(sites, ttls)
    return ttls


def refuse_on_message(path: str, message: dict[str, Any]) -> None:
    if "cache_control" in message:
        _refuse(f"{path}.cache_control", "Extra inputs are not permitted")


def _read(path: str, marker: object) -> int | None:
    if marker is None:
        return None
    if not isinstance(marker, dict):
        _refuse(path, "Input should be a valid dictionary")
    if marker.get("type") != "ephemeral":
        _refuse(f"{path}.type", "Input should be 'ephemeral'" if "type" in marker else "Field required")
    for extra in marker.keys() - {"type", "ttl"}:
        _refuse(f"{path}.{extra}", "Extra inputs are not permitted")
    ttl = marker.get("ttl") or "5m"
    if not isinstance(ttl, str) or ttl not in TTL_S:
        _refuse(f"{path}.ttl", "Input should be '5m' or '1h'")
    return TTL_S[ttl]


def _cannot_carry(block: dict[str, Any]) -> str | None:
    """Why a block takes no breakpoint, or None if it does."""
    if block.get("type") in ("thinking", "redacted_thinking"):
        return "Extra inputs are not permitted"
    if block.get("type") == "text" and not block.get("text"):
        return "cache_control cannot be set for empty text blocks"
    if block.get("defer_loading") is True:
        return "cache_control cannot be set for tools with defer_loading"
    return None


def _refuse_position(site: Site) -> None:
    if reason := _cannot_carry(site.block):
        kind = site.block.get("type", "custom")
        _refuse(f"{site.path}.{kind}.cache_control", reason)


def _refuse_nested(site: Site) -> None:
    for path, inner in _inner_blocks(site):
        if isinstance(inner, dict) and inner.get("cache_control") is not None:
            _refuse(f"{path}.cache_control", "Extra inputs are not permitted")


def _inner_blocks(site: Site) -> Iterator[tuple[str, Any]]:
    # By position only: a cache_control inside a schema or a tool's input is data.
    kind, source = site.block.get("type"), site.block.get("source")
    if kind == "tool_result" and isinstance(inner := site.block.get("content"), list):
        yield from ((f"{site.path}.tool_result.content.{index}", block) for index, block in enumerate(inner))
    if kind in ("image", "document") and isinstance(source, dict):
        yield f"{site.path}.{kind}.source", source
        if isinstance(inner := source.get("content"), list):
            yield from ((f"{site.path}.{kind}.source.content.{index}", block) for index, block in enumerate(inner))
    if kind == "text" and isinstance(inner := site.block.get("citations"), list):
        yield from ((f"{site.path}.text.citations.{index}", entry) for index, entry in enumerate(inner))


def _place_automatic(sites: Sequence[Site], ttls: list[int | None], automatic: object) -> None:
    """The last block that can carry one gets the automatic breakpoint; others are passed over in silence."""
    ttl_s = _read("cache_control", automatic)
    if ttl_s is None:
        return
    for index in range(len(sites) - 1, -1, -1):
        if _cannot_carry(sites[index].block) is None:
            if ttls[index] not in (None, ttl_s):
                _refuse("cache_control.ttl", f"differs from the cache_control of {sites[index].path}")
            ttls[index] = ttl_s
            return


def _check_count_and_order(sites: Sequence[Site], ttls: Sequence[int | None]) -> None:
    count = sum(ttl_s is not None for ttl_s in ttls)
    if count > _BREAKPOINTS_MAX:
        raise Refusal(400, f"A maximum of {_BREAKPOINTS_MAX} blocks with cache_control may be provided. Found {count}.")
    short_seen = False
    for site, ttl_s in zip(sites, ttls, strict=True):
        if ttl_s == TTL_S["1h"] and short_seen:
            _refuse(
                f"{site.path}.cache_control.ttl",
                "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block. "
                "Note that blocks are processed in the following order: `tools`, `system`, `messages`.",
            )
        short_seen = short_seen or ttl_s == TTL_S["5m"]


def _refuse(path: str, reason: str) -> NoReturn:
    raise Refusal(400, f"{path}: {reason}")
