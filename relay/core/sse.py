"""Server-sent events: the bytes of a provider's stream in, whole events out.

The worker feeds every network read to one ``Decoder`` and hands ``Event.raw`` on to the client as it stands.
It does no I/O, never decodes or re-encodes data, and knows nothing of what an event means: that is a meter's work.

On purpose different from the WHATWG rules:

* an event that the end of the body cut off is kept if its data is whole (JSON or ``[DONE]``), see ``Decoder.flush``;
* ``id:`` and ``retry:`` are dropped: reader positions are the relay's own, and a provider must not be able to set them;
* bad UTF-8 is passed on byte for byte instead of being replaced;
* an event name that is not plain ASCII of at most 64 characters is dropped, the event itself is kept.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import orjson

from relay.core.errors import UpstreamProtocolError

# The largest event of the fixtures, a search result, has 144 KB; images in base64 reach megabytes.  More than this
# without a blank line is a provider that has lost the thread, and would cost the memory of every other stream.
MAX_EVENT_BYTES = 16 * 1024 * 1024

_BOM = b"\xef\xbb\xbf"
# One block up to its blank line: an event in a shape we can hand on as it is, or (last group) anything else.
# Blocks follow each other without a hole and nothing backs up, so hostile input costs no more than its length.
_BLOCK = re.compile(rb"((?:event: ([\w.-]{1,64})\n)?data: (.*+)\n\n)|(\n++|(?:.++\n)++\n)")
_FIELD = re.compile(rb"^(data|event)(?:: ?(.*))?$", re.MULTILINE)
_NAME = re.compile(rb"[\w.-]{1,64}")


class Event(NamedTuple):
    """One event: its name (empty without an ``event:`` line), its data, and the finished bytes to hand on."""

    name: bytes
    data: bytes
    raw: bytes


class Decoder:
    """Turns chunks into events; any split of the same bytes gives the same events.

    ``tail`` is what the provider wrote outside every event: JSON without ``data:``, or what was left at the end.
    Some gateways put their error there, as bare JSON after the last event.
    """

    __slots__ = ("_after_cr", "_bom", "_pending", "tail")

    def __init__(self) -> None:
        self.tail = b""
        self._pending = bytearray()  # of a block whose blank line has not come
        self._bom: bytes | None = b""  # the first bytes, while they may become a byte order mark
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that ``chunk`` completes; ``UpstreamProtocolError`` above ``MAX_EVENT_BYTES``."""
        if self._bom is not None:
            chunk = self._without_bom(chunk)
        if self._after_cr or b"\r" in chunk:
            chunk = self._with_lf(chunk)
        pending = self._pending
        blank = chunk.rfind(b"\n\n")
        if blank >= 0:
            end = blank + 2
        elif pending.endswith(b"\n") and chunk.startswith(b"\n"):
            end = 1
        else:
            # Only the new bytes were searched, so a line that never ends costs its length and not its square.
            pending += chunk
            _check_size(len(pending))
            return []
        if pending:
            blocks = bytes(pending) + chunk[:end]
            pending.clear()
        else:
            blocks = chunk[:end]
        pending += chunk[end:]
        _check_size(len(pending))
        return self._events(blocks)

    def flush(self) -> list[Event]:
        """The body has ended: the unfinished event, if its data is whole.  The rest becomes ``tail``."""
        left = (self._bom or b"") + bytes(self._pending)
        self._bom, self._after_cr = None, False
        self._pending.clear()
        lines, _, last = left.rpartition(b"\n")
        # A field that was cut may be half a name; of cut data its own syntax tells whether it is whole.
        event = _reframe(left if last.startswith(b"data") else lines)
        if event and _is_whole(event.data):
            return [event]
        if left.strip():
            self.tail = left.lstrip(b"\n")
        return []

    def _events(self, blocks: bytes) -> list[Event]:
        large = len(blocks) > MAX_EVENT_BYTES
        events = []
        for raw, name, data, odd in _BLOCK.findall(blocks):
            if large:
                _check_size(len(raw or odd.lstrip(b"\n")) - 1)
            if raw:
                # Event(...) takes twice the time (490 against 260 ns), and this runs for every token of every stream.
                events.append(tuple.__new__(Event, (name, data, raw)))
            elif event := _reframe(odd):
                events.append(event)
            elif odd.lstrip().startswith(b"{"):
                self.tail = odd
        return events

    def _without_bom(self, chunk: bytes) -> bytes:
        start = (self._bom or b"") + chunk
        if len(start) < len(_BOM) and _BOM.startswith(start):
            self._bom = start
            return b""
        self._bom = None
        return start.removeprefix(_BOM)

    def _with_lf(self, chunk: bytes) -> bytes:
        """CR and CRLF become LF; a CR ends its line at once, so the LF of a cut CRLF is dropped with the next chunk."""
        if not chunk:
            return chunk
        if self._after_cr:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def parse_json(data: bytes) -> Any:
    """JSON as providers write it, or ``ValueError``.

    Bad UTF-8, half of a surrogate pair or a giant integer does not hide the rest: it becomes a mark, or a float.
    """
    try:
        return orjson.loads(data)
    except ValueError:
        pass
    try:
        lenient = json.loads(data.decode("utf-8", "replace"), parse_int=_integer)
        return orjson.loads(json.dumps(lenient, ensure_ascii=False).encode("utf-8", "replace"))
    except RecursionError as error:
        raise ValueError("JSON is nested too deep") from error


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < 20 else 1e20


def _reframe(block: bytes) -> Event | None:
    """The event in a block of LF lines, written anew; None if it has no data."""
    fields = _FIELD.findall(block)
    data = [value for field, value in fields if field == b"data"]
    if not data:
        return None
    name = next((value for field, value in reversed(fields) if field == b"event"), b"")
    if not _NAME.fullmatch(name):
        name = b""
    head = b"event: " + name + b"\n" if name else b""
    raw = head + b"".join([b"data: " + line + b"\n" for line in data]) + b"\n"
    return Event(name, b"\n".join(data), raw)


def _is_whole(data: bytes) -> bool:
    if data == b"[DONE]":
        return True
    try:
        parse_json(data)
    except ValueError:
        return False
    return True


def _check_size(size: int) -> None:
    if size > MAX_EVENT_BYTES:
        raise UpstreamProtocolError(f"the provider sent an event of more than {MAX_EVENT_BYTES} bytes")
