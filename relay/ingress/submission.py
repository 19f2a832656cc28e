"""From a request's bytes to a job: look at them once, find where they can go, refuse what is wrong.

The native surfaces and the jobs API call ``plan``; putting the job into the queue, and whom to answer when, is theirs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from relay.broker.api_keys import ApiKey
from relay.broker.queue import pieces_of
from relay.core.body import MODEL_SPANS_MAX, Endpoint, model_spans
from relay.core.cache_control import refusal
from relay.core.document import Span
from relay.core.errors import InvalidRequest
from relay.core.job import Dialect, Job, Target, new_id
from relay.ingress.headers import to_provider
from relay.ingress.inspection import Facts
from relay.ingress.wiring import Ingress

# Per request: breakpoints where the client sets none, or none of ours whatever the key and the model say.
CACHE_HEADER = b"x-relay-cache"
DIGESTS_HEADER = b"x-relay-prompt-digests"

# Per model, targets that could serve it: each may take its time, and the last of many hardly helps anybody.
_TARGETS_MAX = 8


class Asked(NamedTuple):
    """A request of one of the surfaces, wherever it came in."""

    surface: Dialect
    endpoint: Endpoint
    query: str
    headers: Mapping[bytes, bytes]
    body: bytes


async def plan(ingress: Ingress, key: ApiKey, asked: Asked) -> tuple[Job, str]:
    """The job for this request, and the digests of its prompt if they were asked for.

    Raises ``InvalidRequest``, ``NotFound`` for a model nobody serves, ``Unavailable``.
    """
    surface, endpoint, query, headers, body = asked
    facts = await ingress.inspector.inspect(body, surface, endpoint, headers.get(DIGESTS_HEADER) == b"1")
    targets = _targets(ingress, facts.model, endpoint)
    job = Job(
        id=new_id(ingress.settings.partition),
        tenant=key.tenant,
        key_id=key.id,
        surface=surface,
        endpoint=endpoint,
        query=_printable(query),
        headers=to_provider(headers),
        model=facts.model,
        targets=targets,
        stream=facts.stream,
        created_ms=time.time_ns() // 1_000_000,
        body_bytes=len(body),
        body_pieces=pieces_of(len(body)),
        marker_ttls=facts.marker_ttls,
        model_spans=_renamed(body, facts, surface, targets),
        prefixes=facts.prefixes,
        stream_usage=facts.stream_usage,
        auto_cache=endpoint != "count_tokens" and _wants_breakpoints(ingress, key, headers, facts.model),
    )
    return job, facts.digests


def _targets(ingress: Ingress, model: str, endpoint: Endpoint) -> tuple[Target, ...]:
    """Where the request can go.  Raises ``NotFound``, and ``InvalidRequest`` where nobody has such an endpoint."""
    targets = ingress.router.resolve(model)
    if endpoint == "count_tokens":
        able = tuple(target for target in targets if target.dialect == "anthropic")
        if not able:
            raise InvalidRequest(
                f"Tokens cannot be counted for the model {model!r}: the API of its provider, "
                f"{targets[0].provider!r}, has nothing like it.",
                param="model",
            )
        targets = able
    return targets[:_TARGETS_MAX]


def _wants_breakpoints(ingress: Ingress, key: ApiKey, headers: Mapping[bytes, bytes], model: str) -> bool:
    """What is nearest to the request counts: its header, its key, its model."""
    wish = headers.get(CACHE_HEADER, b"").decode("latin-1").strip().lower() or key.cache
    if wish not in ("", "auto", "off"):
        raise refusal("x-relay-cache", "Input should be 'auto' or 'off'", wish)
    if wish:
        return wish == "auto"
    return any(fnmatchcase(model, glob) for glob in ingress.auto_cache)


def _printable(query: str) -> str:
    if not (query.isascii() and query.isprintable()):
        raise InvalidRequest("The query string may hold printable ASCII only.")
    return query


def _renamed(body: bytes, facts: Facts, surface: Dialect, targets: tuple[Target, ...]) -> tuple[Span, ...]:
    """Where a worker has to write a target's name for the model.  Raises ``InvalidRequest``."""
    if all(target.model == facts.model or target.dialect != surface for target in targets):
        return ()
    spans = facts.model_spans or model_spans(body)  # a small body is looked through here, and only if need be
    if len(spans) > MODEL_SPANS_MAX:
        raise InvalidRequest(f"model: The member may not be repeated more than {MODEL_SPANS_MAX} times.", param="model")
    return spans
