"""Anthropic's Message Batches: ``/v1/messages/batches``, for unmodified SDKs.

As there, what a batch is made of is checked when it is created, and what its requests mean when their turn comes: one
that cannot be answered is an ``errored`` result. Unlike there, ``results_url`` is a path: SDKs put their base URL
before it, which knows of TLS and prefixes on the way what we do not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel

from relay.broker.api_keys import ApiKey
from relay.broker.batch import BATCH_ENDED, IN_PROGRESS, Batch
from relay.core.batch.parts import Elements
from relay.core.errors import Conflict, InvalidRequest
from relay.ingress.batches import ids as batch_ids
from relay.ingress.batches.intake import Intake
from relay.ingress.batches.new_batch import PROGRESS_HEADER, new_batch, progress
from relay.ingress.batches.uploads import Upload, bites
from relay.ingress.documentation import KEY
from relay.ingress.exchange import Exchange
from relay.ingress.jobs.access import key_of
from relay.ingress.requests import authenticate, check_content_type, check_scope
from relay.ingress.surface_docs import Responses, errors
from relay.ingress.wiring import Ingress

BatchId = Annotated[str, Path(examples=["msgbatch_0_0199a1b2c3d47e5f8a9b0c1d2e3f4a5b"])]

_REQUESTS = {
    "type": "object",
    "required": ["requests"],
    "properties": {
        "requests": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["custom_id", "params"],
                "properties": {
                    "custom_id": {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"},
                    "params": {"type": "object", "description": "As for `POST /v1/messages`, without `stream`."},
                },
            },
        }
    },
}


class RequestCounts(BaseModel):
    """All are `processing` until the whole batch has ended."""

    processing: int
    succeeded: int
    errored: int
    canceled: int
    expired: int


class MessageBatch(BaseModel):
    id: str
    type: Literal["message_batch"] = "message_batch"
    processing_status: Literal["in_progress", "canceling", "ended"]
    request_counts: RequestCounts
    created_at: str
    expires_at: str
    ended_at: str | None
    archived_at: None = None
    cancel_initiated_at: str | None
    results_url: str | None

    @classmethod
    def of(cls, batch: Batch) -> MessageBatch:
        over = batch.state == BATCH_ENDED
        counts = RequestCounts(
            processing=0 if over else batch.total,
            succeeded=batch.succeeded if over else 0,
            errored=batch.errored if over else 0,
            canceled=batch.canceled if over else 0,
            expired=batch.expired if over else 0,
        )
        return cls(
            id=batch.id,
            processing_status="ended" if over else "canceling" if batch.cancel_ms else "in_progress",
            request_counts=counts,
            created_at=_moment(batch.created_ms),
            expires_at=_moment(batch.expires_ms),
            ended_at=_moment(batch.ended_ms) if over else None,
            cancel_initiated_at=_moment(batch.cancel_ms) if batch.cancel_ms else None,
            results_url=f"/v1/messages/batches/{batch.id}/results" if over else None,
        )


class MessageBatchPage(BaseModel):
    data: list[MessageBatch]
    has_more: bool
    first_id: str | None
    last_id: str | None


class DeletedMessageBatch(BaseModel):
    id: str
    type: Literal["message_batch_deleted"] = "message_batch_deleted"


class AnthropicBatches:
    """The endpoints below ``/v1/messages/batches``."""

    def __init__(self, ingress: Ingress) -> None:
        self._ingress = ingress

    def router(self) -> APIRouter:
        router = APIRouter(tags=["batches"], dependencies=KEY)
        documented = partial(errors, "anthropic")
        body = {"requestBody": {"required": True, "content": {"application/json": {"schema": _REQUESTS}}}}
        made: Responses = {200: {"model": MessageBatch}}
        jsonl: Responses = {200: {"description": "One line per request.", "content": {"application/x-jsonl": {}}}}
        for prefix in ("/v1/messages/batches", "/messages/batches"):
            add = partial(router.add_api_route, include_in_schema=prefix.startswith("/v1"))
            add(
                prefix,
                self.create,
                methods=["POST"],
                summary="Create a message batch",
                response_class=Response,
                responses=made | documented(400, 401, 403, 408, 413, 415, 503),
                openapi_extra=body,
            )
            listed = documented(400, 401, 403, 404, 503)
            add(prefix, self.all, methods=["GET"], summary="Message batches", responses=listed)
            one = f"{prefix}/{{batch_id}}"
            seen = documented(401, 403, 404, 503)
            add(one, self.show, methods=["GET"], summary="A message batch", responses=seen)
            add(
                one,
                self.delete,
                methods=["DELETE"],
                summary="Delete a message batch and its results",
                responses=documented(401, 403, 404, 409, 503),
            )
            add(
                f"{one}/cancel",
                self.cancel,
                methods=["POST"],
                summary="Cancel a message batch",
                description="No more of its requests begin; calls that are under way are finished.",
                responses=seen,
            )
            add(
                f"{one}/results",
                self.results,
                methods=["GET"],
                summary="The results of a message batch",
                response_class=Response,
                responses=jsonl | documented(401, 403, 404, 409, 410, 503),
            )
        return router

    async def create(self) -> Response:
        return Upload("anthropic", self._take)

    async def show(self, request: Request, response: Response, batch_id: BatchId) -> MessageBatch:
        key = await key_of(self._ingress, request, "jobs:read")
        batch = await self._get(key, batch_id)
        response.headers[PROGRESS_HEADER] = progress(batch)
        return MessageBatch.of(batch)

    async def all(
        self,
        request: Request,
        limit: Annotated[int, Query(ge=1, le=1000)] = 20,
        after_id: str = "",
        before_id: str = "",
    ) -> MessageBatchPage:
        key = await key_of(self._ingress, request, "jobs:read")
        after, before = (given and self._checked(given) for given in (after_id, before_id))
        page = await self._ingress.batches.page("anthropic", key.tenant, after=after, before=before, limit=limit)
        shown = [MessageBatch.of(batch) for batch in page.batches]
        first_id, last_id = (shown[0].id, shown[-1].id) if shown else (None, None)
        return MessageBatchPage(data=shown, has_more=page.more, first_id=first_id, last_id=last_id)

    async def cancel(self, request: Request, batch_id: BatchId) -> MessageBatch:
        key = await key_of(self._ingress, request, "jobs:write")
        return MessageBatch.of(await self._ingress.batches.cancel(self._checked(batch_id), "anthropic", key.tenant))

    async def delete(self, request: Request, batch_id: BatchId) -> DeletedMessageBatch:
        key = await key_of(self._ingress, request, "jobs:write")
        await self._ingress.batches.delete(self._checked(batch_id), "anthropic", key.tenant)
        return DeletedMessageBatch(id=batch_id)

    async def results(self, request: Request, batch_id: BatchId) -> Response:
        key = await key_of(self._ingress, request, "jobs:read")
        batch = await self._get(key, batch_id)
        if batch.state != BATCH_ENDED:
            raise Conflict(f"{batch_id} has no results yet: it is still being processed.")
        content: AsyncIterator[bytes] = self._ingress.files.content(batch.output_file, batch.output_bytes)
        headers = {"content-length": str(batch.output_bytes)}
        return StreamingResponse(content, headers=headers, media_type="application/x-jsonl")

    def _checked(self, batch_id: str) -> str:
        return batch_ids.checked(batch_ids.MESSAGE_BATCH, self._ingress.settings.partition, batch_id)

    async def _get(self, key: ApiKey, batch_id: str) -> Batch:
        return await self._ingress.batches.get(self._checked(batch_id), "anthropic", key.tenant)

    async def _take(self, exchange: Exchange) -> MessageBatch:
        """The input is stored while it comes; once it is whole and known to be right, it is a batch."""
        ingress, headers = self._ingress, exchange.headers
        key = await authenticate(headers, ingress.api_keys)
        check_scope(key, "jobs:write")
        check_content_type(headers)
        batch_id = batch_ids.new(batch_ids.MESSAGE_BATCH, ingress.settings.partition)
        intake = Intake(ingress.batches, batch_id, orphan=True)
        try:
            await self._store(exchange, intake)
            batch = new_batch(
                ingress,
                key,
                headers,
                batch_id,
                surface="anthropic",
                endpoint="messages",
                query=exchange.scope["query_string"].decode("latin-1"),
                state=IN_PROGRESS,
                begun_ms=batch_ids.made_ms(batch_id),
                total=intake.count,
            )
            await ingress.batches.create(batch, intake.big)
        except BaseException:
            await intake.forget()
            raise
        return MessageBatch.of(batch)

    async def _store(self, exchange: Exchange, intake: Intake) -> None:
        ingress, settings = self._ingress, self._ingress.settings
        elements = Elements(settings.body_limit_bytes)
        async for data in bites(exchange, settings.batch_limit_bytes):
            for raw in elements.feed(data):
                item = await ingress.item_inspector.anthropic(raw, intake.count)
                if intake.has(item.custom_id):
                    where = f"requests.{intake.count}.custom_id"
                    message = f"{where}: {item.custom_id!r} is the custom_id of another request."
                    raise InvalidRequest(message, param=where)
                if intake.count == settings.batch_limit_items:
                    raise InvalidRequest(f"requests: A batch may have {intake.count} requests.", param="requests")
                await intake.add(item)
        elements.end()
        await intake.flush()


def _moment(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
