"""A job's bytes on their way to one target: as they came, renamed, or rewritten; big ones in a process of their own.

Tasks call ``prepare``.  What is to be done and how is ``relay.core``'s; this module knows only where.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from relay import child
from relay.core import pieces as positions
from relay.core.job import Job
from relay.core.outbound import Outbound, Way, asked_for_usage, is_rewritten, rewritten

# Finding prefixes anew takes long: each value on the way to a marker is read on its own.
BIG_DIGESTED_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What goes upstream.  ``breakpoints``: the times of those that reach the provider, as far as they are known."""

    pieces: list[bytes]
    breakpoints: tuple[str, ...]
    cache_control: str = ""
    digests: str = ""
    dropped: tuple[str, ...] = ()


class Rewriter:
    """``close`` it at the end."""

    def __init__(self) -> None:
        self._child = child.Child(__name__)

    async def prepare(self, job: Job, way: Way, pieces: list[bytes]) -> Outgoing:
        """Raises ``InvalidRequest`` where the target cannot serve the request; ``Unavailable``."""
        if way.translates or way.marks or way.stream_usage == "declined" or way.cache_control != "keep":
            body = b"".join(pieces)
            if is_rewritten(body, way):
                return _described(job, await self._rewritten(body, way))
            pieces = [body]
        return await _renamed(job, way, pieces)

    def close(self) -> None:
        self._child.close()

    async def _rewritten(self, body: bytes, way: Way) -> Outbound:
        if not (child.is_big(body) or (way.digests and len(body) > BIG_DIGESTED_BYTES)):
            return rewritten(body, way)
        answer, sent = await self._child.ask(asdict(way), body)
        return Outbound(sent, **answer)


async def _renamed(job: Job, way: Way, pieces: list[bytes]) -> Outgoing:
    """Not parsed: the job says where things stand."""
    prefixes = job.prefixes
    if way.model != job.model:
        assert job.model_spans, "the ingress finds what is to be renamed"
        name = orjson.dumps(way.model)
        pieces = positions.replaced(pieces, job.model_spans, name)
        prefixes = positions.moved(prefixes, job.model_spans, len(name))
    if way.stream_usage == "unasked":
        pieces = asked_for_usage(pieces)
    # Hashing lets go of the interpreter, so beside the event loop it holds up nobody.
    digests = await asyncio.to_thread(positions.digests, prefixes, pieces) if prefixes else ""
    return Outgoing(pieces, job.marker_ttls, digests=digests)


def _described(job: Job, outbound: Outbound) -> Outgoing:
    arrived = job.marker_ttls[outbound.stripped :] if outbound.stripped else job.marker_ttls
    return Outgoing(
        [outbound.body],
        arrived + ("5m",) * outbound.added,
        outbound.cache_control,
        outbound.digests,
        tuple(outbound.dropped),
    )


def _answer(way: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
    outbound = rewritten(body, Way(**way))
    return {name: value for name, value in outbound._asdict().items() if name != "body"}, outbound.body


if __name__ == "__main__":
    child.serve(_answer)
