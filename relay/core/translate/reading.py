"""Members of a client's request that have to be of their type; if one is not, ``InvalidRequest`` names its place.

For the translators of requests.  What they do not need to understand they do not read, and it passes as it is.
"""

from __future__ import annotations

from typing import Any

from relay.core.cache_control import refusal
from relay.core.errors import InvalidRequest

Json = dict[str, Any]


def objects_in(value: Any, path: str) -> list[tuple[str, Json]]:
    """The entries of a list of objects, with their paths; null is an empty list."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise refusal(path, "Input should be a valid array", value)
    for i, entry in enumerate(value):
        if not isinstance(entry, dict):
            raise refusal(f"{path}.{i}", "Input should be an object", entry)
    return [(f"{path}.{i}", entry) for i, entry in enumerate(value)]


def object_in(holder: Json, name: str, path: str) -> Json:
    """A member that must be there, as an object."""
    value = _required(holder, name, path)
    if not isinstance(value, dict):
        raise refusal(place(path, name), "Input should be an object", value)
    return value


def text_in(holder: Json, name: str, path: str) -> str:
    """A member that must be there, as a string."""
    value = _required(holder, name, path)
    if not isinstance(value, str):
        raise refusal(place(path, name), "Input should be a valid string", value)
    return value


def _required(holder: Json, name: str, path: str) -> Any:
    if holder.get(name) is None:
        raise refusal(place(path, name), "Field required")
    return holder[name]


def place(path: str, name: str) -> str:
    """Of a member; the request itself has no path."""
    return f"{path}.{name}" if path else name


def no_counterpart(path: str, kind: Any) -> InvalidRequest:
    """The refusal of something that the target's dialect has no word for."""
    return refusal(path, "This has no counterpart in the dialect of the model's provider", kind)
