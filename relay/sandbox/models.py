"""The models the sandbox lists.  It answers for any ``claude-``, ``gpt-`` or ``o1``-like name, listed or not."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, NamedTuple

from relay.sandbox.dialect import Body
from relay.sandbox.refusal import Refusal

_CREATED: Final = datetime(2026, 9, 1, tzinfo=UTC)
_PAGE: Final = 20
_PAGE_MAX: Final = 1000


class _Model(NamedTuple):
    id: str
    name: str
    line: str | None = None
    owner: str = "openai"


_MODELS: Final = (
    _Model("claude-opus-5-5", "Claude Opus 5.5", "opus", "anthropic"),
    _Model("claude-sonnet-5-5", "Claude Sonnet 5.5", "sonnet", "anthropic"),
    _Model("claude-haiku-5-5", "Claude Haiku 5.5", "haiku", "anthropic"),
    _Model("claude-opus-4-8", "Claude Opus 4.8", "opus", "anthropic"),
    _Model("claude-sonnet-4-6", "Claude Sonnet 4.6", "sonnet", "anthropic"),
    _Model("claude-haiku-4-5", "Claude Haiku 4.5", "haiku", "anthropic"),
    _Model("gpt-6.1-terra", "GPT-6.1 Terra"),
    _Model("gpt-5.6-luna", "GPT-5.6 Luna"),
    _Model("gpt-5.4-mini", "GPT-5.4 mini"),
    _Model("gpt-4o", "GPT-4o"),
    _Model("o4-mini", "o4-mini"),
)


def anthropic_page(query: Mapping[str, str]) -> Body:
    """One page in Anthropic's form, by ``limit``, ``after_id`` and ``before_id``."""
    try:
        limit = int(query.get("limit", _PAGE))
    except ValueError as error:
        raise Refusal(400, "limit: Input should be a valid integer") from error
    if not 1 <= limit <= _PAGE_MAX:
        raise Refusal(400, f"limit: Input should be from 1 to {_PAGE_MAX}")
    ids = [model.id for model in _MODELS]
    start, end = 0, len(ids)
    if "after_id" in query:
        start = _index(ids, query["after_id"]) + 1
    if "before_id" in query:
        end = _index(ids, query["before_id"])
        start = max(start, end - limit)
    page = [anthropic_entry(id) for id in ids[start:end][:limit]]
    return {
        "data": page,
        "has_more": start + len(page) < len(ids) if "before_id" not in query else start > 0,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
    }


def anthropic_entry(id: str) -> Body:
    model = _find(id)
    return {
        "type": "model",
        "id": model.id,
        "display_name": model.name,
        "created_at": _CREATED.isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
        "deprecated_at": None,
        "retires_at": None,
        "line": model.line,
        "max_input_tokens": 1_000_000,
        "max_tokens": 128_000,
        "capabilities": None,
    }


def openai_list() -> Body:
    return {"object": "list", "data": [openai_entry(model.id) for model in _MODELS]}


def openai_entry(id: str) -> Body:
    model = _find(id)
    return {"id": model.id, "object": "model", "created": int(_CREATED.timestamp()), "owned_by": model.owner}


def _find(id: str) -> _Model:
    for model in _MODELS:
        if model.id == id:
            return model
    raise Refusal(404, f"model: {id}", param="model")


def _index(ids: list[str], id: str) -> int:
    if id not in ids:
        raise Refusal(400, f"unknown model in the cursor: {id}")
    return ids.index(id)
