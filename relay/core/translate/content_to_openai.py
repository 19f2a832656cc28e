"""Anthropic's content blocks as OpenAI's parts: one part for each block, in order, never joined.

    text                             text; ``citations`` go
    image (base64, url)              image_url
    document (base64, text, file)    file; ``title`` becomes ``filename``; ``citations`` and ``context`` go
    document (content)               the parts of its blocks
    anything else                    refused: search results, other sources, and the blocks of the provider's tools

Markers stay on their parts.  A single text without a marker becomes a string, which every server takes.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from relay.core.translate.media import file_part, image_part
from relay.core.translate.reading import Json, no_counterpart, object_in, objects_in, text_in
from relay.core.translate.translation import Made, Notes, with_own_marker

ALL: Final = ("text", "image", "document")
TEXT: Final = ("text",)


def parts_of(content: Any, path: str, notes: Notes, kinds: Collection[str] = ALL) -> list[Made]:
    """The parts of a string, blocks, or null."""
    if isinstance(content, str):
        return [Made({"type": "text", "text": content}, path)] if content else []
    return [made for at, block in objects_in(content, path) for made in part_of(block, at, notes, kinds)]


def part_of(block: Json, path: str, notes: Notes, kinds: Collection[str] = ALL) -> list[Made]:
    """One block's part, or its parts, of which the last takes the block's marker."""
    kind = block.get("type")
    if kind not in kinds:
        raise no_counterpart(f"{path}.type", kind)
    made = _document(block, path, notes) if kind == "document" else [Made(_text_or_image(block, path, notes), path)]
    return with_own_marker(made, block.get("cache_control"), path, notes)


def content_of(made: list[Made], notes: Notes) -> str | list[Json]:
    """The ``content`` of a message with these parts."""
    parts = notes.all_marked(made)
    if not parts:
        return ""
    is_plain = len(parts) == 1 and parts[0].keys() == {"type", "text"}
    return str(parts[0]["text"]) if is_plain else parts


def _text_or_image(block: Json, path: str, notes: Notes) -> Json:
    if block["type"] == "text":
        notes.drop_others(block, ("type", "text", "cache_control"), path)
        return {"type": "text", "text": text_in(block, "text", path)}
    notes.drop_others(block, ("type", "source", "cache_control"), path)
    return image_part(block, path)


def _document(block: Json, path: str, notes: Notes) -> list[Made]:
    source = object_in(block, "source", path)
    known = ("type", "source", "cache_control")
    if source.get("type") == "content":
        notes.drop_others(block, known, path)
        return parts_of(source.get("content"), f"{path}.source.content", notes)
    notes.drop_others(block, known if source.get("type") == "file" else (*known, "title"), path)
    return [Made(file_part(block, path), path)]
