"""Thoughts: how the sandbox signs its own, and what a caller who hands them back must leave as it was.

Pure.  Only signatures made here are judged: what another provider signed, nobody else can tell.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any, Final

from relay.sandbox.reading import as_object
from relay.sandbox.refusal import Refusal

# Nine bytes: in base64 they are the same twelve characters, whatever follows.
_OURS: Final = b"a sandbox"
_OURS_SHOWN: Final = base64.b64encode(_OURS).decode()
_THOUGHTS: Final = ("thinking", "redacted_thinking")


def sign(thought: str) -> str:
    return base64.b64encode(_OURS + hashlib.sha256(thought.encode()).digest()).decode()


def check(body: dict[str, Any]) -> None:
    """Refuses a thought that was changed, and tool results without the thought that led to the calls."""
    is_enabled = as_object(body.get("thinking"), "thinking").get("type") == "enabled"
    turns = [(f"messages.{at}.content", message) for at, message in enumerate(body["messages"])]
    answers = [(path, turn["content"]) for path, turn in turns if turn["role"] == "assistant"]
    for path, content in answers:
        for index, block in enumerate(content if isinstance(content, list) else ()):
            if _is_forged(block):
                raise Refusal(400, f"{path}.{index}: Invalid `signature` in `thinking` block")
    if is_enabled and answers:
        _refuse_calls_out_of_nowhere(*answers[-1])


def _is_forged(block: dict[str, Any]) -> bool:
    thought, signature = block.get("thinking"), block.get("signature")
    if not (isinstance(thought, str) and isinstance(signature, str) and signature.startswith(_OURS_SHOWN)):
        return False
    # A thought that was not shown cannot be compared.
    return bool(thought) and signature != sign(thought)


def _refuse_calls_out_of_nowhere(path: str, content: object) -> None:
    kinds = [block["type"] for block in content] if isinstance(content, list) else []
    if "tool_use" in kinds and kinds[0] not in _THOUGHTS:
        raise Refusal(
            400,
            f"{path}.0.type: Expected `thinking` or `redacted_thinking`, but found `{kinds[0]}`. "
            "When `thinking` is enabled, a final `assistant` message must start with a thinking block.",
        )
