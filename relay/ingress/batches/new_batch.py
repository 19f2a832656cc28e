"""What both surfaces share: the record of a batch that is being made, and how far one is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relay.broker.api_keys import ApiKey
from relay.broker.batch import Batch
from relay.ingress.batches import ids as batch_ids
from relay.ingress.headers import app_of, to_provider, trace_of
from relay.ingress.submission import CACHE_HEADER, wanted_log
from relay.ingress.wiring import Ingress

# Anthropic's counts stand still until a batch has ended; whoever watches one would like to know more.
PROGRESS_HEADER = "x-relay-batch-progress"


def progress(batch: Batch) -> str:
    """``120/500``: so many of its requests have ended."""
    return f"{batch.collected}/{batch.total}"


def new_batch(ingress: Ingress, key: ApiKey, headers: Mapping[bytes, bytes], batch_id: str, **facts: Any) -> Batch:
    """``headers`` are those of the request that makes it; each of its calls goes by them."""
    settings = ingress.settings
    kept = to_provider(headers) | trace_of(headers)
    if CACHE_HEADER in headers:
        kept[CACHE_HEADER.decode()] = headers[CACHE_HEADER].decode("latin-1")
    created_ms = batch_ids.made_ms(batch_id)
    return Batch(
        id=batch_id,
        tenant=key.tenant,
        key_id=key.id,
        app=app_of(headers) or key.name,
        cache=key.cache,
        log=wanted_log(ingress, key, headers),
        headers=kept,
        created_ms=created_ms,
        expires_ms=created_ms + int(settings.batch_window_s * 1000),
        output_file=batch_ids.new(batch_ids.FILE, settings.partition),
        error_file=batch_ids.new(batch_ids.FILE, settings.partition),
        **facts,
    )
