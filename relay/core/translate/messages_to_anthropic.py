"""OpenAI's messages as Anthropic's ``system`` and ``messages``.

    system, developer    blocks of ``system``; a later one too, or a ``system`` message where the provider takes it
    user                 its blocks
    assistant            thinking blocks, text, refusal, tool calls: in this order
    tool                 one tool_result, before everything else in its message
    function             refused: it has no id to answer to

Neighbours of one role become one message, without blocks there is no message, and ``name`` goes.  A message's own
marker falls on the last block made of it.  Of several markers in a tool message the last counts: they all would stand
on its one tool_result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple

from relay.core.cache_control import refusal
from relay.core.translate.content_to_anthropic import blocks_of, refusal_block
from relay.core.translate.markers import MEMBERS, marker_of
from relay.core.translate.reading import Json, no_counterpart, objects_in, text_in
from relay.core.translate.tools import call_to_anthropic
from relay.core.translate.translation import Made, Notes, with_own_marker


class _Turn(NamedTuple):
    role: str
    blocks: Sequence[Json]
    results: Sequence[Json] = ()  # of tool messages


class Conversation(NamedTuple):
    system: list[Json]
    messages: list[Json]


def conversation(messages: Any, notes: Notes, *, native_system: bool) -> Conversation:
    """``native_system``: the provider takes a ``system`` message between a user's turn and the assistant's."""
    turns = [_turn(message, path, notes) for path, message in objects_in(messages, "messages")]
    groups = _merged([turn for turn in turns if turn.blocks or turn.results])
    system: list[Json] = []
    rest: list[_Turn] = []
    for i, group in enumerate(groups):
        if group.role == "system" and not (native_system and _may_stand(groups, i)):
            system += group.blocks
        else:
            rest.append(group)
    # The role comes first and the last block last, so that a message which grows keeps its beginning.
    spoken = [{"role": turn.role, "content": [*turn.results, *turn.blocks]} for turn in _merged(rest)]
    return Conversation(system, spoken)


def _merged(turns: Sequence[_Turn]) -> list[_Turn]:
    groups = [(role, list(group)) for role, group in groupby(turns, key=lambda turn: turn.role)]
    return [
        _Turn(role, [b for turn in group for b in turn.blocks], [r for turn in group for r in turn.results])
        for role, group in groups
    ]


def _may_stand(groups: Sequence[_Turn], at: int) -> bool:
    """After a user's turn, and before an assistant's or at the end."""
    after_user = at > 0 and groups[at - 1].role == "user"
    return after_user and (at + 1 == len(groups) or groups[at + 1].role == "assistant")


def _turn(message: Json, path: str, notes: Notes) -> _Turn:
    role = text_in(message, "role", path)
    if role not in _ROLES:
        raise no_counterpart(f"{path}.role", role)
    return _ROLES[role](message, path, notes)


def _system(message: Json, path: str, notes: Notes) -> _Turn:
    blocks = _content(message, path, notes)
    for made in blocks:
        if made.block.get("type") != "text":
            raise refusal(f"{made.path}.type", "Input should be 'text'", made.block.get("type"))
    return _Turn("system", _placed(blocks, message, path, notes))


def _user(message: Json, path: str, notes: Notes) -> _Turn:
    return _Turn("user", _placed(_content(message, path, notes), message, path, notes))


def _assistant(message: Json, path: str, notes: Notes) -> _Turn:
    if message.get("function_call") is not None:
        raise no_counterpart(f"{path}.function_call", message["function_call"])
    calls = objects_in(message.get("tool_calls"), f"{path}.tool_calls")
    blocks = [
        *_thinking(message, path),
        *_content(message, path, notes, "refusal", "tool_calls", "thinking_blocks"),
        *refusal_block(message, path),
        *(call_to_anthropic(call, at, notes) for at, call in calls),
    ]
    return _Turn("assistant", _placed(blocks, message, path, notes))


def _tool(message: Json, path: str, notes: Notes) -> _Turn:
    result: Json = {"type": "tool_result", "tool_use_id": text_in(message, "tool_call_id", path)}
    inner = _content(message, path, notes, "tool_call_id")
    if isinstance(message.get("content"), str) and inner:
        result["content"] = message["content"]
    elif inner:
        result["content"] = [made.block for made in inner]
    own = Made({}, path, marker_of(message, path, notes))
    # The message's own marker would fall on its last block, if that had none.
    places = [*inner[:-1], own, *inner[-1:]] if inner and inner[-1].marker is not None else [*inner, own]
    marked = [made for made in places if made.marker is not None]
    for made in marked[:-1]:
        notes.strip(made.marker, made.path)
    return _Turn("user", [], [notes.marked(made._replace(block=result)) for made in marked[-1:]] or [result])


_ROLES: Final[dict[str, Callable[[Json, str, Notes], _Turn]]] = {
    "system": _system,
    "developer": _system,
    "user": _user,
    "assistant": _assistant,
    "tool": _tool,
}


def _content(message: Json, path: str, notes: Notes, *known: str) -> list[Made]:
    notes.drop_others(message, ("role", "content", *MEMBERS, *known), path)
    return blocks_of(message.get("content"), f"{path}.content", notes)


def _placed(blocks: list[Made], message: Json, path: str, notes: Notes) -> list[Json]:
    return notes.all_marked(with_own_marker(blocks, marker_of(message, path, notes), path, notes))


def _thinking(message: Json, path: str) -> Iterator[Made]:
    """Signed by the provider, so they go back as they came, but for the ``index`` that our own streams add."""
    for at, block in objects_in(message.get("thinking_blocks"), f"{path}.thinking_blocks"):
        yield Made({name: value for name, value in block.items() if name != "index"}, at)
