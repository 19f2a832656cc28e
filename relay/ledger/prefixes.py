"""What is expected to be in the providers' caches: beginnings of prompts, and from when to when they can be read.

Pure. ``Prefix`` is what is known of one beginning, ``Memory`` those that a batch of calls has to do with; ``inquiry``
brings them and takes them back. No provider tells what it keeps, so this is likely and no more: it decides about words
for a person to read, and about no money.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from relay.ledger.prompt import TTL_MS, Prompt, Variant
from relay.ledger.record import HIT, PARTIAL, UNKNOWN


@dataclass(slots=True)
class Prefix:
    """A beginning of prompts in one variant: the newest call that had it, and how long the provider keeps it.

    ``writer`` is the call that wrote it; empty where nothing says that it is in the cache.
    """

    variant: Variant
    call: str = ""
    size: int = 0
    seen_ms: int = -1
    writer: str = ""
    sent_ms: int = 0
    readable_ms: int = 0
    until_ms: int = 0
    ttl_ms: int = 0
    is_changed: bool = False

    def see(self, prompt: Prompt, size: int) -> None:
        if prompt.started_ms >= self.seen_ms:
            self.call, self.size, self.seen_ms = prompt.call, size, prompt.started_ms

    def keep(self, prompt: Prompt, ttl_ms: int) -> None:
        """The provider has read it for this prompt, or written it; each read renews its time."""
        sent_ms = prompt.started_ms
        readable_ms = sent_ms if prompt.cache == HIT else prompt.heard_ms
        was_lost = prompt.cache not in (HIT, PARTIAL) and sent_ms >= max(self.sent_ms, self.readable_ms)
        if not self.writer or sent_ms > self.until_ms or was_lost:
            self.writer, self.sent_ms, self.readable_ms = prompt.call, sent_ms, readable_ms
            self.ttl_ms, self.until_ms = ttl_ms, sent_ms + ttl_ms
        elif sent_ms + ttl_ms >= self.sent_ms:  # else it had come and gone before
            if readable_ms < self.readable_ms:
                self.writer, self.sent_ms, self.readable_ms = prompt.call, sent_ms, readable_ms
            self.ttl_ms = max(self.ttl_ms, ttl_ms)
            self.until_ms = max(self.until_ms, sent_ms + self.ttl_ms)


Key = tuple[str, str]  # hash and tenant
_NOTHING: Final[Mapping[Variant, Prefix]] = {}


class Memory:
    """The prefixes a batch has to do with. Those that are stored have to be there before the first call is noted."""

    def __init__(self, stored: Iterable[tuple[Key, Prefix]] = ()) -> None:
        self._known: dict[Key, dict[Variant, Prefix]] = {}
        for key, prefix in stored:
            self._known.setdefault(key, {})[prefix.variant] = prefix

    def of(self, prompt: Prompt, hash_: str) -> Mapping[Variant, Prefix]:
        """In every variant there is."""
        return self._known.get((hash_, prompt.tenant), _NOTHING)

    def changed(self) -> Iterator[tuple[Key, Prefix]]:
        """What is to be stored."""
        for key, variants in self._known.items():
            for prefix in variants.values():
                if prefix.is_changed:
                    yield key, prefix

    def note(self, prompt: Prompt) -> None:
        """What the providers' caches hold now that this call was made."""
        if not prompt.cached:
            return
        for entry in prompt.anchors:
            self._touch(prompt, entry.hash).see(prompt, entry.size)
        for entry in prompt.cached:
            prefix = self._touch(prompt, entry.hash)
            prefix.see(prompt, entry.size)
            prefix.keep(prompt, TTL_MS[entry.ttl])
        newest = self._touch(prompt, prompt.kind)
        newest.see(prompt, prompt.anchors[0].size)
        newest.until_ms = max(newest.until_ms, prompt.started_ms + max(TTL_MS[entry.ttl] for entry in prompt.cached))

    def _touch(self, prompt: Prompt, hash_: str) -> Prefix:
        variants = self._known.setdefault((hash_, prompt.tenant), {})
        prefix = variants.get(prompt.variant) or variants.setdefault(prompt.variant, Prefix(prompt.variant))
        prefix.is_changed = True
        return prefix


def wanted(prompt: Prompt) -> list[str]:
    """The hashes that have to be known to decide about a call and to note it."""
    if prompt.cache == UNKNOWN or not prompt.breakpoints:
        return []
    return [prompt.kind, *[entry.hash for entry in (*prompt.anchors, *prompt.cached, *prompt.unread)]]
