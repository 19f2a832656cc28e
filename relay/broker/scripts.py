"""The Lua scripts beside this module: every change of a job's state is one of them, atomic, idempotent and fenced.

Each file opens with its keys, arguments and answers. The constants here are those answers.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import NamedTuple


class Script(NamedTuple):
    name: str
    sha: str
    source: str


def _load(name: str) -> Script:
    source = resources.files(__package__).joinpath(f"{name}.lua").read_text()
    return Script(name, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest(), source)


SUBMIT = _load("submit")
CLAIM = _load("claim")
DISPATCH = _load("dispatch")
CALL_FAILED = _load("call_failed")
APPEND = _load("append")
FINISH = _load("finish")
HEARTBEAT = _load("heartbeat")
EXPIRE = _load("expire")
CANCEL = _load("cancel")
UNSTICK = _load("unstick")
LATE_USAGE = _load("late_usage")
USAGE_LAG = _load("usage_lag")
USAGE_TRIM = _load("usage_trim")

# Answers that mean the same in every script.
NOT_OURS = -1  # another lease owns the job, or it has ended
UNKNOWN = -3  # Redis has no such job
HOLE = -4  # the log lacks frames before this one
CANCEL_WANTED = -5
