"""``relay work``: a worker process."""

from __future__ import annotations

from relay.settings import Settings
from workers import worker


def run(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT, then drain."""
    worker.start(settings)
