"""Logging keeps secrets to itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

from relay.core import api_key
from relay.logs import scrubbed

KEY = api_key.make(bytes(36))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"key {KEY} is unknown", f"key rk_…{KEY[-4:]} is unknown"),
        ("x-api-key: sk-ant-api03-abc_DEF-123456", "x-api-key: sk-…3456"),
        ("Authorization: Bearer abcdefgh1234", "Authorization: Bearer …1234"),
        ("at redis://:hunter2@redis:6379/0", "at redis://:…@redis:6379/0"),
        ("at unix://:hunter2@/run/redis.sock?db=0", "at unix://:…@/run/redis.sock?db=0"),
        ("postgresql+psycopg://relay:p%40ss@db/relay", "postgresql+psycopg://relay:…@db/relay"),
        (
            "nothing secret: task-list, risk-free, http://host:80/a@b",
            "nothing secret: task-list, risk-free, http://host:80/a@b",
        ),
    ],
)
def test_a_secret_in_a_text_is_shortened(text: str, shown: str) -> None:
    assert scrubbed(text) == shown


def test_a_traceback_shows_no_secret_and_libraries_log_the_same_way() -> None:
    code = f"""
import logging, structlog
from relay import logs
logs.configure("info")
structlog.get_logger().info("job done", job="0-1")
structlog.get_logger().debug("unheard")
try:
    raise ValueError("illegal header value 'sk-ant-api03-abcdefgh1234'")
except ValueError:
    logging.getLogger("rq").exception("library of %s", {KEY!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    first, second = done.stderr.strip().splitlines()
    assert "job=0-1" in first and 'event="job done"' in first and "level=info" in first
    assert "ValueError" in second and "level=error" in second
    assert "abcdefgh" not in done.stderr and KEY not in done.stderr
