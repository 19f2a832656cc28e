"""Small steps both dialects take when they read a request body.  Pure; each refuses in the caller's words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from relay.sandbox.refusal import Refusal


def parse(raw: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"The request body is not valid JSON: {error}") from error
    if not isinstance(body, dict):
        raise Refusal(400, "The request body is not a JSON object")
    return body


def choose(members: Mapping[str, Any], name: str, known: Iterable[str], path: str) -> str:
    """The string at ``name``, which must be one of ``known``."""
    value = members.get(name)
    if not isinstance(value, str) or value not in (known := tuple(known)):
        raise Refusal(400, f"{path}: Input should be {', '.join(map(repr, known))}", param=path)
    return value


def as_object(value: object, path: str) -> dict[str, Any]:
    """A JSON object; ``None`` is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refusal(400, f"{path}: Input should be an object", param=path)
    return value


def integer(value: object, path: str, lowest: int, highest: int = 1 << 53) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        raise Refusal(400, f"{path}: Input should be a valid integer, from {lowest} to {highest}", param=path)
    return value


def strings(value: object, path: str) -> tuple[str, ...]:
    """A list of strings; ``None`` is an empty one."""
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Refusal(400, f"{path}: Input should be a list of strings", param=path)
    return tuple(value)


def objects(value: object, path: str) -> list[dict[str, Any]]:
    """A list of JSON objects; ``None`` is an empty one."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise Refusal(400, f"{path}: Input should be a valid list", param=path)
    for index, item in enumerate(value):
        if not isinstance(item, dict):
            raise Refusal(400, f"{path}.{index}: Input should be an object", param=path)
    return value


def known_model(model: object, unknown: str) -> str:
    """The model's name; only families that exist are known.  ``unknown`` is what the provider says of others."""
    if not isinstance(model, str):
        raise Refusal(400, "model: Input should be a valid string", param="model")
    if not is_known(model):
        raise Refusal(404, unknown.format(model), param="model")
    return model


def is_known(model: str) -> bool:
    return model.startswith(("claude-", "gpt-", "chatgpt-")) or (model[:1] == "o" and model[1:2].isdigit())


def joined_text(blocks: Iterable[Mapping[str, Any]]) -> str:
    return "\n".join(block["text"] for block in blocks if isinstance(block.get("text"), str))
