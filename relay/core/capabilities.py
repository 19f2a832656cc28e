"""What a provider does with ``cache_control``, and what becomes of a client's markers on the way to it.

    keep                  it knows the member: every marker arrives whole
    explicit_breakpoints  OpenAI's own form: a marker of a part becomes ``prompt_cache_breakpoint``, others are stripped
    strip                 it refuses the member: every marker is stripped

``adapt`` does this to a client's bytes where nothing else is translated; the translators ask ``carried``.  A marker
that does not arrive as it was written is a ``Change``, to be said in a response header and in the usage record.  No
marker is ever invented here, and none is judged: ``cache_control`` has done that.

OpenAI's times: 5m becomes the default (at least 30m); 1h becomes 12h, since 30m may be less than what was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import orjson

from relay.core import document
from relay.core.holders import holders, is_marked, objects
from relay.core.job import Dialect
from relay.core.minimums import minimum_tokens
from relay.core.splice import Splice
from relay.core.usage import Usage

Capability = Literal["keep", "explicit_breakpoints", "strip"]

HEADER: Final = "x-relay-cache-control"
# Providers take four breakpoints. Only markers where none counts can be more, and then there may be thousands.
_CHANGES_SHOWN: Final = 16

# The parts that take a ``prompt_cache_breakpoint`` (OpenAI SDK 3.54 and prompt caching guide).
_PARTS: Final = frozenset({"text", "image_url", "input_audio", "file", "refusal"})


@dataclass(frozen=True, slots=True)
class Change:
    """A marker that does not reach the provider as it was written.

    ``path`` names what carried it in the client's request (``messages.0.content.1``; empty: the request itself).
    ``became`` is the time of the provider's own breakpoint in its place, or None if there is none.
    """

    path: str
    ttl: str
    became: str | None = None


class Adapted(NamedTuple):
    body: bytes
    changes: tuple[Change, ...]


def adapt(body: bytes, dialect: Dialect, capability: Capability) -> Adapted:
    """A body that ``peek`` took, as a provider of the same dialect takes it.

    The very same bytes if it has no marker; else markers are cut out and breakpoints put in, and nothing else changes.
    """
    if capability == "keep" or not may_have_markers(body):
        return Adapted(body, ())
    splice, changes = Splice(body), []
    for path, holder in holders(document.parse(body), dialect):
        if "cache_control" in holder:
            splice.remove(path, "cache_control")
        if is_marked(holder):
            marker = holder["cache_control"]
            is_openai = dialect == "openai"
            changes.append(change_of(path, marker, _moved(splice, path, holder, capability) if is_openai else {}))
    return Adapted(splice.result(), tuple(changes))


def carried(marker: Any, holder: dict[str, Any], capability: Capability) -> dict[str, Any]:
    """The member that takes ``marker`` to the provider on ``holder``; nothing where it cannot go."""
    if capability == "keep":
        return {"cache_control": marker}
    is_free = holder.get("prompt_cache_breakpoint") is None  # the client's own stays as it is
    if capability == "explicit_breakpoints" and is_free and holder.get("type") in _PARTS:
        return {"prompt_cache_breakpoint": {"mode": "explicit"} | ({"ttl": "12h"} if _ttl(marker) == "1h" else {})}
    return {}


def change_of(path: str, marker: Any, member: dict[str, Any]) -> Change:
    """What became of a marker that travels as ``member``, which ``carried`` gave and which is not the marker itself."""
    own = member.get("prompt_cache_breakpoint")
    return Change(path, _ttl(marker), own.get("ttl", "30m") if own else None)


def header(changes: Sequence[Change], added: Sequence[str] = ()) -> str:
    """The value of ``HEADER``, as in ``stripped=messages.0.content.1;ttl=1h, translated=system.0;ttl=5m;as=30m``.

    ``added``: where breakpoints were put for a client that set none, as in ``added=tools.3``.
    """
    entries = [f"added={path}" for path in added] + [_entry(change) for change in changes[:_CHANGES_SHOWN]]
    if len(changes) > _CHANGES_SHOWN:
        entries.append(f"more={len(changes) - _CHANGES_SHOWN}")
    return ", ".join(entries)


def _entry(change: Change) -> str:
    how, suffix = ("translated", f";as={change.became}") if change.became else ("stripped", "")
    return f"{how}={change.path or 'body'};ttl={change.ttl}{suffix}"


def too_short(model: str, breakpoints: int, usage: Usage) -> str | None:
    """A note for the usage record, if the whole prompt had fewer tokens than the provider caches."""
    minimum = minimum_tokens(model)
    was_cached = usage.cache_read_tokens or usage.cache_write_tokens
    if not breakpoints or was_cached or not 0 < usage.prompt_tokens < minimum:
        return None
    return f"nothing was cached: the prompt has {usage.prompt_tokens} tokens, {model} caches from {minimum} on"


def _moved(splice: Splice, path: str, holder: dict[str, Any], capability: Capability) -> dict[str, Any]:
    """Writes the breakpoint that takes the place of a marker in a request of OpenAI's form, and returns it."""
    marker, steps = holder["cache_control"], path.split(".")
    if len(steps) == 4 and steps[2] == "content":
        at, part = path, holder
    elif len(steps) == 2 and steps[0] == "messages":
        at, part = _last_part(holder, path)
    else:
        return {}
    member = carried(marker, part, capability)
    if member and at == f"{path}.content":
        splice.wrap(at, b'[{"type":"text","text":', b"," + _inside(member) + b"}]")
    elif member:
        splice.add(at, _inside(member))
    return member


def _last_part(message: dict[str, Any], path: str) -> tuple[str, dict[str, Any]]:
    """Where a message's own marker falls: its last part, or its string, unless that part or a tool call takes it."""
    content = message.get("content")
    if message.get("tool_calls"):
        return path, {}
    if isinstance(content, str):
        return f"{path}.content", {"type": "text"} if content else {}
    parts = [(at, part) for at, part in objects(message, "content", path) if part.get("text") != ""]
    at, part = parts[-1] if parts else (path, {})
    return at, {} if is_marked(part) else part


def _inside(member: dict[str, Any]) -> bytes:
    return orjson.dumps(member)[1:-1]


def may_have_markers(body: bytes) -> bool:
    """Without the name, and without an escaped letter, there is none."""
    return b'"cache_control"' in body or b"\\u00" in body


def _ttl(marker: Any) -> str:
    """5m unless it says 1h; a marker that nobody judged may say anything."""
    return "1h" if isinstance(marker, dict) and marker.get("ttl") == "1h" else "5m"
