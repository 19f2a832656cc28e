"""A usage record in the words of each surface, for the translators of answers and streams.

Only shapes: the numbers are the meter's, and no price is known here.
"""

from __future__ import annotations

from typing import Any

from relay.core.usage import Usage

# OpenAI's word for how a call was served → Anthropic's.  The others (flex, scale, auto) have no counterpart.
_ANTHROPIC_TIERS = {"default": "standard", "standard": "standard", "priority": "priority", "fast": "priority"}


def in_openai_shape(usage: Usage) -> dict[str, Any]:
    """The ``usage`` of a Chat Completion: the prompt includes what was read from the cache and written to it."""
    shape: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
    }
    if usage.reasoning_tokens is not None:
        shape["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return shape


def in_anthropic_shape(usage: Usage | None) -> dict[str, Any]:
    """The ``usage`` of a message: input is what the cache did not help with, writes are split by time.

    A surface whose SDKs fail without the member cannot say "unknown": then the counts are 0 and the split is null.
    OpenAI's own times of writes go to the nearer of 5m and 1h, as they do in the bill.
    """
    if usage is None:
        return {
            "input_tokens": 0,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": None,
            "output_tokens": 0,
        }
    shape: dict[str, Any] = {
        "input_tokens": usage.input_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.buckets.cache_write_5m,
            "ephemeral_1h_input_tokens": usage.buckets.cache_write_1h,
        },
        "output_tokens": usage.output_tokens,
    }
    if usage.reasoning_tokens is not None:
        shape["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    if usage.service_tier in _ANTHROPIC_TIERS:
        shape["service_tier"] = _ANTHROPIC_TIERS[usage.service_tier]
    return shape
