"""Looking at the items of a batch, the big ones in a process of its own (``relay.child``, which runs this module)."""

from __future__ import annotations

from typing import Any

from relay import child
from relay.core.batch import items
from relay.core.batch.items import Fault, Item


class ItemInspector:
    """The two ways to look at an item.  ``close`` it at the end."""

    def __init__(self) -> None:
        self._child = child.Child(__name__)

    async def anthropic(self, raw: bytes, number: int) -> Item:
        """Raises ``InvalidRequest``; ``Unavailable`` when the child could not tell."""
        if not child.is_big(raw):
            return items.anthropic_item(raw, number)
        facts, body = await self._child.ask({"number": number}, raw)
        return Item(facts["custom_id"], body)

    async def openai(self, raw: bytes, endpoint: str) -> Item:
        """Raises ``Fault``; ``Unavailable`` when the child could not tell."""
        if not child.is_big(raw):
            return items.openai_item(raw, endpoint)
        facts, body = await self._child.ask({"endpoint": endpoint}, raw)
        if "fault" in facts:
            raise Fault(*facts["fault"])
        return Item(facts["custom_id"], body)

    def close(self) -> None:
        self._child.close()


def _answer(question: dict[str, Any], raw: bytes) -> tuple[dict[str, Any], bytes]:
    try:
        if "number" in question:
            item = items.anthropic_item(raw, question["number"])
        else:
            item = items.openai_item(raw, question["endpoint"])
    except Fault as fault:
        return {"fault": [fault.code, fault.message, fault.param]}, b""
    return {"custom_id": item.custom_id}, item.body


if __name__ == "__main__":
    child.serve(_answer)
