"""The shortest prompt prefix a provider caches, model by model: data with a date, and one question to ask of it.

A shorter prefix is processed and billed as plain input; nothing fails.  So this is good for hints to people and for
the sandbox, and for nothing else: no marker is ever added or dropped because of it.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Final

AS_OF: Final = date(2026, 10, 8)
SOURCE: Final = "Anthropic, prompt caching guide (platform.claude.com), 4.x and 5.x; gateway lists for 3.x"

# Two sources give 2048 for Sonnet 4.6; the provider's newest page says 1024 and wins.
_TOKENS: Final[dict[int, tuple[str, ...]]] = {
    512: (
        "fable-5",
        "fable-5-1",
        "mythos-5",
        "mythos-5-1",
        "opus-5",
        "opus-5-5",
        "sonnet-5-5",
        "haiku-5-5",
    ),
    1024: (
        "opus-4-8",
        "sonnet-5",
        "sonnet-4-6",
        "sonnet-4-5",
        "opus-4-1",
        "opus-4",
        "sonnet-4",
        "sonnet-3-7",
        "sonnet-3-5",
        "opus-3",
    ),
    2048: ("mythos-preview", "opus-4-7", "haiku-3-5", "haiku-3"),
    4096: ("opus-4-6", "opus-4-5", "haiku-4-5"),
}
_BY_MODEL: Final = {model: tokens for tokens, models in _TOKENS.items() for model in models}

# Every OpenAI model, and our guess for a name the page does not list: most listed models have it.
DEFAULT: Final = 1024

# A version has one or two digits a part, so the date that may follow (-20250514, @20260205) is not taken for one.
_NEW_STYLE = re.compile(r"(fable|mythos|opus|sonnet|haiku)-(preview|\d{1,2}(?:-\d{1,2})?)(?!\d)")
_OLD_STYLE = re.compile(r"claude-(\d(?:-\d)?)-(opus|sonnet|haiku)")


def minimum_tokens(model: str) -> int:
    """Tokens a prefix needs before ``model`` caches it, however the name is dressed (provider prefix, date, dots)."""
    name = model.lower().replace(".", "-")
    if match := _NEW_STYLE.search(name):
        return _BY_MODEL.get(f"{match[1]}-{match[2]}", DEFAULT)
    if match := _OLD_STYLE.search(name):
        return _BY_MODEL.get(f"{match[2]}-{match[1]}", DEFAULT)
    return DEFAULT
