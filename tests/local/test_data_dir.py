"""The directory of ``relay up``: one run at a time, and nobody else may read it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from relay.local.data_dir import DataDir
from relay.reference import SettingsError


def permissions(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_it_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    directory = DataDir(tmp_path / "a" / "b")
    directory.open()
    directory.secret("api-key", lambda: "secret")
    assert permissions(directory.path) == 0o700
    assert {permissions(file) for file in directory.path.iterdir()} == {0o600}


def test_a_second_run_is_refused_and_told_who_is_first(tmp_path: Path) -> None:
    first = DataDir(tmp_path)
    first.open()
    with pytest.raises(SettingsError, match=rf"another relay up \(process {os.getpid()}\) runs on {tmp_path}"):
        DataDir(tmp_path).open()


def test_the_lock_ends_with_its_process_and_is_not_inherited(tmp_path: Path) -> None:
    code = f"""
import pathlib, subprocess, sys
from relay.local.data_dir import DataDir
DataDir(pathlib.Path({str(tmp_path)!r})).open()
child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin={{stdin}})
"""
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as held:
        assert held.stdout
        # The child of the first run is still there, reading from a pipe that we hold open.
        subprocess.run([sys.executable, "-c", code.format(stdin="sys.stdin")], stdin=held.stdout, check=True)
        DataDir(tmp_path).open()
        held.kill()


def test_a_directory_that_cannot_be_used_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="RELAY_DATA_DIR: cannot use"):
        DataDir(tmp_path / "file" / "below").open()


def test_a_secret_is_made_once(tmp_path: Path) -> None:
    directory = DataDir(tmp_path)
    assert directory.secret("api-key", lambda: "first") == "first"
    assert directory.secret("api-key", lambda: "second") == "first"


def test_the_redis_url_is_there_while_it_is_written_down(tmp_path: Path) -> None:
    directory = DataDir(tmp_path)
    assert directory.redis_url is None
    directory.write("redis-url", "unix:///x")
    assert directory.redis_url == "unix:///x"
    directory.forget_redis_url()
    assert directory.redis_url is None
