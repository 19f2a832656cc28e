"""OpenAI's Batches: ``/v1/batches``, for unmodified SDKs.

A batch is made of an uploaded file, which is checked afterwards: what is wrong with it is told in ``errors``, line by
line, and nothing of it runs. Unlike there, the models of one batch may differ. Of the endpoints this relay has one.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from relay.broker.batch import BATCH_ENDED, BATCH_FAILED, VALIDATING, Batch
from relay.core.batch.items import OPENAI_ENDPOINTS
from relay.core.errors import InvalidRequest
from relay.ingress.batches import ids as batch_ids
from relay.ingress.batches.new_batch import PROGRESS_HEADER, new_batch, progress
from relay.ingress.documentation import KEY
from relay.ingress.headers import by_name
from relay.ingress.jobs.access import key_of
from relay.ingress.surface_docs import errors
from relay.ingress.wiring import Ingress

BatchId = Annotated[str, Path(examples=["batch_0_0199a1b2c3d47e5f8a9b0c1d2e3f4a5b"])]
Metadata = dict[
    Annotated[str, Field(max_length=64)],
    Annotated[str, Field(max_length=512)],
]

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]


class NewBatch(BaseModel):
    """What is asked for; other members are the provider's business, and left alone."""

    input_file_id: str
    endpoint: str = Field(examples=["/v1/chat/completions"])
    completion_window: Literal["24h"] = Field(description="As a word; `RELAY_BATCH_WINDOW_S` says how long it is here.")
    metadata: Annotated[Metadata, Field(max_length=16)] | None = None


class BatchError(BaseModel):
    code: str
    line: int | None
    message: str
    param: str | None


class BatchErrors(BaseModel):
    object: Literal["list"] = "list"
    data: list[BatchError]


class Counts(BaseModel):
    total: int
    completed: int
    failed: int


class BatchView(BaseModel):
    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str = "24h"
    status: Status
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: Counts
    metadata: dict[str, str] | None

    @classmethod
    def of(cls, batch: Batch) -> BatchView:
        status, over = _status(batch), batch.state == BATCH_ENDED
        ended_at = _seconds(batch.ended_ms)
        return cls(
            id=batch.id,
            endpoint=next(url for url, endpoint in OPENAI_ENDPOINTS.items() if endpoint == batch.endpoint),
            errors=BatchErrors(data=[BatchError(**error) for error in batch.errors]) if batch.errors else None,
            input_file_id=batch.input_file,
            status=status,
            output_file_id=batch.output_file if over and batch.output_bytes else None,
            error_file_id=batch.error_file if over and batch.error_bytes else None,
            created_at=batch.created_ms // 1000,
            in_progress_at=_seconds(batch.begun_ms),
            expires_at=batch.expires_ms // 1000,
            finalizing_at=ended_at if over else None,
            completed_at=ended_at if status == "completed" else None,
            failed_at=ended_at if status == "failed" else None,
            expired_at=ended_at if status == "expired" else None,
            cancelled_at=ended_at if status == "cancelled" else None,
            cancelling_at=_seconds(batch.cancel_ms),
            request_counts=Counts(
                total=batch.total, completed=batch.succeeded, failed=batch.collected - batch.succeeded
            ),
            metadata=batch.metadata,
        )


class BatchPage(BaseModel):
    object: Literal["list"] = "list"
    data: list[BatchView]
    has_more: bool
    first_id: str | None
    last_id: str | None


class OpenAIBatches:
    """The endpoints below ``/v1/batches``."""

    def __init__(self, ingress: Ingress) -> None:
        self._ingress = ingress

    def router(self) -> APIRouter:
        router = APIRouter(tags=["batches"], dependencies=KEY)
        documented = partial(errors, "openai")
        for prefix in ("/v1/batches", "/batches"):
            add = partial(router.add_api_route, include_in_schema=prefix.startswith("/v1"))
            made = documented(400, 401, 403, 404, 408, 503)
            add(prefix, self.create, methods=["POST"], summary="Create a batch", responses=made)
            add(prefix, self.all, methods=["GET"], summary="Batches", responses=documented(400, 401, 403, 404, 503))
            seen = documented(401, 403, 404, 503)
            add(f"{prefix}/{{batch_id}}", self.show, methods=["GET"], summary="A batch", responses=seen)
            add(
                f"{prefix}/{{batch_id}}/cancel",
                self.cancel,
                methods=["POST"],
                summary="Cancel a batch",
                description="No more of its requests begin; calls that are under way are finished.",
                responses=seen,
            )
        return router

    async def create(self, request: Request, new: NewBatch) -> BatchView:
        key = await key_of(self._ingress, request, "jobs:write")
        if new.endpoint not in OPENAI_ENDPOINTS:
            known = ", ".join(map(repr, OPENAI_ENDPOINTS))
            raise InvalidRequest(
                f"endpoint: Batches are for {known} here, not {new.endpoint[:80]!r}.", param="endpoint"
            )
        ingress = self._ingress
        file_id = batch_ids.checked(batch_ids.FILE, ingress.settings.partition, new.input_file_id)
        file = await ingress.files.get(file_id, key.tenant)
        batch = new_batch(
            ingress,
            key,
            by_name(request.headers.raw),
            batch_ids.new(batch_ids.BATCH, ingress.settings.partition),
            surface="openai",
            endpoint=OPENAI_ENDPOINTS[new.endpoint],
            query="",
            state=VALIDATING,
            input_file=file.id,
            metadata=new.metadata,
        )
        await ingress.batches.create(batch)
        return BatchView.of(batch)

    async def show(self, request: Request, response: Response, batch_id: BatchId) -> BatchView:
        key = await key_of(self._ingress, request, "jobs:read")
        batch = await self._ingress.batches.get(self._checked(batch_id), "openai", key.tenant)
        response.headers[PROGRESS_HEADER] = progress(batch)
        return BatchView.of(batch)

    async def all(
        self, request: Request, limit: Annotated[int, Query(ge=1, le=100)] = 20, after: str = ""
    ) -> BatchPage:
        key = await key_of(self._ingress, request, "jobs:read")
        behind = after and self._checked(after)
        page = await self._ingress.batches.page("openai", key.tenant, after=behind, limit=limit)
        shown = [BatchView.of(batch) for batch in page.batches]
        first_id, last_id = (shown[0].id, shown[-1].id) if shown else (None, None)
        return BatchPage(data=shown, has_more=page.more, first_id=first_id, last_id=last_id)

    async def cancel(self, request: Request, batch_id: BatchId) -> BatchView:
        key = await key_of(self._ingress, request, "jobs:write")
        return BatchView.of(await self._ingress.batches.cancel(self._checked(batch_id), "openai", key.tenant))

    def _checked(self, batch_id: str) -> str:
        return batch_ids.checked(batch_ids.BATCH, self._ingress.settings.partition, batch_id)


def _status(batch: Batch) -> Status:
    if batch.state == BATCH_FAILED:
        return "failed"
    if batch.state == BATCH_ENDED:
        return "cancelled" if batch.cancel_ms else "expired" if batch.expired else "completed"
    if batch.cancel_ms:
        return "cancelling"
    return "validating" if batch.state == VALIDATING else "in_progress"


def _seconds(ms: int) -> int | None:
    return ms // 1000 if ms else None
