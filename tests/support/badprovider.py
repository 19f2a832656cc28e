"""A provider that misbehaves on purpose, in Anthropic's and in OpenAI's shape.

The mode is what follows the last ``@`` of the request's model (``claude-x@cut_clean:5``), so any relay can be tested
with any base URL; ``mode:n`` bites after n text events. Text event i of a call says ``<call>.<i> ``, where call is the
relay's ``x-relay-call-id``: every word a client reads can be traced to one call. A request that does not stream gets a
message with the same words. Where a test sets a ``script``, that answers instead.

``ledger`` has one entry per accepted call and one per end: what was sent, and how it ended. ``gate`` holds the modes
``gate`` and ``gate_headers``. The same over HTTP: GET /_calls, POST /_open, POST /_reset; and as a process of its own:

    python -m tests.support.badprovider PORT LEDGER.jsonl
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.support import dialects
from tests.support.upstream import EVENT_STREAM, JSON, Call, HeaderLines, Upstream

FOREVER_S = 3600.0
PACE_S = 0.002  # between two events, so that they arrive in reads of their own


class BadProvider(Upstream):
    """The server; ``gate.set()`` lets held streams go on."""

    def __init__(self, ledger: Path | None = None) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.ledger: list[dict[str, Any]] = []
        self._file = ledger
        self._turns: dict[Call, Turn] = {}

    def reset(self) -> None:
        super().reset()
        self.gate.clear()
        self.ledger.clear()

    def calls_of(self, job_id: str) -> list[dict[str, Any]]:
        return [entry for entry in self.ledger if entry["kind"] == "call" and entry["call"].startswith(job_id)]

    def ends_of(self, job_id: str) -> list[dict[str, Any]]:
        return [entry for entry in self.ledger if entry["kind"] == "end" and entry["call"].startswith(job_id)]

    def record(self, **entry: Any) -> None:
        self.ledger.append(entry)
        if self._file:
            with self._file.open("a") as lines:
                lines.write(json.dumps({"t": round(time.time(), 4), **entry}) + "\n")

    async def serve(self, call: Call) -> None:
        if call.path.startswith("/_"):
            await self._control(call)
            return
        if self.script:
            await super().serve(call)
            return
        self.calls.append(call)
        turn = self._turns[call] = Turn(self, call, number=len(self.calls))
        key = call.headers.get("x-api-key") or call.headers.get("authorization") or ""
        self.record(
            kind="call",
            call=turn.id,
            path=call.path,
            mode=turn.mode,
            body=hashlib.sha256(call.body).hexdigest(),
            key=hashlib.sha256(key.encode()).hexdigest()[:16],
            headers={name: value for name, value in call.headers if name.lower() not in {"x-api-key", "authorization"}},
        )
        await turn.take()

    def ended(self, call: Call) -> None:
        if turn := self._turns.pop(call, None):
            self.record(kind="end", call=turn.id, sent=turn.sent, how=call.how)

    async def _control(self, call: Call) -> None:
        calls = json.dumps(self.ledger).encode()
        if call.path == "/_open":
            self.gate.set()
        elif call.path == "/_reset":
            self.reset()
        await call.whole(200, calls)


class Turn:
    """One call and what its mode makes of it."""

    def __init__(self, provider: BadProvider, call: Call, number: int) -> None:
        try:
            request = call.json
        except ValueError:
            request = {}
        mode, _, count = str(request.get("model", "")).rpartition("@")[2].partition(":")
        self.mode = mode
        self.n = int(count) if count.isdigit() else 3
        self.total = int(request.get("max_tokens") or 20)
        self.id = call.id or f"c{number}"
        self.sent = 0  # text events that went out whole
        self.provider = provider
        self.call = call
        self.say = dialects.of_path(call.path)

    async def take(self) -> None:
        if handler := BEFORE_HEADERS.get(self.mode):
            self.call.how = self.mode
            if await handler(self) is not GO_ON:
                return
            self.call.how = ""
        if self.call.wants_stream:
            await self._stream()
        else:
            self.sent = self.total
            await self.call.whole(200, self.say.message(self.id, self.total))

    async def put(self, data: bytes) -> None:
        """One write of the body."""
        if self.mode in UNFRAMED:
            await self.call.raw(data)
        else:
            await self.call.chunk(data)

    async def end_body(self) -> None:
        if self.mode not in UNFRAMED:
            await self.call.finish()

    async def _stream(self) -> None:
        await self.call.head(framing="close" if self.mode in UNFRAMED else "chunked")
        if handler := AFTER_HEADERS.get(self.mode):
            self.call.how = self.mode
            if await handler(self) is not GO_ON:
                return
            self.call.how = ""
        for event in self.say.opening(self.id):
            await self.put(event)
        for i in range(1, self.total + 1):
            if i == self.n + 1 and (handler := AT_EVENT.get(self.mode)):
                self.call.how = self.mode
                if await handler(self) is not GO_ON:
                    return
                self.call.how = ""
            await self._text(i)
        await self._closing()

    async def _text(self, i: int) -> None:
        event = self.say.text(self.id, i)
        if i == self.n + 1 and (bad := INSTEAD_OF_EVENT.get(self.mode)):
            event = bad(self, event)
        event = REWRITE.get(self.mode, bytes)(event)
        if self.mode == "bytes" or (self.mode == "loris" and i > self.n):
            for byte in event:
                await self.put(bytes([byte]))
                await asyncio.sleep(0.8 if self.mode == "loris" else 0)
        else:
            await self.put(event)
        self.sent = i
        if self.mode == "slow":
            await asyncio.sleep(self.n / 1000)
        elif self.mode not in UNPACED:
            await asyncio.sleep(PACE_S)

    async def _closing(self) -> None:
        say, total = self.say, self.total
        events = [*say.closing()]
        if self.mode != "usage_missing":
            events.append(say.usage(self.id, USAGE.get(self.mode) or say.counts(total)))
        if self.mode == "usage_twice":
            events.append(say.usage(self.id, say.counts(total + 1)))
        if self.mode != "no_stop":
            events.append(say.stop())
        if self.mode == "after_stop":
            events += [say.text(self.id, total + 1), say.stop()]
        for event in events:
            await self.put(event)
        if self.mode == "hang_end":  # everything was sent, the connection stays
            self.call.how = self.mode
            await asyncio.sleep(FOREVER_S)
        await self.end_body()


GO_ON = object()  # a handler's answer: the stream is not over yet
Handler = Callable[[Turn], Awaitable[object]]


def _status(status: int, kind: str = "api_error", headers: Callable[[Turn], HeaderLines] = lambda _: ()) -> Handler:
    async def handler(turn: Turn) -> None:
        await turn.call.whole(status, turn.say.error(kind, "scripted"), [*JSON, *headers(turn)])

    return handler


async def _hang(_: Turn) -> None:
    await asyncio.sleep(FOREVER_S)


async def _gate(turn: Turn) -> object:
    await turn.provider.gate.wait()
    return GO_ON


async def _reset(turn: Turn) -> None:
    turn.call.reset()


async def _reset_late(turn: Turn) -> None:
    await asyncio.sleep(0.05)  # let the events before it arrive: RST takes what is on its way with it
    turn.call.reset()


async def _flaky(turn: Turn) -> object:
    """The first n calls with this very body fail."""
    same = [call for call in turn.provider.calls if call.body == turn.call.body]
    if len(same) > turn.n:
        return GO_ON
    turn.call.how = "529"
    return await _status(529, "overloaded_error", lambda _: [("retry-after", "0")])(turn)


async def _echo_key(turn: Turn) -> None:
    key = turn.call.headers.get("x-api-key") or turn.call.headers.get("authorization") or ""
    await turn.call.whole(401, turn.say.error("authentication_error", f"bad key: {key}"))


async def _continue_100(turn: Turn) -> object:
    await turn.call.raw(b"HTTP/1.1 100 Continue\r\n\r\n")
    return GO_ON


async def _gzipped(turn: Turn) -> None:
    if turn.mode == "gzip_bomb":
        plain = b": " + bytes(300_000_000) + b"\n\n"
    else:
        texts = [turn.say.text(turn.id, i) for i in range(1, turn.total + 1)]
        end = [*turn.say.closing(), turn.say.usage(turn.id, turn.say.counts(turn.total)), turn.say.stop()]
        plain = b"".join([*turn.say.opening(turn.id), *texts, *end])
    packed = gzip.compress(plain)
    await turn.call.head(200, [*EVENT_STREAM, ("content-encoding", "gzip")], framing="close")
    await turn.call.raw(packed[: len(packed) // 2] if turn.mode == "gzip_trunc" else packed)


async def _endless_line(turn: Turn) -> None:
    while True:
        await turn.put(b"z" * 65536)


async def _pings(turn: Turn) -> None:
    while True:
        await turn.put(turn.say.ping())
        await asyncio.sleep(0.5)


def _raw(data: bytes) -> Handler:
    async def handler(turn: Turn) -> None:
        await turn.call.raw(data)

    return handler


def _last(event: Callable[[Turn], bytes]) -> Handler:
    """One more piece, then a well-formed end of the body."""

    async def handler(turn: Turn) -> None:
        await turn.put(event(turn))
        await turn.end_body()

    return handler


async def _not_http(turn: Turn) -> None:
    await turn.call.raw(os.urandom(4096))


async def _header_bomb(turn: Turn) -> None:
    await turn.call.whole(200, b"{}", [*JSON, *((f"x{i}", "y" * 1000) for i in range(2000))])


async def _json_200(turn: Turn) -> None:
    await turn.call.whole(200, turn.say.error("overloaded_error", "Overloaded"))


async def _bom(turn: Turn) -> object:
    await turn.put(b"\xef\xbb\xbf")
    return GO_ON


async def _cut_clean(_: Turn) -> None:
    """An orderly close, without a terminal event."""


BEFORE_HEADERS: dict[str, Handler] = {
    **{str(status): _status(status) for status in (400, 401, 404, 413, 500)},
    "429": _status(429, "rate_limit_error", lambda turn: [("retry-after", str(turn.n))]),
    "503": _status(503, headers=lambda turn: [("retry-after", str(turn.n))]),
    "529": _status(529, headers=lambda turn: [("retry-after", str(turn.n))]),
    "429_bare": _status(429, "rate_limit_error"),
    "429_huge": _status(429, "rate_limit_error", lambda _: [("retry-after", "999999999")]),
    "429_date": _status(429, "rate_limit_error", lambda _: [("retry-after", "Wed, 21 Oct 2099 07:28:00 GMT")]),
    "redirect": _status(302, headers=lambda _: [("location", "http://169.254.169.254/latest/meta-data/")]),
    "flaky": _flaky,
    "echo_key": _echo_key,
    "rst_accept": _reset,
    "hang_headers": _hang,
    "gate_headers": _gate,
    "header_bomb": _header_bomb,
    "bad_status": _raw(b"HTTP/1.1 9999 nope\r\n\r\n"),
    "not_http": _not_http,
    "json_200": _json_200,
    "html_200": _raw(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n\r\n<html>gateway</html>"),
    "continue_100": _continue_100,
    "gzip": _gzipped,
    "gzip_trunc": _gzipped,
    "gzip_bomb": _gzipped,
}
AFTER_HEADERS: dict[str, Handler] = {
    "empty_200": _last(lambda _: b""),
    "hang_first": _hang,
    "error_first": _last(lambda turn: turn.say.error_event()),
    "bom": _bom,
    "ping_only": _pings,
}
AT_EVENT: dict[str, Handler] = {
    "gate": _gate,
    "hang_mid": _hang,
    "rst": _reset_late,
    "cut_clean": _cut_clean,
    "cut_chunk": _raw(b"40\r\nevent: conte"),
    "cut_end_chunk": _last(lambda _: b""),
    "error_mid": _last(lambda turn: turn.say.error_event()),
    "json_tail": _last(lambda _: b'{"error":{"code":503,"message":"high demand"}}'),
    "endless_line": _endless_line,
}
INSTEAD_OF_EVENT: dict[str, Callable[[Turn, bytes], bytes]] = {
    "bad_json": lambda *_: b'event: content_block_delta\ndata: {"type":"content_block_delta","del\n\n',
    "bad_utf8": lambda *_: b'data: {"x":"\xff\xfe\x80"}\n\n',
    "unknown_event": lambda *_: b'event: brand_new_thing\ndata: {"type":"brand_new_thing","a":[1]}\n\n',
    "id_injection": lambda _, event: b"id: 99-1\nretry: 1\n" + event,
    "deep_json": lambda *_: b"data: " + b"[" * 100_000 + b"]" * 100_000 + b"\n\n",
    "big_int": lambda *_: b'data: {"type":"x","n":' + b"9" * 5000 + b"}\n\n",
    "huge_event": lambda turn, _: b'data: {"type":"x","t":"' + b"z" * (turn.n * 1_000_000) + b'"}\n\n',
    "nul": lambda *_: b'event: x\0y\nid: a\0b\ndata: {"type":"x"}\n\n',
}
REWRITE: dict[str, Callable[[bytes], bytes]] = {
    "crlf": lambda event: event.replace(b"\n", b"\r\n"),
    "cr": lambda event: event.replace(b"\n", b"\r"),
    "multi_data": lambda event: event.replace(b"data: ", b"data: \ndata: ", 1),
}
USAGE: dict[str, dict[str, Any]] = {
    "usage_zero": {"output_tokens": 0, "prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    "usage_neg": {"output_tokens": -5, "completion_tokens": -5},
    "usage_text": {"output_tokens": "many", "completion_tokens": None},
    "usage_huge": {"output_tokens": 2**63, "completion_tokens": 2**63},
}
UNFRAMED = {"cut_clean", "http10"}  # the end of the connection is the end of the body
UNPACED = {"fast", "bytes", "loris"}
# These change the end of the stream, in ``Turn._closing``, or its pace.
MODES = (
    {*BEFORE_HEADERS, *AFTER_HEADERS, *AT_EVENT, *INSTEAD_OF_EVENT, *REWRITE, *USAGE, *UNFRAMED, *UNPACED}
    | {"", "slow", "usage_missing", "usage_twice", "no_stop", "after_stop", "hang_end"}
)  # fmt: skip


async def _main(port: int, ledger: Path) -> None:
    provider = BadProvider(ledger)
    await provider.start(port)
    sys.stdout.write(f"{provider.port}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), Path(sys.argv[2])))
