"""What an earlier run left behind is stopped, and nothing else ever is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from relay.local import leftovers
from relay.local.leftovers import Record, birth_of


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that was left behind."""
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as process:
        yield process
        process.kill()


def test_a_process_that_was_left_is_stopped(sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    Record(tmp_path / "record").add("redis", sleeper.pid)
    assert Record(tmp_path / "record").stop_leftovers() == ["redis"]
    assert sleeper.wait() == -signal.SIGTERM
    assert not (tmp_path / "record").exists()


def test_one_that_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "TERM_S", 0.2)
    code = "import signal; signal.signal(15, signal.SIG_IGN); print(flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        Record(tmp_path / "record").add("redis", process.pid)
        assert Record(tmp_path / "record").stop_leftovers() == ["redis"]
        assert process.wait() == -signal.SIGKILL


def test_a_stranger_with_the_same_number_is_left_alone(sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    birth = birth_of(sleeper.pid)
    assert birth
    (tmp_path / "record").write_bytes(orjson.dumps({"redis": [sleeper.pid, birth[:-1]]}))
    assert Record(tmp_path / "record").stop_leftovers() == []
    assert sleeper.poll() is None


@pytest.mark.parametrize("content", [b"", b'{"redis": [1', b"[]", b'{"redis": 5}', b'{"redis": ["x", "y"]}'])
def test_a_damaged_record_is_no_reason_not_to_start(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "record").write_bytes(content)
    assert Record(tmp_path / "record").stop_leftovers() == []


def test_no_record_means_no_leftovers(tmp_path: Path) -> None:
    assert Record(tmp_path / "record").stop_leftovers() == []


def test_a_dead_process_has_no_birth() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, but still listed
    assert birth_of(process.pid) is None
    process.wait()
    assert birth_of(process.pid) is None
