"""A value that fits a JSON schema: what the sandbox's tools are called with and what its JSON answers hold.

Pure and deterministic.  It knows the members that tools and structured outputs use in practice; of a schema beyond
them it makes what it can, for a stand-in has nothing to say anyway.
"""

from __future__ import annotations

from typing import Any, Final

# A schema may contain itself, several times over: an example ends eight levels down (a tree of comments is fine with
# three) and after a thousand values (the largest tool we have seen makes about eighty).
_DEPTH_MAX: Final = 8
_VALUES_MAX: Final = 1_000
_ITEMS_MAX: Final = 8


def example(schema: object, text: str) -> Any:
    """Strings without other advice become ``text``.  What is no schema gives ``None``."""
    return _Maker(schema, text).make(schema, 0)


class _Maker:
    def __init__(self, root: object, text: str) -> None:
        self._root = root  # where local references start
        self._text = text
        self._left = _VALUES_MAX

    def make(self, schema: object, depth: int) -> Any:
        self._left -= 1
        if not isinstance(schema, dict) or depth > _DEPTH_MAX or self._left < 0:
            return None
        for name in ("const", "default"):
            if name in schema:
                return schema[name]
        if choices := _list(schema.get("enum")):
            return choices[0]
        if "$ref" in schema:
            return self.make(self._resolve(str(schema["$ref"])), depth + 1)
        for name in ("anyOf", "oneOf", "allOf"):
            if choices := _list(schema.get(name)):
                return self.make(choices[0], depth + 1)
        kinds = _list(schema.get("type"))
        return self._make_kind(kinds[0] if kinds else schema.get("type"), schema, depth)

    def _make_kind(self, kind: object, schema: dict[str, Any], depth: int) -> Any:
        match kind:
            case "string":
                return self._text[: _count(schema.get("maxLength"), len(self._text))]
            case "integer" | "number":
                return schema.get("minimum", 1)
            case "boolean":
                return True
            case "array":
                item = self.make(schema.get("items"), depth + 1)
                return [item] * min(_count(schema.get("minItems"), 1), _ITEMS_MAX)
            case "object":
                members = schema.get("properties")
                members = members if isinstance(members, dict) else {}
                return {name: self.make(inner, depth + 1) for name, inner in members.items()}
        return None

    def _resolve(self, reference: str) -> object:
        found = self._root
        for part in reference.removeprefix("#").strip("/").split("/"):
            if part:
                found = found.get(part) if isinstance(found, dict) else None
        return found


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _count(value: object, default: int) -> int:
    return value if isinstance(value, int) and value >= 0 else default
