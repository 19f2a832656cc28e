"""Whether the content of a call is kept, what was asked and what was answered: the words in which a client says so.

Usage is always recorded; content never, unless it is asked for, and then for so long. The ingress calls ``asked`` on
what a header, an envelope or a key says; what comes of it travels with the job into the usage record, where the ledger
reads it with ``kept_s``.
"""

from __future__ import annotations

import re
from typing import Final

from relay.core.cache_control import refusal

USAGE: Final = "usage"
CONTENT: Final = "content"

# A month, as providers keep what they log; ``RELAY_CONTENT_TTL_S`` says otherwise.
LONGEST_S: Final = 30 * 86_400

_FORM = re.compile(r"content(?:\s*;\s*ttl=(\d{1,9}))?", re.ASCII)


def asked(said: str, longest_s: float, where: str) -> str:
    """What a job carries: ``content``, ``content;ttl=<seconds>``, or nothing.

    Raises ``InvalidRequest`` that names ``where`` it was said.
    """
    words = said.strip().lower()
    if words == USAGE:
        return ""
    form = _FORM.fullmatch(words)
    if form is None:
        raise refusal(where, "Input should be 'usage', 'content' or 'content; ttl=<seconds>'", said)
    if form[1] is None:
        return CONTENT
    if not 1 <= int(form[1]) <= longest_s:
        raise refusal(where, f"ttl should be from 1 to {int(longest_s)} seconds", said)
    return f"{CONTENT};ttl={int(form[1])}"


def kept_s(log: str, longest_s: float) -> float:
    """For how long the content of a job that carries ``log`` is kept; 0: not at all."""
    form = _FORM.fullmatch(log)
    if form is None:
        return 0
    return longest_s if form[1] is None else min(int(form[1]), longest_s)
