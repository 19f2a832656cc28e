"""Where a request marks its prompt for caching, and whether the provider can take the marks.

``peek`` calls it on the parsed request.  A marker counts by its position: ``cache_control`` inside a tool's schema, a
tool's input or a text is data.  It never changes a request.

Refusing a legal request is worse than forwarding an illegal one, so only what is certainly wrong is refused here. The
rest is forwarded uncounted, for the provider to judge: markers on nested blocks, on deferred tools and on unknown
block types, an automatic 1h marker after a 5m one; members of a marker that we do not know.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from relay.core.errors import InvalidRequest
from relay.core.job import Dialect

Ttl = Literal["5m", "1h"]

MAX_BREAKPOINTS = 4  # The provider's limit, the automatic one included.

# The types that take a marker in the Anthropic SDK 2.12, and OpenAI's parts.  So does every "…_tool_result".
_BLOCKS = frozenset(
    {"text", "image", "document", "search_result", "container_upload", "tool_use", "tool_result", "server_tool_use"}
    | {"mcp_tool_use", "compaction", "browser_state", "tool_reference", "tool_addition", "tool_removal"}
)
_PARTS = _BLOCKS | {"image_url", "input_audio", "file", "refusal"}
_NEVER_MARKED = ("thinking", "redacted_thinking")

# The order of processing, whatever the order in the JSON.
_TOOLS, _SYSTEM, _MESSAGES = range(3)


@dataclass(frozen=True, slots=True)
class Breakpoint:
    """A spot marked with ``cache_control``: the prompt is cached up to and including the object at ``path``.

    ``path`` is that of the object which carries the marker, as in ``messages.3.content.1``; it is empty for the
    request itself (automatic caching), which covers the whole prompt.
    """

    path: str
    ttl: Ttl


class _Marker(NamedTuple):
    path: str
    ttl: Ttl
    rank: int


class _LastBlock(NamedTuple):
    """Where the automatic marker falls, unless the block cannot take it; then it walks back and we do not follow."""

    message: str
    path: str
    takes_a_marker: bool


def breakpoints(request: dict[str, Any], surface: Dialect) -> tuple[Breakpoint, ...]:
    """The breakpoints in processing order; ``InvalidRequest`` if a marker is malformed or stands where none may."""
    return _counted(_markers(request, surface), request)


def check(request: dict[str, Any], surface: Dialect) -> tuple[Breakpoint, ...]:
    """The same, and ``InvalidRequest`` too if their number or order is certainly wrong.

    For a request in OpenAI's form this is the first check; a translated one is checked again in its new form.
    """
    markers = _markers(request, surface)
    _check_order(markers)
    _check_number(markers, request, surface)
    return _counted(markers, request)


def refusal(param: str, rule: str, got: Any = ...) -> InvalidRequest:
    """``param: rule`` in the provider's words, and the value that was wrong."""
    suffix = "" if got is ... else f", got {shown(got)}"
    return InvalidRequest(f"{param}: {rule}{suffix}", param=param)


def shown(value: Any) -> str:
    """A value of the client's in a message: short, ASCII, whatever it is."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "an array"
    if isinstance(value, str) and len(value) > 64:
        return f"{json.dumps(value[:64])}…"
    return json.dumps(value)


def _check_order(markers: list[_Marker]) -> None:
    """An explicit 1h marker after a 5m one is wrong if it comes later as the request stands and not earlier by rank."""
    earliest_5m = math.inf  # the lowest rank of a 5m marker so far: a hostile body may hold thousands of markers
    for marker in markers:
        if marker.ttl == "5m":
            earliest_5m = min(earliest_5m, marker.rank)
        elif marker.path and marker.ttl == "1h" and earliest_5m <= marker.rank:
            rule = (
                "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block. "
                "Note that blocks are processed in the following order: `tools`, `system`, `messages`."
            )
            raise refusal(f"{marker.path}.cache_control.ttl", rule)


def _check_number(markers: list[_Marker], request: dict[str, Any], surface: Dialect) -> None:
    found = len(markers)
    if _has_automatic(markers):
        last = _last_block(request)
        twin = _twin(markers, last)
        # A translated request may end in another block than it does here.
        is_certain = surface == "anthropic" and last is not None and last.takes_a_marker
        if is_certain and twin and twin.ttl != markers[-1].ttl:
            rule = f"the last block, {twin.path}, already has cache_control with ttl '{twin.ttl}'"
            raise refusal("cache_control.ttl", rule, markers[-1].ttl)
        if twin or not is_certain:
            found -= 1
    if found > MAX_BREAKPOINTS:
        rule = f"A maximum of {MAX_BREAKPOINTS} blocks with cache_control may be provided. Found {found}."
        raise InvalidRequest(rule)


def _counted(markers: list[_Marker], request: dict[str, Any]) -> tuple[Breakpoint, ...]:
    """All but an automatic marker on a block that has one already: there it changes nothing."""
    if _has_automatic(markers) and _twin(markers, _last_block(request)):
        markers = markers[:-1]
    return tuple([Breakpoint(marker.path, marker.ttl) for marker in markers])


def _has_automatic(markers: list[_Marker]) -> bool:
    return bool(markers) and not markers[-1].path


def _twin(markers: list[_Marker], last: _LastBlock | None) -> _Marker | None:
    """The explicit marker on the block where the automatic one falls."""
    return next((marker for marker in markers if last and marker.path in (last.message, last.path)), None)


def _last_block(request: dict[str, Any]) -> _LastBlock | None:
    messages = request.get("messages")
    if not (isinstance(messages, list) and messages and isinstance(messages[-1], dict)):
        return None
    path, content = f"messages.{len(messages) - 1}", messages[-1].get("content")
    if isinstance(content, str):
        return _LastBlock(path, path, content != "")
    if isinstance(content, list) and content and isinstance(content[-1], dict):
        takes = _is_one_of(_BLOCKS, content[-1]) and not _is_empty_text(content[-1])
        return _LastBlock(path, f"{path}.content.{len(content) - 1}", takes)
    return None


def _markers(request: dict[str, Any], surface: Dialect) -> list[_Marker]:
    """All markers at known positions, in processing order, the automatic one last (its path is empty)."""
    markers = list(_POSITIONS[surface](request))
    if _is_marked(request):
        markers.append(_marker("", request, _MESSAGES))
    return markers


def _marker(path: str, holder: dict[str, Any], rank: int) -> _Marker:
    control, param = holder["cache_control"], f"{path}.cache_control".lstrip(".")
    if not isinstance(control, dict):
        raise refusal(param, "Input should be an object", control)
    if "type" not in control:
        raise refusal(f"{param}.type", "Field required")
    if control["type"] != "ephemeral":
        raise refusal(f"{param}.type", "Input should be 'ephemeral'", control["type"])
    ttl = control.get("ttl")
    if ttl not in (None, "5m", "1h"):
        raise refusal(f"{param}.ttl", "Input should be '5m' or '1h'", ttl)
    return _Marker(path, "1h" if ttl == "1h" else "5m", rank)


def _anthropic(request: dict[str, Any]) -> Iterator[_Marker]:
    for i, tool in _marked(request.get("tools")):
        if not _is_deferred(tool):
            yield _marker(f"tools.{i}", tool, _TOOLS)
    for i, block in _marked(request.get("system")):
        yield from _block(f"system.{i}", block, _SYSTEM)
    for m, message in _objects(request.get("messages")):
        if _is_marked(message):
            raise refusal(f"messages.{m}.cache_control", "Extra inputs are not permitted")
        for i, block in _marked(message.get("content")):
            yield from _block(f"messages.{m}.content.{i}", block, _MESSAGES)


def _block(path: str, block: dict[str, Any], rank: int) -> Iterator[_Marker]:
    if block.get("type") in _NEVER_MARKED:
        raise refusal(f"{path}.{block['type']}.cache_control", "Extra inputs are not permitted")
    if _is_empty_text(block):
        raise refusal(f"{path}.text", "cache_control cannot be set for empty text blocks")
    if _is_one_of(_BLOCKS, block):
        yield _marker(path, block, rank)


def _openai(request: dict[str, Any]) -> Iterator[_Marker]:
    for i, tool in _objects(request.get("tools")):
        function = tool.get("function")
        if _is_deferred(tool):
            continue
        if _is_marked(tool):
            yield _marker(f"tools.{i}", tool, _TOOLS)
        elif isinstance(function, dict) and _is_marked(function):
            yield _marker(f"tools.{i}.function", function, _TOOLS)
    for m, message in _objects(request.get("messages")):
        # System messages may be moved to the front when translated, and may be left in place.
        rank = _SYSTEM if message.get("role") in ("system", "developer") else _MESSAGES
        for path, holder in _marked_in_message(message, f"messages.{m}"):
            yield _marker(path, holder, rank)


def _marked_in_message(message: dict[str, Any], path: str) -> list[tuple[str, dict[str, Any]]]:
    """The marked objects of an OpenAI message, one for each Anthropic block that will carry a marker.

    A message's own marker goes to its last block, if that has none. A tool message becomes one block, and takes the
    last of its markers. Empty texts become no block.
    """
    parts = [(f"{path}.content.{i}", part) for i, part in _objects(message.get("content")) if not _is_empty_text(part)]
    calls = [(f"{path}.tool_calls.{i}", call) for i, call in _objects(message.get("tool_calls"))]
    marked = [(at, part) for at, part in parts if _is_marked(part) and _is_one_of(_PARTS, part)]
    marked += [(at, call) for at, call in calls if _is_marked(call)]
    last = [block for _, block in (*parts, *calls)][-1:]
    has_block = bool(last) or (isinstance(message.get("content"), str) and message["content"] != "")
    if _is_marked(message) and has_block and not any(map(_is_marked, last)):
        marked.append((path, message))
    return marked[-1:] if message.get("role") == "tool" else marked


_POSITIONS: dict[Dialect, Callable[[dict[str, Any]], Iterator[_Marker]]] = {"anthropic": _anthropic, "openai": _openai}


def _objects(value: Any) -> list[tuple[int, dict[str, Any]]]:
    """The objects in a list, numbered.  What is no list, or no object in it, has no place for a marker."""
    return [(i, entry) for i, entry in enumerate(value) if isinstance(entry, dict)] if isinstance(value, list) else []


def _marked(value: Any) -> list[tuple[int, dict[str, Any]]]:
    if not isinstance(value, list):
        return []
    return [(i, e) for i, e in enumerate(value) if isinstance(e, dict) and e.get("cache_control") is not None]


def _is_marked(holder: dict[str, Any]) -> bool:
    return holder.get("cache_control") is not None  # The SDK's types take null for absent.


def _is_deferred(tool: dict[str, Any]) -> bool:
    return tool.get("defer_loading") is True


def _is_one_of(kinds: frozenset[str], block: dict[str, Any]) -> bool:
    kind = block.get("type")
    return isinstance(kind, str) and (kind in kinds or kind.endswith("_tool_result"))


def _is_empty_text(block: dict[str, Any]) -> bool:
    return block.get("type") == "text" and block.get("text") == ""
