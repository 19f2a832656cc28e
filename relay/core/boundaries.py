"""Where a prompt can be cut: after each tool, each block of the system prompt, each block of a message.

``fingerprint`` hashes a request from one boundary to the next.  It gets the values without their markers; the request
stays as it is.  What is neither list nor text where one belongs is passed over: no provider takes that.

A text is the same prompt whether it is a string or a block.  A tool message of OpenAI's form is one boundary,
since it becomes one block.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any, Final

from relay.core.job import Dialect

_Json = dict[str, Any]

# Members of the request that spoil the cached messages, or the whole cache, when they change (prompt caching guide).
_SETTINGS: Final[dict[Dialect, tuple[str, ...]]] = {
    "anthropic": ("tool_choice", "thinking", "output_config", "speed"),
    "openai": (
        *("tool_choice", "parallel_tool_calls", "thinking", "reasoning_effort", "response_format"),
        *("prompt_cache_key", "functions", "function_call"),
    ),
}
_IMAGES: Final = ("image", "image_url")  # the first one in a prompt spoils the messages before it, too

_HOLD_HOLDERS: Final = ("content", "source", "function")  # see ``holders``
_MAY_BE_MARKED: Final = frozenset({"cache_control", *_HOLD_HOLDERS})


@dataclass(frozen=True, slots=True)
class Listed:
    """Tools, system or settings: the JSON values that the boundaries stand behind, one each."""

    name: str
    values: list[Any]
    is_numbered: bool = True

    def path(self, index: int) -> str:
        return f"{self.name}.{index}" if self.is_numbered else self.name

    def index(self, path: str) -> int:
        """Of the boundary on which a breakpoint of this path falls."""
        steps = path.split(".")
        return int(steps[1]) if len(steps) > 1 else 0


class Messages:
    """The same for the messages.  There may be thousands of blocks, of which few are asked for their paths."""

    name: Final = "messages"

    def __init__(self, messages: list[Any], calls: str) -> None:
        """``calls``: the member that holds tool calls beside the content, if the dialect has one."""
        self.has_image = False
        self.values = values = list[Any]()
        self._starts = starts = list[int]()
        self._messages, self._calls = messages, calls
        for message in messages:
            starts.append(len(values))
            blocks = self._blocks(message)
            for block in blocks:
                values.append(_value(block))
                if isinstance(block, dict) and block.get("type") in _IMAGES:
                    self.has_image = True
            if blocks:  # who speaks is part of the first thing said
                values[starts[-1]] = [_speaker(message, calls), values[starts[-1]]]
            else:
                values.append(unmarked(message))

    def path(self, index: int) -> str:
        number = bisect_right(self._starts, index) - 1
        return f"messages.{number}{self._within(self._messages[number], index - self._starts[number])}"

    def index(self, path: str) -> int:
        _, number, *steps = path.split(".")
        start, *after = self._starts[int(number) : int(number) + 2]
        last = (after[0] if after else len(self.values)) - 1
        if not steps:
            return last  # a message's own marker
        if len(steps) == 1 or start == last:
            return start  # a string that is to become a block, any part of a tool message
        before = len(_blocks(self._messages[int(number)].get("content"))) if steps[0] == self._calls else 0
        return start + before + int(steps[1])

    def _blocks(self, message: Any) -> list[Any]:
        """What can be cut apart; nothing where the message is one block."""
        if not isinstance(message, dict) or message.get("role") == "tool":
            return []
        blocks = _blocks(message.get("content"))
        calls = message.get(self._calls) if self._calls else None
        return blocks + calls if isinstance(calls, list) else blocks

    def _within(self, message: Any, index: int) -> str:
        if not isinstance(message, dict) or message.get("role") == "tool":
            return ""
        content = message.get("content")
        if isinstance(content, list) and index < len(content):
            return f".content.{index}"
        in_content = len(_blocks(content))
        return f".{self._calls}.{index - in_content}" if len(self._blocks(message)) > in_content <= index else ""


Section = Listed | Messages


def sections(request: _Json, surface: Dialect) -> list[Section]:
    """Of a request that ``peek`` took, in processing order, whatever the order in the JSON."""
    tools, system = request.get("tools"), request.get("system")
    messages = Messages(request["messages"], "tool_calls" if surface == "openai" else "")
    found: list[Section] = [Listed("tools", unmarked(tools) if isinstance(tools, list) else [])]
    if surface == "anthropic":
        found.append(Listed("system", list(map(_value, _blocks(system))), is_numbered=isinstance(system, list)))
    settings = _settings(request, surface) | ({"images": True} if messages.has_image else {})
    found.append(Listed("settings", [settings] if settings else [], is_numbered=False))
    return [*found, messages]


def count(request: _Json) -> int:
    """About how many there are."""
    lists = [request.get("tools"), request.get("system")]
    for message in request["messages"]:
        if isinstance(message, dict):
            lists += [message.get("content"), message.get("tool_calls")]
    return len(request["messages"]) + sum(len(each) for each in lists if isinstance(each, list))


def unmarked(value: Any) -> Any:
    """A copy without markers; whatever is inside a schema, an input or arguments is data."""
    if isinstance(value, list):
        return [unmarked(each) for each in value]
    if not isinstance(value, dict) or not (value.keys() & _MAY_BE_MARKED):
        return value
    return {
        name: unmarked(member) if name in _HOLD_HOLDERS else member
        for name, member in value.items()
        if name != "cache_control"
    }


def _blocks(content: Any) -> list[Any]:
    if isinstance(content, list):
        return content
    return [content] if isinstance(content, str) else []


def _value(block: Any) -> Any:
    """Without its marker; of a block that is nothing but text, as most are, the text."""
    is_text = isinstance(block, dict) and block.get("type") == "text" and "text" in block
    if is_text and len(block) == (3 if "cache_control" in block else 2):
        return block["text"]
    return unmarked(block)


def _speaker(message: _Json, calls: str) -> Any:
    """What a message says beside its blocks: as a rule nothing but its role."""
    if len(message) == 2 and "role" in message:
        return message["role"]
    return {name: value for name, value in message.items() if name not in ("content", "cache_control", calls)}


def _settings(request: _Json, surface: Dialect) -> _Json:
    return {name: request[name] for name in _SETTINGS[surface] if request.get(name) is not None}
