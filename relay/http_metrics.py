"""How long HTTP requests took, under the name that OpenTelemetry's conventions and most dashboards have for it.

Routes are told apart, not paths: there are as many series as there are routes, methods and answers.
"""

from __future__ import annotations

import time
from typing import Final

from prometheus_client.core import HistogramMetricFamily
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relay.histogram import Histogram

# As the conventions advise; beyond 10 s for answers that stream, whose requests end with them.
SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0, 300.0)
METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})

# What nginx calls an answer that nobody was there to take.
GONE: Final = 499


class Durations:
    """Of one process."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, str, int], Histogram] = {}

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Note a request that is over; ``route`` is empty where there is none for it."""
        key = (method, route, status)
        histogram = self._series.get(key)
        if histogram is None:
            histogram = self._series[key] = Histogram(SECONDS)
        histogram.observe(seconds)

    def family(self) -> HistogramMetricFamily:
        family = HistogramMetricFamily(
            "http_server_request_duration_seconds",
            "From a request's head to the end of its answer.",
            labels=("http_request_method", "http_route", "http_response_status_code"),
        )
        for (method, route, status), histogram in self._series.items():
            histogram.add_to(family, (method, route, str(status)))
        return family


class Timed:
    """An application with routes, whose requests are counted."""

    def __init__(self, app: ASGIApp, durations: Durations) -> None:
        self._app = app
        self._durations = durations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status = time.perf_counter(), GONE

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            method = scope["method"] if scope["method"] in METHODS else "_OTHER"
            route = getattr(scope.get("route"), "path", "")
            self._durations.count(method, route, status, time.perf_counter() - began)
