"""A span for each request, where traces are wanted: around the whole application, which knows nothing of it.

The headers by which a client's trace came are replaced by those of the request's own span, so whatever is made of the
request, a job or a batch, belongs to that span. Questions of machines (``/metrics``, probes) are no requests.
"""

from __future__ import annotations

from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relay.core import trace_context
from relay.http_metrics import METHODS
from relay.ingress.headers import HeaderList, by_name, trace_of
from relay.ingress.paths import PATHS
from relay.telemetry import Traces

_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
_TRACE = frozenset({trace_context.PARENT.encode(), trace_context.STATE.encode()})
_JOB_ID = b"x-relay-job-id"


class Traced:
    """An application, each of whose requests is a span."""

    def __init__(self, app: ASGIApp, traces: Traces) -> None:
        self._app = app
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _QUIET:
            await self._app(scope, receive, send)
            return
        span = self._begin(scope)

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                _note_answer(span, message["status"], message["headers"])
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            _note_route(span, scope)
            span.end()

    def _begin(self, scope: Scope) -> Span:
        headers = by_name(scope["headers"])
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        # Not the query: a stream token may be in it.
        attributes = {"http.request.method": method, "url.path": scope["path"], "url.scheme": scope["scheme"]}
        attributes["network.protocol.version"] = scope["http_version"]
        if b"user-agent" in headers:
            attributes["user_agent.original"] = headers[b"user-agent"].decode("latin-1")
        context = self._traces.context(trace_of(headers))
        name = "HTTP" if method == "_OTHER" else method
        span = self._traces.tracer.start_span(name, context, SpanKind.SERVER, attributes)
        ours = [(name.encode(), value.encode()) for name, value in self._traces.headers(span).items()]
        # In place: the list is the connection's as well, and is emptied once nobody needs it.
        scope["headers"][:] = [*(header for header in scope["headers"] if header[0] not in _TRACE), *ours]
        return span


def _note_answer(span: Span, status: int, headers: HeaderList) -> None:
    span.set_attribute("http.response.status_code", status)
    for name, value in headers:
        if name == _JOB_ID:
            span.set_attribute("relay.job.id", value.decode())
    if status >= 500:
        span.set_attribute("error.type", str(status))
        span.set_status(Status(StatusCode.ERROR))


def _note_route(span: Span, scope: Scope) -> None:
    """Names as few as there are routes; which one it is, the router has found out meanwhile."""
    path = scope["path"]
    route = path if path in PATHS else getattr(scope.get("route"), "path", None)
    if route and scope["method"] in METHODS:
        span.set_attribute("http.route", route)
        span.update_name(f"{scope['method']} {route}")
