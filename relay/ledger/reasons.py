"""Why a call was not served from the provider's cache, or not as far as it could have been.

Pure: ``decide`` is told of the call's prompt and of what is expected to be in the caches (``prefixes``), and names a
reason and, where there is one, the place in the prompt. The reason is for people; nothing else follows from it.

A provider only says how many tokens it has read and written. The rest is inferred: which of the prompt's beginnings it
should have held when the call was sent, and, if none, which earlier prompt this one was meant to go on from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from relay.core.fingerprint import Entry, first_difference, parse
from relay.ledger.prefixes import Memory, Prefix
from relay.ledger.prompt import TTL_MS, Prompt, Variant, marks_in
from relay.ledger.record import HIT, NONE, PARTIAL, UNKNOWN

FIRST_TIME, PREFIX_CHANGED, TTL_EXPIRED, EVICTED = "first_time", "prefix_changed", "ttl_expired", "evicted"
BELOW_MINIMUM, BEYOND_LOOKBACK, STRIPPED = "below_minimum", "beyond_lookback", "stripped"
OTHER_MODEL, OTHER_PROVIDER, OTHER_HEADERS = "other_model", "other_provider", "other_headers"
NOT_YET_READABLE = "not_yet_readable"

REASONS: Final[Mapping[str, str]] = {
    FIRST_TIME: "nothing like it was sent before",
    PREFIX_CHANGED: "a prompt sent before began alike; the place is where this one differs",
    TTL_EXPIRED: "it was cached up to that place, and its time was over",
    BELOW_MINIMUM: "shorter than what the model caches",
    OTHER_MODEL: "cached for another model only",
    OTHER_PROVIDER: "cached at another provider only",
    OTHER_HEADERS: "cached under other `anthropic-beta` or `anthropic-version` headers only",
    NOT_YET_READABLE: "being written by a call whose answer had not begun yet",
    BEYOND_LOOKBACK: "cached up to that place, more than 20 blocks before the next breakpoint",
    STRIPPED: "its breakpoints did not reach the provider, which does not take them",
    EVICTED: "should have been cached up to that place; the provider had dropped it, or got a key of another account",
}

# How far a provider looks back from a breakpoint (Anthropic's prompt caching guide).
LOOKBACK_BLOCKS: Final = 20

# Two first blocks of so nearly one size are one text with something in it that changes, such as the time.
_ALIKE: Final = 0.05


class Reason(NamedTuple):
    """``code`` is empty where there is nothing to explain. ``at``: a path as in the fingerprint."""

    code: str = ""
    at: str | None = None


class Kin(NamedTuple):
    """The newest earlier prompt that began like this one. ``is_close``: with the same first message."""

    call: str
    seen_ms: int
    is_close: bool


_Expected = tuple[Entry, str]  # an end of something cached, and why it was not read; empty where it should have been


def decide(prompt: Prompt, note: str | None, memory: Memory, earlier: Mapping[str, str]) -> Reason:
    """``note``: the worker's remark that the prompt is too short. ``earlier``: fingerprints by call."""
    has_read = prompt.cache == PARTIAL
    if prompt.cache in (HIT, UNKNOWN):
        return Reason()
    if not prompt.breakpoints:
        return Reason() if has_read else Reason(STRIPPED)
    if prompt.cache == NONE and (note or not prompt.cached):
        return Reason(BELOW_MINIMUM, prompt.breakpoints[-1].path)
    kin = kin_of(prompt, memory)
    before = earlier.get(kin.call) if kin else None
    found = _from_cache(prompt, memory, kin, before)
    if not found and kin and before and (kin.is_close or not has_read):
        found = _changed(prompt, kin, before)
    if found or has_read:
        return found or Reason()
    return _from_other_cache(prompt, memory) or _changed_from_the_start(prompt, memory) or Reason(FIRST_TIME)


def kin_of(prompt: Prompt, memory: Memory) -> Kin | None:
    """Of the same conversation the newest; else the one that went along for longest."""
    found: list[tuple[bool, int, int, str]] = []
    for entry in (*prompt.unread, *prompt.anchors):
        prefix = memory.of(prompt, entry.hash).get(prompt.variant)
        if prefix and prefix.call != prompt.call and prefix.seen_ms <= prompt.started_ms:
            is_close = entry.section == "messages"
            found.append((is_close, prefix.seen_ms if is_close else entry.size, prefix.seen_ms, prefix.call))
    if not found:
        return None
    is_close, _, seen_ms, call = max(found)
    return Kin(call, seen_ms, is_close)


def _from_cache(prompt: Prompt, memory: Memory, kin: Kin | None, before: str | None) -> Reason | None:
    """What the cache should have held, and why it was not read."""
    expected = list(_held(prompt, memory))
    if kin and before and (more := _held_for_kin(prompt, kin, before)):
        expected.append(more)
    if not expected:
        return None
    expected.sort(key=lambda each: each[0].size, reverse=True)
    lost = next((entry for entry, code in expected if not code), None)
    if lost and prompt.cache != PARTIAL:
        return Reason(EVICTED, lost.path)
    longest, code = expected[0]
    return Reason(code, longest.path) if code else None


def _held(prompt: Prompt, memory: Memory) -> Iterator[_Expected]:
    for entry in prompt.unread:
        prefix = memory.of(prompt, entry.hash).get(prompt.variant)
        if prefix and prefix.writer not in ("", prompt.call) and prefix.sent_ms <= prompt.heard_ms:
            yield entry, _state(prefix, prompt) or _out_of_sight(prompt, entry)


def _held_for_kin(prompt: Prompt, kin: Kin, before: str) -> _Expected | None:
    """Its last breakpoint, where the fingerprint of this prompt has kept no boundary, as it does of long ones."""
    if not kin.is_close or not prompt.unread:
        return None
    end = marks_in(before.split(" "))[-1]
    is_unread = prompt.unread[-1].size <= end.size <= prompt.breakpoints[-1].size
    if not is_unread or prompt.has(end) or first_difference(parse(before), parse(prompt.fingerprint)):
        return None
    is_over = prompt.started_ms > kin.seen_ms + TTL_MS[end.ttl]
    return end, TTL_EXPIRED if is_over else _out_of_sight(prompt, end)


def _state(prefix: Prefix, prompt: Prompt) -> str:
    if prefix.readable_ms > prompt.started_ms:
        return NOT_YET_READABLE
    return TTL_EXPIRED if prefix.until_ms < prompt.started_ms else ""


def _out_of_sight(prompt: Prompt, entry: Entry) -> str:
    """Whether each breakpoint is certainly too far behind it; how many blocks a message has is not known."""
    behind = [mark for mark in prompt.breakpoints if mark.size >= entry.size]
    return BEYOND_LOOKBACK if all(_blocks_between(entry, mark) > LOOKBACK_BLOCKS for mark in behind) else ""


def _blocks_between(entry: Entry, mark: Entry) -> int:
    """At least."""
    return _number(mark) - (_number(entry) if entry.section == mark.section else -1)


def _number(entry: Entry) -> int:
    """Of the tool, the block of the system prompt, or the message."""
    number = entry.path.split(".")[1:2]
    return int(number[0]) if number else 0


def _changed(prompt: Prompt, kin: Kin, before: str) -> Reason | None:
    """Where this prompt departed from its kin, if that kept it from something that was still cached."""
    spoiled = [mark for mark in marks_in(before.split(" ")) if not prompt.has(mark)]
    if not any(kin.seen_ms + TTL_MS[mark.ttl] >= prompt.started_ms for mark in spoiled):
        return None
    this = parse(prompt.fingerprint)
    difference = first_difference(parse(before), this)
    if difference is None or (difference in this.entries and difference.size > prompt.breakpoints[-1].size):
        return None
    return Reason(PREFIX_CHANGED, difference.path)


def _from_other_cache(prompt: Prompt, memory: Memory) -> Reason | None:
    for entry in prompt.unread:
        held = memory.of(prompt, entry.hash).items()
        codes = {_other(prompt.variant, each) for each, prefix in held if prefix.writer and not _state(prefix, prompt)}
        for code in (OTHER_HEADERS, OTHER_MODEL, OTHER_PROVIDER):
            if code in codes:
                return Reason(code, entry.path)
    return None


def _other(mine: Variant, other: Variant) -> str:
    """In what they differ; not asked of one and the same, which would have been found before."""
    if mine.provider != other.provider:
        return OTHER_PROVIDER
    return OTHER_HEADERS if mine.target == other.target else OTHER_MODEL


def _changed_from_the_start(prompt: Prompt, memory: Memory) -> Reason | None:
    """The application's prompt before this one had a first block of the same size, and another one all the same."""
    first, before = prompt.anchors[0], memory.of(prompt, prompt.kind).get(prompt.variant)
    if before is None or before.call == prompt.call or prompt.variant in memory.of(prompt, first.hash):
        return None
    was_kept = before.seen_ms <= prompt.started_ms <= before.until_ms
    if was_kept and abs(before.size - first.size) <= _ALIKE * first.size:
        return Reason(PREFIX_CHANGED, first.path)
    return None
