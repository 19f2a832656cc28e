"""From a request's bytes to a job: look at them once, find where they can go, refuse what is wrong.

The native surfaces and the jobs API call ``plan``, and ``once`` for its idempotency key; putting the job into the
queue, and whom to answer when, is theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import orjson

from relay.broker.api_keys import ApiKey
from relay.broker.queue import pieces_of
from relay.core import content, idempotency
from relay.core.body import MODEL_SPANS_MAX, Endpoint, model_spans
from relay.core.cache_control import refusal
from relay.core.document import Span
from relay.core.errors import InvalidRequest
from relay.core.idempotency import Once
from relay.core.job import Dialect, Job, OnDisconnect, Priority, Target, made_ms, new_id
from relay.ingress.headers import app_of, to_provider, trace_of
from relay.ingress.inspection import Caching, Facts
from relay.ingress.wiring import Ingress

# Per request: breakpoints where the client sets none, or none of ours whatever the key and the model say.
CACHE_HEADER = b"x-relay-cache"
# Whether the ledger keeps what is asked and answered: what is nearest to the request counts here, too.
LOG_HEADER = b"x-relay-log"
DIGESTS_HEADER = b"x-relay-prompt-digests"
IDEMPOTENCY_HEADER = idempotency.HEADER.lower().encode()

# SHA-256 takes about a millisecond for it; a longer request is hashed in a thread, which runs beside the loop.
HASHED_HERE_BYTES = 1 << 20

# Per model, targets that could serve it: each may take its time, and the last of many hardly helps anybody.
_TARGETS_MAX = 8


class Asked(NamedTuple):
    """A request of one of the surfaces, wherever it came in."""

    surface: Dialect
    endpoint: Endpoint
    query: str
    headers: Mapping[bytes, bytes]
    body: bytes


@dataclass(frozen=True, slots=True)
class Terms:
    """What the client wants of the relay beside the answer.  Times are Unix milliseconds, 0 where there is none."""

    on_disconnect: OnDisconnect
    metadata: dict[str, str] = field(default_factory=dict)
    priority: Priority = "normal"
    run_at_ms: int = 0
    expires_in_s: int = 0  # counted from when it may run
    webhook: str = ""

    def fingerprint(self) -> bytes:
        """What makes a request another one. ``on_disconnect`` does not: a native call may join a job."""
        values = [self.metadata, self.priority, self.run_at_ms, self.expires_in_s, self.webhook]
        return orjson.dumps(values, option=orjson.OPT_SORT_KEYS)


async def once(key: ApiKey, asked: Asked, terms: Terms) -> Once | None:
    """The idempotency key of a request, if it has one.  Raises ``InvalidRequest``."""
    given = asked.headers.get(IDEMPOTENCY_HEADER)
    if given is None:
        return None
    text = idempotency.checked(given.decode("latin-1"))
    parts = (asked.endpoint.encode(), asked.body, terms.fingerprint())
    if len(asked.body) <= HASHED_HERE_BYTES:
        return idempotency.once(key.tenant, text, parts)
    return await asyncio.to_thread(idempotency.once, key.tenant, text, parts)


async def plan(ingress: Ingress, key: ApiKey, asked: Asked, terms: Terms) -> tuple[Job, str]:
    """The job for this request, and the digests of its prompt if they were asked for.

    Raises ``InvalidRequest``, ``NotFound`` for a model nobody serves, ``Unavailable``.
    """
    surface, endpoint, query, headers, body = asked
    upstream = to_provider(headers)
    caching = Caching(upstream, _automatic(ingress, key, asked), headers.get(DIGESTS_HEADER) == b"1")
    facts = await ingress.inspector.inspect(body, surface, endpoint, caching)
    targets = _targets(ingress, facts.model, endpoint)
    job_id = new_id(ingress.settings.partition)
    created_ms = made_ms(job_id)
    job = Job(
        id=job_id,
        tenant=key.tenant,
        key_id=key.id,
        surface=surface,
        endpoint=endpoint,
        query=_printable(query),
        headers=upstream,
        model=facts.model,
        targets=targets,
        stream=facts.stream,
        created_ms=created_ms,
        body_bytes=len(body),
        body_pieces=pieces_of(len(body)),
        marker_ttls=facts.marker_ttls,
        on_disconnect=terms.on_disconnect,
        model_spans=_renamed(body, facts, surface, targets),
        prefixes=facts.prefixes,
        stream_usage=facts.stream_usage,
        app=app_of(headers) or key.name,
        user=facts.user,
        auto_cache=facts.auto_cache,
        metadata=terms.metadata,
        priority=terms.priority,
        run_at_ms=terms.run_at_ms,
        expires_at_ms=max(created_ms, terms.run_at_ms) + terms.expires_in_s * 1000 if terms.expires_in_s else 0,
        webhook=terms.webhook,
        log=wanted_log(ingress, key, headers),
        trace=trace_of(headers),
        fingerprint=facts.fingerprint,
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


def _automatic(ingress: Ingress, key: ApiKey, asked: Asked) -> tuple[str, ...]:
    """The models that get breakpoints of ours.  What is nearest to the request counts: header, key, model."""
    if asked.endpoint == "count_tokens":
        return ()
    wish = asked.headers.get(CACHE_HEADER, b"").decode("latin-1").strip().lower() or key.cache
    if wish not in ("", "auto", "off"):
        raise refusal("x-relay-cache", "Input should be 'auto' or 'off'", wish)
    return {"": ingress.auto_cache, "auto": ("*",), "off": ()}[wish]


def wanted_log(ingress: Ingress, key: ApiKey, headers: Mapping[bytes, bytes]) -> str:
    """What of a call is to be kept, as its job carries it: its header says so, else its key.

    Raises ``InvalidRequest``.
    """
    said = headers.get(LOG_HEADER, b"").decode("latin-1") or key.log or content.USAGE
    return content.asked(said, ingress.settings.content_ttl_s, LOG_HEADER.decode())


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
