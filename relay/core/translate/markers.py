"""A client's marker in a request of OpenAI's form: Anthropic's member, which both SDKs send, or OpenAI's own."""

from __future__ import annotations

from typing import Any, Final

from relay.core.cache_control import refusal
from relay.core.translate.reading import Json
from relay.core.translate.translation import Notes

MEMBERS: Final = ("cache_control", "prompt_cache_breakpoint")


def marker_of(holder: Json, path: str, notes: Notes) -> Any:
    """The marker, whole, or None.  Both of OpenAI's times are above 5m and become 1h; no time means the default."""
    if holder.get("cache_control") is not None:
        return holder["cache_control"]
    own = holder.get("prompt_cache_breakpoint")
    if own is None:
        return None
    if not isinstance(own, dict):
        raise refusal(f"{path}.prompt_cache_breakpoint", "Input should be an object", own)
    ttl = notes.breakpoint_ttl if own.get("ttl") is None else own["ttl"]
    if ttl is None:
        return {"type": "ephemeral"}
    if ttl not in ("30m", "12h"):
        raise refusal(f"{path}.prompt_cache_breakpoint.ttl", "Input should be '30m' or '12h'", ttl)
    return {"type": "ephemeral", "ttl": "1h"}
