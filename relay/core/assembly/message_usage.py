"""The ``usage`` of a whole message, from what a stream says of it in its start and its deltas.

``message`` calls it.  The members keep their names and shapes, unknown ones too; the record that is billed is the
meter's, which follows the same rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relay.core.usage import RawUsage

# Counts that sloppy servers report as 0 at the end, having told them at the start.
_OF_THE_PROMPT = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
# What the start says of these holds.
_OF_THE_CALL = ("service_tier", "speed", "inference_geo")

_SPLIT = {name: name for name in ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")}


def add_usage(usage: dict[str, Any], said: Mapping[str, Any]) -> None:
    """Note one more object of running totals."""
    fallback = _fallback(said)
    if fallback is not None:
        # The numbers are those of the attempt that served, and the split must be, too.
        usage["cache_creation"] = fallback.get("cache_creation")
    for name, value in said.items():
        is_filler = value == 0 and name in _OF_THE_PROMPT and fallback is None
        if usage.get(name) is None or not (value is None or is_filler or name in _OF_THE_CALL):
            usage[name] = value


def balanced(usage: Mapping[str, Any]) -> dict[str, Any]:
    """The usage with a split that adds up: it comes at the start, and a server tool's own 5m writes come later."""
    said = RawUsage(usage)
    total = said.count("cache_creation_input_tokens")
    split = said.members("cache_creation").counts(_SPLIT)
    rest = (total or 0) - sum(split.values())
    if rest <= 0 or not split or not any(said.members("server_tool_use").all_counts().values()):
        return dict(usage)
    short = split.get("ephemeral_5m_input_tokens", 0) + rest
    return {**usage, "cache_creation": {**usage["cache_creation"], "ephemeral_5m_input_tokens": short}}


def _fallback(said: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The pass of the model that took over, if one did."""
    passes = RawUsage(said).entries("iterations")
    return next((each.raw for each in reversed(passes) if each.raw.get("type") == "fallback_message"), None)
