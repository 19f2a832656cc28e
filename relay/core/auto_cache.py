"""``cache: auto``: breakpoints for a request that sets none.  The same request always gets the same ones.

At most three, so that one of the four stays free: on the last tool, on the last block of the system prompt, and on the
last stable turn.  A turn is stable when it will be sent again as it is: after tool results everything is, since the
loop goes on from there; else everything before the newest turn of the user, which may be the last of its kind.

``insert`` changes a client's bytes where they go to a provider of the same dialect, ``marked`` a parsed request that is
to be translated.  A request with any caching instruction of its own, in whatever place, is left alone.
"""

from __future__ import annotations

from typing import Any, Final

from relay.core import document
from relay.core.holders import holders, is_marked, objects
from relay.core.job import Dialect
from relay.core.splice import Splice

_Json = dict[str, Any]
_Holders = list[tuple[str, _Json]]

_MEMBER: Final = b'"cache_control":{"type":"ephemeral"}'

# What is certain to take a marker, in either dialect; texts do if they are not empty.
_MARKABLE: Final = frozenset(
    {"text", "image", "document", "search_result", "container_upload", "tool_use", "tool_result", "image_url", "file"}
)
_SYSTEM_ROLES: Final = ("system", "developer")


def places(request: _Json, dialect: Dialect) -> tuple[str, ...]:
    """The paths of the objects and strings that get a breakpoint, in processing order."""
    if _says_how(request, dialect):
        return ()
    messages = list(objects(request, "messages"))
    tools = [path for path, tool in objects(request, "tools") if tool.get("defer_loading") is not True]
    system = _last([("", request)], "system") if dialect == "anthropic" else _last(_leading_system(messages), "content")
    return (*tools[-1:], *system, *_last(_stable(messages), "content"))


def insert(body: bytes, dialect: Dialect) -> bytes:
    """A body that ``peek`` took, with its breakpoints written into it; all else stays as it stands."""
    request, splice = document.parse(body), Splice(body)
    for path in places(request, dialect):
        if isinstance(_at(request, path), str):
            splice.wrap(path, b'[{"type":"text","text":', b"," + _MEMBER + b"}]")
        else:
            splice.remove(path, "cache_control")  # If it is there it is null.
            splice.add(path, _MEMBER)
    return splice.result()


def marked(request: _Json, dialect: Dialect) -> _Json:
    """The same for a parsed request; the one given stays as it is."""
    for path in places(request, dialect):
        request = _with_marker(request, path.split("."))
    return request


def _says_how(request: _Json, dialect: Dialect) -> bool:
    """Whether the client has said anything about caching itself."""
    return request.get("prompt_cache_options") is not None or any(
        is_marked(holder) or holder.get("prompt_cache_breakpoint") is not None
        for _, holder in holders(request, dialect)
    )


def _leading_system(messages: _Holders) -> _Holders:
    """Later ones may be moved when they are translated."""
    others = [i for i, (_, message) in enumerate(messages) if message.get("role") not in _SYSTEM_ROLES]
    return messages[: others[0]] if others else messages


def _stable(messages: _Holders) -> _Holders:
    """The messages up to the end of the last stable turn."""
    roles = [message.get("role") for _, message in messages]
    end = len(roles)
    while end and roles[end - 1] == "assistant":  # a beginning of the answer, which is gone next time
        end -= 1
    start = end
    while start and roles[start - 1] != "assistant":
        start -= 1
    in_a_loop = any(_holds_results(message) for _, message in messages[start:end])
    return [each for each in messages[: end if in_a_loop else start] if each[1].get("role") not in _SYSTEM_ROLES]


def _holds_results(message: _Json) -> bool:
    blocks = objects(message, "content")
    return message.get("role") == "tool" or any(block.get("type") == "tool_result" for _, block in blocks)


def _last(candidates: _Holders, name: str) -> tuple[str, ...]:
    """The last markable thing in the member ``name`` of these: a block, or a string that can become one."""
    for path, holder in reversed(candidates):
        value = holder.get(name)
        if isinstance(value, str) and value:
            return (f"{path}.{name}" if path else name,)
        for at, block in reversed(list(objects(holder, name, path))):
            if _takes_a_marker(block):
                return (at,)
    return ()


def _takes_a_marker(block: _Json) -> bool:
    kind = block.get("type")
    return isinstance(kind, str) and kind in _MARKABLE and (kind != "text" or bool(block.get("text")))


def _at(value: Any, path: str) -> Any:
    for step in path.split("."):
        value = value[int(step)] if isinstance(value, list) else value[step]
    return value


def _with_marker(value: Any, steps: list[str]) -> Any:
    """A copy with the marker at the end of ``steps``; what is not on the way is shared."""
    if not steps and isinstance(value, str):
        return [_with_marker({"type": "text", "text": value}, [])]
    if not steps:
        return value | {"cache_control": {"type": "ephemeral"}}
    if isinstance(value, list):
        at = int(steps[0])
        return [*value[:at], _with_marker(value[at], steps[1:]), *value[at + 1 :]]
    return value | {steps[0]: _with_marker(value[steps[0]], steps[1:])}
