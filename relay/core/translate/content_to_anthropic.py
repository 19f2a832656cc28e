"""The parts of an OpenAI message as Anthropic blocks: one block for each part, in order, never joined.

    text                          text; an empty one goes, and its marker with it
    refusal                       text
    image_url                     image, by base64 or url; ``detail`` goes
    file                          document (PDF, plain text, file id) or image; ``filename`` becomes ``title``
    a block of Anthropic's own    itself
    anything else                 refused

Markers stay on their blocks, whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from relay.core.translate.markers import MEMBERS, marker_of
from relay.core.translate.media import file_block, image_block
from relay.core.translate.reading import Json, no_counterpart, objects_in, text_in
from relay.core.translate.translation import Made, Notes

# What a caller who knows its provider may send as it is (Anthropic SDK 2.12, beta included); and "…_tool_result".
_NATIVE: Final = frozenset(
    {"image", "document", "search_result", "container_upload", "tool_use", "tool_result", "server_tool_use"}
    | {"thinking", "redacted_thinking", "mcp_tool_use", "compaction", "fallback", "browser_state"}
    | {"tool_reference", "tool_addition", "tool_removal"}
)


def blocks_of(content: Any, path: str, notes: Notes) -> list[Made]:
    """The blocks of a message's content: a string, parts, or null."""
    if isinstance(content, str):
        return [Made(_text(content), path)] if content else []
    blocks = [_block(part, at, notes) for at, part in objects_in(content, path)]
    return [made for made in blocks if made is not None]


def refusal_block(message: Json, path: str) -> list[Made]:
    """An assistant's ``refusal`` member; empty or null there is none."""
    text = text_in(message, "refusal", path) if message.get("refusal") is not None else ""
    return [Made(_text(text), path)] if text else []


def _block(part: Json, path: str, notes: Notes) -> Made | None:
    kind, marker = part.get("type"), marker_of(part, path, notes)
    if isinstance(kind, str) and (kind in _NATIVE or kind.endswith("_tool_result")):
        is_bare = part.keys().isdisjoint(MEMBERS)
        block = part if is_bare else {name: value for name, value in part.items() if name not in MEMBERS}
        return Made(block, path, marker)
    if not isinstance(kind, str) or kind not in _PARTS:
        raise no_counterpart(f"{path}.type", kind)
    block = _PARTS[kind](part, path, notes)
    notes.drop_others(part, ("type", kind, *MEMBERS), path)
    if block.get("text") == "":  # Anthropic refuses it.
        notes.strip(marker, path)
        return None
    return Made(block, path, marker)


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


_PARTS: Final[dict[str, Callable[[Json, str, Notes], Json]]] = {
    "text": lambda part, path, notes: _text(text_in(part, "text", path)),
    "refusal": lambda part, path, notes: _text(text_in(part, "refusal", path)),
    "image_url": image_block,
    "file": file_block,
}
