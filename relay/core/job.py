"""A job: one client request in the queue, and the states it goes through.

    queued ──► claimed ──► dispatched ──► streaming ──► done | failed | cancelled

``claimed``: a worker owns it.  ``dispatched``: the provider may have been called.  ``streaming``: output is in the log,
so the provider is never called again for it.  Only the scripts of ``relay.broker`` move a job from state to state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import orjson
from uuid_utils import uuid7

from relay.core.document import Span
from relay.core.pieces import Prefix

Dialect = Literal["anthropic", "openai"]

QUEUED, CLAIMED, DISPATCHED, STREAMING = "queued", "claimed", "dispatched", "streaming"
DONE, FAILED, CANCELLED = "done", "failed", "cancelled"
ENDED = frozenset({DONE, FAILED, CANCELLED})

# The words of OpenAI's background responses, which is what clients poll for.
STATUS = {
    QUEUED: "queued",
    CLAIMED: "in_progress",
    DISPATCHED: "in_progress",
    STREAMING: "in_progress",
    DONE: "completed",
    FAILED: "failed",
    CANCELLED: "cancelled",
}

OnDisconnect = Literal["finish", "cancel"]
Priority = Literal["high", "normal", "low"]

# Whether an OpenAI stream was asked to end with its usage: it was, it was not, or it was asked something else in
# ``stream_options``. Empty where the question does not arise.
StreamUsage = Literal["", "asked", "unasked", "declined"]


@dataclass(frozen=True, slots=True)
class Target:
    """One place to send a request to; ``model`` is the name that provider knows."""

    provider: str
    dialect: Dialect
    model: str


@dataclass(frozen=True, slots=True)
class Job:
    """What the ingress decides about a request, once; workers only read it.  Times are Unix milliseconds.

    Stored as a Redis hash beside the moving part (state, generation, …), which only scripts write. Fields may be
    added, with a default, but never renamed: workers and ingress of two versions share one Redis during a rollout.
    """

    id: str
    tenant: str
    key_id: str
    surface: Dialect
    endpoint: str  # "messages", "count_tokens" or "chat_completions"
    query: str  # of the client's URL, without "?"
    headers: dict[str, str]  # those that go upstream
    model: str  # as the client wrote it
    targets: tuple[Target, ...]  # in the order they are tried
    stream: bool
    created_ms: int
    body_bytes: int
    body_pieces: int  # 0: small enough to come with the job itself
    marker_ttls: tuple[str, ...] = ()
    on_disconnect: OnDisconnect = "cancel"
    model_spans: tuple[Span, ...] = ()  # where a target's name goes in the body; none where it is always ``model``
    prefixes: tuple[Prefix, ...] = ()  # whose SHA-256 the client asked for
    stream_usage: StreamUsage = ""
    auto_cache: bool = False  # put breakpoints where the client set none
    metadata: dict[str, str] = field(default_factory=dict)  # the client's own words for it
    priority: Priority = "normal"
    run_at_ms: int = 0  # not before; 0: at once
    expires_at_ms: int = 0  # fails if no worker has taken it by then; 0: never
    webhook: str = ""  # who is told of its end
    replay_of: str = ""  # the job whose request this one repeats
    batch: str = ""  # "<batch> <number>" of an item of a batch
    app: str = ""  # the application that asks, for the bill
    user: str = ""  # the application's own customer, as the request names them
    log: str = ""  # whether its content is kept, see ``core/content.py``
    fingerprint: str = ""  # of a prompt that is to be cached, see ``core/fingerprint.py``
    trace: dict[str, str] = field(default_factory=dict)  # the trace it is part of, as the headers that tell of it

    @property
    def lane(self) -> str:
        """Where it waits for its turn, see ``relay/broker/lua/lanes.lua``."""
        return f"{self.priority}:{self.targets[0].provider}:{self.tenant}"

    def encode(self) -> dict[str, str | int]:
        """As the fields of a Redis hash."""
        return {
            "id": self.id,
            "tenant": self.tenant,
            "key_id": self.key_id,
            "surface": self.surface,
            "endpoint": self.endpoint,
            "query": self.query,
            "headers": orjson.dumps(self.headers).decode(),
            "model": self.model,
            "targets": orjson.dumps([(each.provider, each.dialect, each.model) for each in self.targets]).decode(),
            "stream": int(self.stream),
            "created_ms": self.created_ms,
            "body_bytes": self.body_bytes,
            "body_pieces": self.body_pieces,
            "marker_ttls": ",".join(self.marker_ttls),
            "on_disconnect": self.on_disconnect,
            "model_spans": orjson.dumps(self.model_spans).decode(),
            "prefixes": orjson.dumps(self.prefixes).decode(),
            "stream_usage": self.stream_usage,
            "auto_cache": int(self.auto_cache),
            "priority": self.priority,
            **self._rarely_set(),
        }

    def _rarely_set(self) -> dict[str, str | int]:
        """What most jobs do without, and then need not pay for in Redis."""
        values: dict[str, str | int] = {
            "metadata": orjson.dumps(self.metadata).decode() if self.metadata else "",
            "run_at_ms": self.run_at_ms,
            "expires_at_ms": self.expires_at_ms,
            "webhook": self.webhook,
            "replay_of": self.replay_of,
            "batch": self.batch,
            "app": self.app,
            "user": self.user,
            "log": self.log,
            "fingerprint": self.fingerprint,
            "trace": orjson.dumps(self.trace).decode() if self.trace else "",
        }
        return {name: value for name, value in values.items() if value}

    @classmethod
    def decode(cls, stored: dict[str, str]) -> Job:
        """From the fields of a Redis hash; those of a newer version are left alone."""
        return cls(**{name: _READ.get(name, str)(stored[name]) for name in _NAMES if name in stored})


_NAMES = tuple(each.name for each in fields(Job))
# How a field is read that is not plain text.
_READ: dict[str, Callable[[str], Any]] = {
    "headers": orjson.loads,
    "targets": lambda text: tuple(Target(*target) for target in orjson.loads(text)),
    "stream": lambda text: text == "1",
    "auto_cache": lambda text: text == "1",
    "metadata": orjson.loads,
    "trace": orjson.loads,
    "run_at_ms": int,
    "expires_at_ms": int,
    "created_ms": int,
    "body_bytes": int,
    "body_pieces": int,
    "marker_ttls": lambda text: tuple(filter(None, text.split(","))),
    "model_spans": lambda text: tuple(map(tuple, orjson.loads(text))),
    "prefixes": lambda text: tuple(map(Prefix.decode, orjson.loads(text))),
}


def new_id(partition: str) -> str:
    """``<partition>-<uuid7>``: sortable by time, 74 random bits, and it tells which Redis slot holds the job."""
    return f"{partition}-{uuid7().hex}"


def made_ms(job_id: str) -> int:
    """When an id was made, which is in it."""
    return int(job_id[-32:-20], 16)
