"""Looking at a request's body, in a process of its own where that would hold up every stream of this one.

``Inspector.inspect`` is what the handlers call, and ``Inspector.unwrap`` before it where the body comes in an envelope;
a big body goes to a child, which runs this very module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from relay import child
from relay.core import fingerprint, pieces
from relay.core.body import Endpoint, model_spans, peek_at, prefixes, read
from relay.core.document import Span
from relay.core.envelope import Envelope, unwrap
from relay.core.job import Dialect, StreamUsage
from relay.core.pieces import Prefix

# With the prefixes to be found, a MiB takes up to 2 s: each value on the way to a marker is read on its own.
BIG_DIGESTED_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class Caching:
    """What is said of a request's cache beside its body."""

    headers: Mapping[str, str] = field(default_factory=dict)  # those that go upstream
    automatic: Sequence[str] = ()  # the models, as globs, that get breakpoints where the client sets none
    digests: bool = False  # the client wants to know those of its prefixes


@dataclass(frozen=True, slots=True)
class Facts:
    """What the ingress has to know of a body."""

    model: str
    stream: bool
    stream_usage: StreamUsage
    marker_ttls: tuple[str, ...]
    user: str = ""
    auto_cache: bool = False
    fingerprint: str = ""  # only where something is to be cached
    model_spans: tuple[Span, ...] = ()  # found in every big body, and in no small one
    prefixes: tuple[Prefix, ...] = ()  # only where their digests were asked for
    digests: str = ""

    @classmethod
    def decode(cls, answer: dict[str, Any]) -> Facts:
        """From the child's JSON."""
        return cls(
            model=answer["model"],
            stream=answer["stream"],
            stream_usage=answer["stream_usage"],
            marker_ttls=tuple(answer["marker_ttls"]),
            user=answer["user"],
            auto_cache=answer["auto_cache"],
            fingerprint=answer["fingerprint"],
            model_spans=tuple((start, end) for start, end in answer["model_spans"]),
            prefixes=tuple(map(Prefix.decode, answer["prefixes"])),
            digests=answer["digests"],
        )


def inspect(body: bytes, surface: Dialect, endpoint: Endpoint, caching: Caching) -> Facts:
    """The facts of a request.  Raises ``InvalidRequest``."""
    request = read(body)
    seen = peek_at(request, surface, endpoint)
    auto_cache = any(fnmatchcase(seen.model, glob) for glob in caching.automatic)
    facts = Facts(
        model=seen.model,
        stream=seen.stream,
        stream_usage=seen.stream_usage,
        marker_ttls=seen.marker_ttls,
        user=seen.user or "",
        auto_cache=auto_cache,
        # Counting tokens writes and reads no cache.
        fingerprint=""
        if endpoint == "count_tokens"
        else fingerprint.of(request, surface, seen.breakpoints, caching.headers, auto_cache),
    )
    if not caching.digests:
        return facts
    found = prefixes(body, surface)
    return replace(facts, prefixes=found, digests=pieces.digests(found, [body]))


def is_big(body: bytes, digests: bool) -> bool:
    """Whether looking at this body would hold up the streams of this process."""
    return len(body) > BIG_DIGESTED_BYTES if digests else child.is_big(body)


class Inspector:
    """The two ways to inspect a body.  ``close`` it at the end."""

    def __init__(self) -> None:
        self._child = child.Child(__name__)

    async def inspect(self, body: bytes, surface: Dialect, endpoint: Endpoint, caching: Caching) -> Facts:
        """The facts of a request.  Raises ``InvalidRequest``; ``Unavailable`` when the child could not tell."""
        if not is_big(body, caching.digests):
            return inspect(body, surface, endpoint, caching)
        question = {"surface": surface, "endpoint": endpoint, "caching": asdict(caching)}
        answer, _ = await self._child.ask(question, body)
        return Facts.decode(answer)

    async def unwrap(self, raw: bytes) -> Envelope:
        """Open an envelope.  Raises ``InvalidRequest``; ``Unavailable`` when the child could not tell."""
        if not is_big(raw, digests=False):
            return unwrap(raw)
        answer, _ = await self._child.ask({"envelope": True}, raw)
        start, end = answer["body"]
        return Envelope(answer["options"], (start, end))

    def close(self) -> None:
        self._child.close()


def _answer(question: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
    if question.get("envelope"):
        return unwrap(body)._asdict(), b""
    facts = inspect(body, question["surface"], question["endpoint"], Caching(**question["caching"]))
    # Whether the positions are needed, routing decides.
    return asdict(replace(facts, model_spans=model_spans(body))), b""


if __name__ == "__main__":
    child.serve(_answer)
