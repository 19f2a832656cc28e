"""Checks the input file of an OpenAI batch, line by line, and keeps its items.

``BatchRunner`` calls it. It reads the file from its beginning each time, and goes on storing where an earlier attempt
stopped: a name that comes twice is only found by who has seen all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from relay.broker.batch import Batch
from relay.core.batch.items import OPENAI_ENDPOINTS, Fault
from relay.core.batch.parts import Lines
from relay.core.errors import Gone, NotFound, TooLarge
from relay.ingress.batches.intake import Intake
from relay.ingress.batches.uploads import BITE_BYTES
from relay.ingress.wiring import Ingress

# OpenAI tells so many of them; a file that is wrong is wrong in each line.
FAULTS_MAX = 100

_ENDPOINT_URLS = {endpoint: url for url, endpoint in OPENAI_ENDPOINTS.items()}


class BatchCheck:
    """The checking that goes on in one ingress."""

    def __init__(self, ingress: Ingress) -> None:
        self._ingress = ingress

    async def run(self, batch: Batch) -> None:
        """Check a batch to its end.  Raises ``Conflict`` when another process is at it, ``Unavailable``."""
        ingress = self._ingress
        intake = Intake(ingress.batches, batch.id, await ingress.batch_steps.stored(batch.id), orphan=False)
        faults: list[dict[str, Any]] = []
        try:
            async for number, raw in self._lines(batch):
                if fault := await self._take(batch, intake, raw):
                    faults.append(_told(fault, number))
                if intake.count > ingress.settings.batch_limit_items:
                    limit = ingress.settings.batch_limit_items
                    faults = [_told(Fault("too_many_tasks", f"A batch may have {limit} requests."), None)]
                if len(faults) >= FAULTS_MAX or intake.count > ingress.settings.batch_limit_items:
                    break
        except (NotFound, Gone):
            faults = [_told(Fault("file_not_found", f"The file {batch.input_file} is gone."), None)]
        except TooLarge as error:
            faults = [_told(Fault("request_too_large", error.message), None)]
        if not faults and not intake.count:
            faults = [_told(Fault("empty_file", "The input file is empty: a batch has at least one request."), None)]
        if not faults:
            await intake.flush()
        await ingress.batch_steps.checked(batch.id, intake.count, faults)
        if faults:
            await intake.forget()

    async def _take(self, batch: Batch, intake: Intake, raw: bytes) -> Fault | None:
        try:
            item = await self._ingress.item_inspector.openai(raw, _ENDPOINT_URLS[batch.endpoint])
        except Fault as fault:
            return fault
        if intake.has(item.custom_id):
            message = f"The custom_id {item.custom_id!r} is that of another request of this batch."
            return Fault("duplicate_custom_id", message, "custom_id")
        await intake.add(item)
        return None

    async def _lines(self, batch: Batch) -> AsyncIterator[tuple[int, bytes]]:
        ingress, loop = self._ingress, asyncio.get_running_loop()
        file = await ingress.files.get(batch.input_file, batch.tenant)
        lines = Lines(ingress.settings.body_limit_bytes)
        lease_s = ingress.settings.lease_s
        renewed = loop.time()
        async for piece in ingress.files.content(file.id, file.bytes):
            for at in range(0, len(piece), BITE_BYTES):
                for numbered in lines.feed(piece[at : at + BITE_BYTES]):
                    yield numbered
                await asyncio.sleep(0)
            if loop.time() - renewed > lease_s / 3:
                renewed = loop.time()
                await ingress.batch_steps.look_again(batch.id, lease_s)
        for numbered in lines.end():
            yield numbered


def _told(fault: Fault, line: int | None) -> dict[str, Any]:
    return {"code": fault.code, "line": line, "message": fault.message, "param": fault.param}
