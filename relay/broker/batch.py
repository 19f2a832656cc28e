"""The record of a batch: what was asked for, and how far it is.

    validating ──► in_progress ──► ended
         └───────► failed

Stored as a Redis hash; what moves in it is written by the scripts of ``batches`` only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from relay.core.body import Endpoint
from relay.core.job import Dialect

VALIDATING, IN_PROGRESS, BATCH_ENDED, BATCH_FAILED = "validating", "in_progress", "ended", "failed"


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch and where it stands.  Times are Unix milliseconds; 0: not reached."""

    id: str
    tenant: str
    surface: Dialect
    key_id: str
    app: str  # whose bill it is
    cache: str  # the key's wish for breakpoints
    endpoint: Endpoint
    query: str
    headers: dict[str, str]  # those of its creation that each item's call goes by
    state: str
    created_ms: int
    expires_ms: int  # what has not begun by then does not
    output_file: str
    error_file: str
    input_file: str = ""
    metadata: dict[str, str] | None = None
    errors: tuple[dict[str, Any], ...] = ()
    begun_ms: int = 0
    cancel_ms: int = 0
    ended_ms: int = 0
    total: int = 0
    fed: int = 0
    collected: int = 0
    succeeded: int = 0
    errored: int = 0
    canceled: int = 0
    expired: int = 0
    output_bytes: int = 0
    error_bytes: int = 0
    log: str = ""  # whether the content of its items is kept, as their jobs carry it

    def encode(self) -> dict[str, str | int]:
        """As the fields of a Redis hash; what is empty is left out, where no script looks at it."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values |= {name: orjson.dumps(values[name]).decode() for name in _JSON if values[name]}
        return {name: value for name, value in values.items() if value or name in _COMPARED}

    @property
    def has_ended(self) -> bool:
        return self.state in (BATCH_ENDED, BATCH_FAILED)

    @classmethod
    def decode(cls, stored: dict[str, str]) -> Batch:
        values: dict[str, Any] = dict.fromkeys(("key_id", "app", "cache", "query"), "") | {"headers": {}}
        for name, text in stored.items():
            if name in cls.__dataclass_fields__:
                values[name] = orjson.loads(text) if name in _JSON else int(text) if name in _NUMBERS else text
        return cls(**values)


_COMPARED = frozenset({"fed", "collected", "total"})
_JSON = frozenset({"headers", "metadata", "errors"})
_NUMBERS = frozenset(name for name, field in Batch.__dataclass_fields__.items() if field.type == "int")
