"""The message that the events of a Messages stream add up to, as it would have come unstreamed.

``messages`` calls it.  Unknown blocks are in the message as they started; unknown events and deltas are passed over.
No input makes it raise, and it does not ask whether the stream came to its end.

On purpose different from the official accumulator:

* zeros of sloppy servers do not overwrite what is known of the prompt, and null overwrites nothing;
* every usage member is merged, new ones too, and the split of the writes adds up to their total;
* tool input that was cut is ``{}``, not the smaller object that a lenient parser reads into it;
* the pieces of a block count whatever its type, so that tools of a later day get their input.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from relay.core.assembly.message_usage import add_usage, balanced
from relay.core.meter import member
from relay.core.translate.json_values import string

# Deltas that bring a piece of a string, and the member of theirs that holds it.
PIECES = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}


def message(payloads: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The whole message so far; None before it started."""
    whole: dict[str, Any] | None = None
    blocks: list[_Block] = []
    by_index: dict[int, _Block] = {}
    for payload in payloads:
        match payload.get("type"):
            case "message_start" if whole is None:
                whole = dict(member(payload, "message"))
            case "content_block_start":
                block = by_index[index_of(payload)] = _Block(member(payload, "content_block"))
                blocks.append(block)
            case "content_block_delta" if index_of(payload) in by_index:
                by_index[index_of(payload)].add(member(payload, "delta"))
            case "message_delta" if whole is not None:
                _update(whole, payload)
    if whole is None:
        return None
    started = whole.get("content")
    whole["content"] = [*(started if isinstance(started, list) else []), *(block.whole() for block in blocks)]
    whole["model"] = _serving(whole["content"]) or whole.get("model")
    if usage := member(whole, "usage"):
        whole["usage"] = balanced(usage)
    return whole


def index_of(payload: Mapping[str, Any]) -> int:
    """One number for all blocks of a server that leaves it out: it can only mean one at a time."""
    index = payload.get("index")
    return index if isinstance(index, int) else -1


def _update(whole: dict[str, Any], payload: Mapping[str, Any]) -> None:
    """What a ``message_delta`` says of the whole; some of it (context management) stands beside its delta."""
    beside = {name: value for name, value in payload.items() if name not in ("type", "delta", "usage")}
    for name, value in {**beside, **member(payload, "delta")}.items():
        if value is not None or name not in whole:
            whole[name] = value
    if said := member(payload, "usage"):
        usage = whole["usage"] = member(whole, "usage")
        add_usage(usage, said)


def _serving(content: Iterable[Any]) -> str | None:
    """The model that took over from the one that ``message_start`` names, if one did."""
    fallbacks = [block for block in content if isinstance(block, dict) and block.get("type") == "fallback"]
    return string(member(fallbacks[-1], "to").get("model")) if fallbacks else None


class _Block:
    """A content block as it grows."""

    def __init__(self, start: Mapping[str, Any]) -> None:
        self._block = dict(start)
        self._pieces: dict[str, list[str]] = {}  # by the member of the delta that holds them
        self._citations: list[Any] = []

    def add(self, delta: Mapping[str, Any]) -> None:
        match delta.get("type"):
            case "text_delta" | "thinking_delta" | "input_json_delta" as kind:
                name = PIECES[kind]
                self._pieces.setdefault(name, []).append(string(delta.get(name)))
            case "signature_delta":
                self._block["signature"] = string(delta.get("signature"))
            case "citations_delta" if "citation" in delta:
                self._citations.append(delta["citation"])
            case "compaction_delta":
                self._block.update({name: value for name, value in delta.items() if name != "type"})

    def whole(self) -> dict[str, Any]:
        block = self._block
        joined = {name: "".join(pieces) for name, pieces in self._pieces.items()}
        written = joined.pop("partial_json", "")
        # What sloppy servers put into the start, where others start empty, comes first.
        added: dict[str, Any] = {name: string(block.get(name)) + text for name, text in joined.items()}
        if self._citations:
            known = block.get("citations")
            added["citations"] = [*(known if isinstance(known, list) else []), *self._citations]
        if _is_json(written):
            # As it was written: to read and write it again would cost the digits of large numbers.
            added["input"] = orjson.Fragment(written)
        return {**block, **added}


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except ValueError:
        return False
    return True
