"""The Lua scripts in ``lua/``: every change of a job's state is one of them, atomic, idempotent and fenced.

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


def _load(name: str, *preludes: str) -> Script:
    """``preludes``: files of functions, which go between the script's head and the rest."""
    source = _read(name)
    if preludes:
        head, _, rest = source.partition("\n\n")
        source = "\n".join([f"{head}\n", *map(_read, preludes), rest])
    return Script(name, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest(), source)


def _read(name: str) -> str:
    return resources.files(__package__).joinpath("lua", f"{name}.lua").read_text()


SUBMIT = _load("submit", "lanes", "budgets")
CALL_UP = _load("call_up", "lanes")
CLAIM = _load("claim", "lanes")
DISPATCH = _load("dispatch")
CALL_FAILED = _load("call_failed", "budgets")
APPEND = _load("append")
FINISH = _load("finish", "lanes", "batch_ended", "outbox", "budgets")
HEARTBEAT = _load("heartbeat")
EXPIRE = _load("expire", "lanes", "batch_ended", "outbox", "budgets")
CANCEL = _load("cancel", "lanes", "batch_ended", "outbox")
UNSTICK = _load("unstick")
TIMERS = _load("timers", "lanes", "batch_ended", "outbox")
LIST_JOBS = _load("list_jobs")
DUE_RESULTS = _load("due_results")
BATCH_STORE = _load("batch_store")
BATCH_CREATE = _load("batch_create")
BATCH_CHECKED = _load("batch_checked")
BATCH_CANCEL = _load("batch_cancel")
BATCH_MOVE = _load("batch_move")
WEBHOOK_DUE = _load("webhook_due")
WEBHOOK_DONE = _load("webhook_done")
WEBHOOK_AGAIN = _load("webhook_again", "outbox")
WEBHOOK_SECRET = _load("webhook_secret")
LATE_USAGE = _load("late_usage", "budgets")
USAGE_LAG = _load("usage_lag")
USAGE_TRIM = _load("usage_trim")

# Answers that mean the same in every script.
NOT_OURS = -1  # another lease owns the job, or it has ended
UNKNOWN = -3  # Redis has no such job
HOLE = -4  # the log lacks frames before this one
CANCEL_WANTED = -5
