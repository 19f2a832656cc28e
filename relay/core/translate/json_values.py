"""Values of a provider's JSON, which may be of any type where another was promised; and JSON written again.

For the translators of answers and streams.  What is not of its type counts as absent.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from relay.core.errors import UpstreamProtocolError


def string(value: object) -> str:
    return value if isinstance(value, str) else ""


def objects(value: object) -> list[dict[str, Any]]:
    """The objects in a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def encoded(value: object) -> bytes:
    """Compact JSON.  What orjson reads it may refuse to write: it reads 1024 levels and writes 254."""
    try:
        return orjson.dumps(value)
    except TypeError as error:
        raise UpstreamProtocolError("the provider's answer is nested too deep to translate") from error


class Splice(NamedTuple):
    """A finished event but for one string: most events of a stream differ in that alone."""

    before: bytes
    after: bytes

    def around(self, piece: object) -> list[bytes]:
        """The event with this string in it; none for an empty one."""
        if not isinstance(piece, str) or not piece:
            return []
        return [self.before + orjson.dumps(piece) + self.after]
