"""OpenAI's Files, as far as batches need them: ``/v1/files``, for unmodified SDKs.

Files live in Redis, in pieces, and go after ``RELAY_BATCH_TTL_S`` unless the upload said otherwise. Uploads are for
batches only; what batches leave is found here too.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel

from relay.broker.files import File
from relay.core.errors import InvalidRequest
from relay.ingress.batches import ids as batch_ids
from relay.ingress.batches.multipart import Multipart
from relay.ingress.batches.uploads import Upload, bites
from relay.ingress.documentation import KEY
from relay.ingress.exchange import Exchange
from relay.ingress.jobs.access import key_of
from relay.ingress.requests import authenticate, check_scope
from relay.ingress.surface_docs import Responses, errors
from relay.ingress.wiring import Ingress

FileId = Annotated[str, Path(examples=["file-0_0199a1b2c3d47e5f8a9b0c1d2e3f4a5b"])]

# Large enough for few commands, small enough that none of them holds up Redis for more than some 0.1 ms.
PIECE_BYTES = 256 << 10
# A form around the file: its fields and boundaries.
FORM_BYTES_MAX = 128 << 10

# OpenAI's bounds of `expires_after[seconds]`.
EXPIRES_MIN_S, EXPIRES_MAX_S = 3600, 2_592_000
FILENAME_CHARS_MAX = 255

_FORM = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "enum": ["batch"]},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer", "minimum": EXPIRES_MIN_S, "maximum": EXPIRES_MAX_S},
    },
}


class FileView(BaseModel):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"] = "processed"
    status_details: None = None

    @classmethod
    def of(cls, file: File) -> FileView:
        return cls.model_validate(
            {
                "id": file.id,
                "bytes": file.bytes,
                "created_at": file.created_ms // 1000,
                "expires_at": file.expires_ms // 1000,
                "filename": file.filename,
                "purpose": file.purpose,
            }
        )


class FilePage(BaseModel):
    object: Literal["list"] = "list"
    data: list[FileView]
    has_more: bool
    first_id: str | None
    last_id: str | None


class DeletedFile(BaseModel):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class OpenAIFiles:
    """The endpoints below ``/v1/files``."""

    def __init__(self, ingress: Ingress) -> None:
        self._ingress = ingress

    def router(self) -> APIRouter:
        router = APIRouter(tags=["batches"], dependencies=KEY)
        documented = partial(errors, "openai")
        form = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}}
        made: Responses = {200: {"model": FileView}}
        content: Responses = {200: {"description": "The file, as it is.", "content": {"application/octet-stream": {}}}}
        for prefix in ("/v1/files", "/files"):
            add = partial(router.add_api_route, include_in_schema=prefix.startswith("/v1"))
            add(
                prefix,
                self.create,
                methods=["POST"],
                summary="Upload a file",
                response_class=Response,
                responses=made | documented(400, 401, 403, 408, 413, 415, 503),
                openapi_extra=form,
            )
            add(prefix, self.all, methods=["GET"], summary="Files", responses=documented(400, 401, 403, 404, 503))
            one, seen = f"{prefix}/{{file_id}}", documented(401, 403, 404, 503)
            add(one, self.show, methods=["GET"], summary="A file", responses=seen)
            add(one, self.delete, methods=["DELETE"], summary="Delete a file", responses=seen)
            add(
                f"{one}/content",
                self.content,
                methods=["GET"],
                summary="The content of a file",
                response_class=Response,
                responses=content | documented(401, 403, 404, 410, 503),
            )
        return router

    async def create(self) -> Response:
        return Upload("openai", self._take)

    async def show(self, request: Request, file_id: FileId) -> FileView:
        return FileView.of(await self._get(request, file_id))

    async def all(
        self,
        request: Request,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
        after: str = "",
        order: Literal["asc", "desc"] = "desc",
        purpose: str = "",
    ) -> FilePage:
        key = await key_of(self._ingress, request, "jobs:read")
        behind = after and self._checked(after)
        page = await self._ingress.files.page(key.tenant, purpose, behind, limit, newest_first=order == "desc")
        shown = [FileView.of(file) for file in page.files]
        first_id, last_id = (shown[0].id, shown[-1].id) if shown else (None, None)
        return FilePage(data=shown, has_more=page.more, first_id=first_id, last_id=last_id)

    async def content(self, request: Request, file_id: FileId) -> Response:
        file = await self._get(request, file_id)
        pieces = self._ingress.files.content(file.id, file.bytes)
        headers = {"content-length": str(file.bytes)}
        return StreamingResponse(pieces, headers=headers, media_type="application/octet-stream")

    async def delete(self, request: Request, file_id: FileId) -> DeletedFile:
        key = await key_of(self._ingress, request, "jobs:write")
        await self._ingress.files.delete(self._checked(file_id), key.tenant)
        return DeletedFile(id=file_id)

    def _checked(self, file_id: str) -> str:
        return batch_ids.checked(batch_ids.FILE, self._ingress.settings.partition, file_id)

    async def _get(self, request: Request, file_id: str) -> File:
        key = await key_of(self._ingress, request, "jobs:read")
        return await self._ingress.files.get(self._checked(file_id), key.tenant)

    async def _take(self, exchange: Exchange) -> FileView:
        ingress, settings = self._ingress, self._ingress.settings
        key = await authenticate(exchange.headers, ingress.api_keys)
        check_scope(key, "jobs:write")
        form = Multipart(exchange.headers.get(b"content-type", b"").decode("latin-1"))
        file_id = batch_ids.new(batch_ids.FILE, settings.partition)
        try:
            size = await self._store(exchange, form, file_id)
            created_ms = batch_ids.made_ms(file_id)
            name = form.filename or ""
            file = File(
                id=file_id,
                tenant=key.tenant,
                filename=name[:FILENAME_CHARS_MAX] or "upload.jsonl",
                purpose="batch",
                bytes=size,
                created_ms=created_ms,
                expires_ms=created_ms + _lives_s(form.fields, settings.batch_ttl_s) * 1000,
            )
            await ingress.files.create(file)
        except BaseException:
            await ingress.files.forget(file_id)
            raise
        return FileView.of(file)

    async def _store(self, exchange: Exchange, form: Multipart, file_id: str) -> int:
        """Store the file while it comes; its size.  Raises ``InvalidRequest`` for a form that is not all there."""
        number = size = 0
        piece = bytearray()
        async for data in bites(exchange, self._ingress.settings.batch_limit_bytes + FORM_BYTES_MAX):
            for part in form.feed(data):
                piece += part
            if len(piece) >= PIECE_BYTES:
                await self._ingress.files.store(file_id, number, bytes(piece))
                number, size, piece = number + 1, size + len(piece), bytearray()
        if not form.complete:
            raise InvalidRequest("The request body ends before its form does.")
        if form.filename is None:
            raise InvalidRequest("file: Field required.", param="file")
        purpose = form.fields.get("purpose")
        if purpose != "batch":
            raise InvalidRequest(f"purpose: Files are for 'batch' here, not {purpose!r}.", param="purpose")
        if piece:
            await self._ingress.files.store(file_id, number, bytes(piece))
        return size + len(piece)


def _lives_s(fields: dict[str, str], ttl_s: float) -> int:
    """For how long to keep it.  Raises ``InvalidRequest``."""
    given = fields.get("expires_after[seconds]")
    if given is None:
        return int(ttl_s)
    seconds = int(given[:9]) if given.isascii() and given.isdigit() else 0
    if not EXPIRES_MIN_S <= seconds <= EXPIRES_MAX_S:
        where = "expires_after[seconds]"
        what = f"Input should be between {EXPIRES_MIN_S} and {EXPIRES_MAX_S}, not {given[:80]!r}."
        raise InvalidRequest(f"{where}: {what}", param=where)
    return seconds
