"""A PostgreSQL of our own for the ledger's tests: started on a free port, thrown away afterwards."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import psycopg

from tests.support.processes import Process, free_port
from tests.support.wait import wait_until

# Where Debian keeps a server's programs, out of PATH.
_DEBIAN = Path("/usr/lib/postgresql")


def binary(name: str) -> str | None:
    """A program of the server, the newest there is; None without a server."""
    installed = sorted(_DEBIAN.glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    return str(installed[-1]) if installed else shutil.which(name)


class Postgres:
    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="relay-postgres-"))
        self._port = free_port()
        self._process: Process | None = None
        self._databases = 0

    async def start(self) -> None:
        for name in ("data", "log"):
            (self._directory / name).mkdir(mode=0o700)
        if os.geteuid() == 0:  # it refuses to run as root
            user = pwd.getpwnam("postgres")
            self._directory.chmod(0o755)
            os.chown(self._directory / "data", user.pw_uid, user.pw_gid)
        data = str(self._directory / "data")
        make = _as_postgres("initdb", "-D", data, "-U", "relay", "--auth=trust", "--no-sync", "-E", "UTF8")
        await asyncio.to_thread(subprocess.run, make, check=True, capture_output=True, cwd=self._directory)
        settings = {
            "port": str(self._port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",  # a machine that loses its power loses the tests as well
        }
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        # Its logs are not the server's to write: they are ours.
        self._process = Process("postgres", _as_postgres("postgres", "-D", data, *flags), self._directory / "log")
        await wait_until(self._answers, what="PostgreSQL answers")

    async def stop(self) -> None:
        if self._process:
            self._process.send(signal.SIGINT)  # SIGTERM would wait for connections somebody forgot
            await self._process.ended()
        shutil.rmtree(self._directory)

    def new_database(self) -> str:
        """The URL of a database with nothing in it."""
        self._databases += 1
        name = f"ledger_{self._databases}"
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self._url(name)

    def _url(self, database: str) -> str:
        return f"postgresql://relay@127.0.0.1:{self._port}/{database}"

    def _answers(self) -> bool:
        try:
            with psycopg.connect(self._url("postgres")):
                return True
        except psycopg.OperationalError:
            return False


def _as_postgres(name: str, *arguments: str) -> list[str]:
    program = binary(name)
    assert program
    if os.geteuid() != 0:
        return [program, *arguments]
    switch = shutil.which("setpriv")
    assert switch
    # Another user's process is off our leash, so it gets a new one.
    user = ("--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=SIGINT")
    return [switch, *user, program, *arguments]
