"""The servers we run on: the first versions with everything our scripts use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

FLOORS: Final[Mapping[str, tuple[int, int]]] = {"redis": (7, 0), "valkey": (7, 2)}
