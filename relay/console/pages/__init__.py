"""The dashboard: one module for each page, each with what it reads; templates and static files lie beside it."""

from __future__ import annotations

from typing import Final

DASHBOARD: Final = "/dashboard"
STATIC: Final = f"{DASHBOARD}/static"
