"""The sandbox as an ASGI application: routes, and the one path every call takes.

    key → body → Ask → Order → fault or Plan → Answer → steps → Delivery

Everything before the delivery is pure and refuses by raising ``Refusal``; state is the prefix cache, the books and
the count of repeated faults.  Started by ``main.py``.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import orjson
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from relay.sandbox import anthropic_request, faults, guard, models, order
from relay.sandbox.accounts import Accounts, Call
from relay.sandbox.answer import compose
from relay.sandbox.anthropic import DIALECT as ANTHROPIC
from relay.sandbox.cache import PrefixCache
from relay.sandbox.delivery import Delivery
from relay.sandbox.dialect import Ask, Body, Dialect, Reply
from relay.sandbox.openai import DIALECT as OPENAI
from relay.sandbox.order import Order
from relay.sandbox.prompt import tokens_in
from relay.sandbox.reading import parse
from relay.sandbox.refusal import Refusal

_BODY_MAX: Final = 32 << 20  # Anthropic's limit; OpenAI states none for chat
_LARGE_BODY: Final = 1 << 20  # about 10 ms to read, 30 MB take 300: longer than other streams should wait
_REPEATS_MAX: Final = 10_000  # bodies under a `times=` order that are remembered
_HTML_502: Final = b"<html><head><title>502 Bad Gateway</title></head><body>502 Bad Gateway</body></html>"
_JSON: Final = {"content-type": "application/json"}
_SSE: Final = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}


def make_app(
    *,
    gap_ms: float = 0,
    key: str | None = None,
    allow_remote: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Starlette:
    """``gap_ms`` is the pause between pieces where a request orders none; ``clock`` is the prefix cache's.

    Without a ``key`` every key is good, and each has a cache of its own.
    """
    sandbox = Sandbox(gap_ms, key, clock)
    return Starlette(
        routes=[
            Route("/v1/messages", sandbox.messages, methods=["POST"]),
            Route("/v1/messages/count_tokens", sandbox.count_tokens, methods=["POST"]),
            Route("/v1/chat/completions", sandbox.chat_completions, methods=["POST"]),
            Route("/v1/models", sandbox.models, methods=["GET"]),
            Route("/v1/models/{id:path}", sandbox.models, methods=["GET"]),
            Route("/healthz", sandbox.healthz, methods=["GET"]),
            Route("/__sandbox/stats", sandbox.stats, methods=["GET"]),
            Route("/__sandbox/calls", sandbox.calls, methods=["GET"]),
        ],
        middleware=[] if allow_remote else [Middleware(guard.LoopbackNames)],
        exception_handlers={ClientDisconnect: _nobody_reads},
    )


class Sandbox:
    def __init__(self, gap_ms: float, key: str | None, clock: Callable[[], float]) -> None:
        self._gap_ms = gap_ms
        self._key = key
        self._clock = clock
        self._cache = PrefixCache()
        self._accounts = Accounts()
        self._repeats: OrderedDict[bytes, int] = OrderedDict()

    async def messages(self, request: Request) -> ASGIApp:
        return await self._create(request, ANTHROPIC)

    async def chat_completions(self, request: Request) -> ASGIApp:
        return await self._create(request, OPENAI)

    async def count_tokens(self, request: Request) -> Response:
        call = self._begin(request)
        call.status, outcome = 200, "completed"
        try:
            guard.credential_of(request.headers, self._key)
            ask = await _ask(anthropic_request.read_for_count, await _read_body(request), request.headers)
        except Refusal as refusal:
            call.status, outcome = refusal.status, str(refusal.status)
            return _refused(ANTHROPIC, refusal, call.request_id)
        except BaseException as error:
            outcome = _outcome_of(error)
            raise
        finally:
            self._accounts.end(call, outcome)
        call.model = ask.model
        headers = ANTHROPIC.headers(call.request_id, None, time.time())
        return JSONResponse({"input_tokens": tokens_in(ask.blocks)}, headers=headers)

    async def models(self, request: Request) -> Response:
        anthropic = "anthropic-version" in request.headers or "x-api-key" in request.headers
        dialect = ANTHROPIC if anthropic else OPENAI
        request_id = _new_id("req_")
        id = request.path_params.get("id")
        try:
            guard.credential_of(request.headers, self._key)
            if id is not None:
                body = models.anthropic_entry(id) if anthropic else models.openai_entry(id)
            else:
                body = models.anthropic_page(request.query_params) if anthropic else models.openai_list()
        except Refusal as refusal:
            return _refused(dialect, refusal, request_id)
        return JSONResponse(body, headers=dialect.headers(request_id, None, time.time()))

    async def healthz(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def stats(self, request: Request) -> Response:
        """What was called and billed since the start, in sums."""
        return JSONResponse({**self._accounts.as_json(), "cache_entries": self._cache.live(self._clock())})

    async def calls(self, request: Request) -> Response:
        """The recent calls one by one, oldest first."""
        return JSONResponse({"data": [call.as_json() for call in self._accounts.recent]})

    async def _create(self, request: Request, dialect: Dialect) -> ASGIApp:
        call = self._begin(request)
        try:
            credential = guard.credential_of(request.headers, self._key)
            raw = await _read_body(request)
            ask = await _ask(dialect.read, raw, request.headers)
            call.model, call.stream = ask.model, ask.stream
            wanted = self._order(ask.orders, request.headers.get("x-sandbox", ""), raw)
            return self._instead(call, dialect, wanted) or self._answer(call, dialect, ask, wanted, credential)
        except Refusal as refusal:
            return self._refuse(call, dialect, refusal)
        except BaseException as error:  # the books must close all the same
            self._accounts.end(call, _outcome_of(error))
            raise

    def _begin(self, request: Request) -> Call:
        call = Call(_new_id("req_"), request.url.path, request.headers.get("x-relay-call-id"))
        self._accounts.begin(call)
        return call

    def _answer(self, call: Call, dialect: Dialect, ask: Ask, wanted: Order, credential: bytes) -> Delivery:
        answer = compose(ask, wanted)
        plan = dialect.plan(self._cache, ask, credential + ask.model.encode(), self._clock())
        reply = Reply(ask, answer, plan, secrets.token_hex(12), int(time.time()))
        gap_ms = self._gap_ms if wanted.gap_ms is None else wanted.gap_ms
        fields = dialect.headers(call.request_id, plan, time.time())
        if ask.stream:
            fields |= _SSE
            steps = faults.stream_steps(dialect.events(reply), wanted, dialect, gap_ms)
        else:
            body = orjson.dumps(dialect.whole(reply))
            fields |= _JSON | _content_length(body, wanted)
            tokens = sum(event.tokens for event in dialect.events(reply))  # of every choice
            steps = faults.body_steps(body, tokens, wanted, gap_ms)
        outcome = wanted.fault or "completed"
        return Delivery(200, fields, steps, call, self._accounts, outcome, plan, self._cache)

    def _order(self, told: str, header: str, raw: bytes) -> Order:
        wanted = order.parse(told, header)
        if wanted.fault is None or wanted.times is None:
            return wanted
        key = hashlib.sha256(raw).digest()
        self._repeats[key] = seen = self._repeats.get(key, 0) + 1
        self._repeats.move_to_end(key)
        if len(self._repeats) > _REPEATS_MAX:
            self._repeats.popitem(last=False)
        return wanted if seen <= wanted.times else replace(wanted, fault=None)

    def _instead(self, call: Call, dialect: Dialect, wanted: Order) -> Delivery | None:
        """The answer of a fault that leaves nothing of the good one."""
        refusal = faults.refusal(wanted, dialect)
        if refusal is None and wanted.fault in ("error", "error_first") and not call.stream:
            refusal = faults.OVERLOADED  # without a stream there is nothing for an error to come in the middle of
        if refusal is not None:
            return self._refuse(call, dialect, refusal, wanted)
        fields = dialect.headers(call.request_id, None, time.time())
        wait_s = wanted.first_ms / 1000
        match wanted.fault:
            case "502":
                fields, status, body = {"content-type": "text/html"}, 502, _HTML_502
            case "json_200":
                fields, status, body = fields | _JSON, 200, faults.error_json(dialect)
            case "empty_200":
                fields, status, body = fields | (_SSE if call.stream else _JSON), 200, b""
            case _:
                return None
        return Delivery(status, fields, [faults.Send(body, wait_s)], call, self._accounts, wanted.fault)

    def _refuse(self, call: Call, dialect: Dialect, refusal: Refusal, wanted: Order | None = None) -> Delivery:
        body, fields = _error(dialect, refusal, call.request_id)
        step = faults.Send(body, wanted.first_ms / 1000 if wanted else 0)
        return Delivery(refusal.status, fields, [step], call, self._accounts, str(refusal.status))


def _error(dialect: Dialect, refusal: Refusal, request_id: str) -> tuple[bytes, dict[str, str]]:
    body = orjson.dumps(dialect.error(refusal, request_id))
    fields = dialect.headers(request_id, None, time.time()) | refusal.headers
    return body, fields | _JSON | {"content-length": str(len(body))}


def _refused(dialect: Dialect, refusal: Refusal, request_id: str) -> Response:
    body, fields = _error(dialect, refusal, request_id)
    return Response(body, refusal.status, fields)


def _content_length(body: bytes, wanted: Order) -> dict[str, str]:
    """Only what is sent whole, or is meant to be missed, may announce its length."""
    whole = wanted.fault in (None, "cut", "slow", "stall")
    return {"content-length": str(len(body))} if whole else {}


async def _ask(read: Callable[[Body, Mapping[str, str]], Ask], raw: bytes, headers: Mapping[str, str]) -> Ask:
    def parse_and_read() -> Ask:
        return read(parse(raw), headers)

    return await asyncio.to_thread(parse_and_read) if len(raw) > _LARGE_BODY else parse_and_read()


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _BODY_MAX:
            raise Refusal(413, f"Request exceeds the maximum size of {_BODY_MAX} bytes")
    return bytes(body)


async def _nobody_reads(request: Request, error: Exception) -> Response:
    return Response(status_code=499)


def _outcome_of(error: BaseException) -> str:
    """A client that left while it was sending, or a bug."""
    return "client_gone" if isinstance(error, ClientDisconnect) else "failed"


def _new_id(prefix: str) -> str:
    return prefix + secrets.token_hex(12)
