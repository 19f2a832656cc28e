"""The directory ``relay up`` keeps its things in: one run at a time, nobody else may read it.

    lock  processes.json  api-key  redis.conf  redis-password  redis-url  redis.sock  redis.log  appendonlydir/

``redis-url`` is there while a server runs; other commands of the relay, and ``rq info --url "$(cat …)"``, find it so.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from relay.reference import SettingsError


class DataDir:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def open(self) -> None:
        """Create it if need be and take its lock for the life of this process. Raises ``SettingsError``."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Children must not inherit the lock, or an orphan would hold it.
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SettingsError(f"RELAY_DATA_DIR: cannot use {self.path}: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(self._lock, 20).decode(errors="replace").strip()
            os.close(self._lock)
            raise SettingsError(
                f"another relay up (process {pid or 'unknown'}) runs on {self.path}; stop it or use another --data-dir"
            ) from None
        os.ftruncate(self._lock, 0)
        os.write(self._lock, str(os.getpid()).encode())

    def secret(self, name: str, make: Callable[[], str]) -> str:
        """The secret kept under ``name``, made on first use."""
        path = self.path / name
        try:
            return path.read_text().strip()
        except FileNotFoundError:
            return self.write(name, make())

    def write(self, name: str, text: str) -> str:
        """Write a file that only its owner can read; whole or not at all."""
        draft = self.path / f"{name}.new"
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{text}\n")
        draft.replace(self.path / name)
        return text

    @property
    def redis_url(self) -> str | None:
        """Where the server of a running ``relay up`` listens."""
        return self._read("redis-url")

    @property
    def api_key(self) -> str | None:
        """The key that ``relay up`` has made."""
        return self._read("api-key")

    def _read(self, name: str) -> str | None:
        path = self.path / name
        return path.read_text().strip() if path.is_file() else None

    def forget_redis_url(self) -> None:
        (self.path / "redis-url").unlink(missing_ok=True)
