"""What Prometheus is told, after calls of every kind, equals the usage records of the same calls."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from relay.broker.usage_reader import Behind
from relay.console.metrics import text
from relay.http_metrics import Durations
from relay.ledger.totals import Total
from tests.support.badprovider import BadProvider
from tests.support.figures import Figures, figures
from tests.support.oracles import KEYS
from tests.support.processes import RedisServer, free_port
from tests.support.relay import Relay, message, served_by
from tests.support.upstream import answer, in_turn
from tests.support.wait import wait_until

DEPLOY = Path(__file__).parents[2] / "deploy"

Records = list[dict[str, str]]

MODELS = ("claude-a@", "claude-b@cut_clean:5", "openai/gpt-a@", "claude-c@400:0", "claude-d@")
BUSY = answer(b'{"type":"error","error":{"type":"overloaded_error","message":"Busy"}}', status=529)
WHOLE = answer(b'{"id":"m","type":"message","model":"x","content":[],"usage":{"input_tokens":4,"output_tokens":2}}')


class Run:
    """Calls of every kind through a relay with two workers, and the records they left."""

    def __init__(self, relay: Relay, redis: RedisServer, metrics_port: int) -> None:
        self.relay = relay
        self.metrics_port = metrics_port
        self.records: Records = []
        self._redis = redis

    async def call(self, upstream: BadProvider) -> None:
        posts = []
        for model in MODELS:
            chat = {
                "model": model,
                "messages": [{"role": "user", "content": "Hi"}],
                "stream_options": {"include_usage": True},
            }
            posts += [self.relay.post("/v1/messages", message(model, stream=stream)) for stream in (True, False)]
            posts.append(self.relay.post("/v1/chat/completions", chat | {"stream": True}))
        await asyncio.gather(*posts)
        await self.relay.post("/v1/messages/count_tokens", message("claude-a@"))
        upstream.script = in_turn(BUSY, WHOLE)
        assert (await self.relay.post("/v1/messages", message("claude-tried"))).status == 200
        self.records = await wait_until(self._recorded, what="every call has its record")

    async def _recorded(self) -> Records | None:
        async with self._redis.client() as redis:
            records = [fields for _, fields in await redis.xrange(KEYS.usage)]
        return records if any(each["model"] == "claude-tried" and not each["error"] for each in records) else None

    async def of_workers(self) -> list[Figures]:
        """The workers took a port each: the one that was set, and the first free one behind it."""
        found = []
        for port in range(self.metrics_port, self.metrics_port + 20):
            try:
                page = await figures(port)
            except OSError:
                continue
            if "relay_worker_jobs_total" in page.names:
                found.append(page)
        return found


@pytest.fixture(scope="module")
async def run(_upstream: BadProvider, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Run]:
    directory = tmp_path_factory.mktemp("measured")
    redis = RedisServer(directory / "redis")
    await redis.start()
    port = free_port()
    relay = Relay(directory, redis.url, served_by(_upstream) | {"RELAY_METRICS_PORT": str(port)})
    await relay.start(workers=2)
    run = Run(relay, redis, port)
    _upstream.reset()
    await run.call(_upstream)
    yield run
    await relay.stop()
    await redis.stop()


def both(pages: list[Figures], name: str, **labels: Any) -> float:
    """As Prometheus' ``sum`` over the workers; a worker without such calls has no such series."""
    return sum(page(name, **labels) for page in pages if name in page.names)


async def test_every_call_is_counted_once_by_target_and_outcome(run: Run) -> None:
    pages = await run.of_workers()
    assert len(pages) == 2
    kinds = {(each["endpoint"], each["provider"], each["target"], each["outcome"]) for each in run.records}
    assert len(kinds) > 8
    for endpoint, provider, model, outcome in kinds:
        labels = {"endpoint": endpoint, "provider": provider, "model": model, "outcome": outcome}
        recorded = [
            each
            for each in run.records
            if (each["endpoint"], each["target"], each["outcome"]) == (endpoint, model, outcome)
        ]
        assert both(pages, "relay_provider_calls_total", **labels) == len(recorded), labels
    assert both(pages, "relay_provider_calls_total") == len(run.records)
    assert both(pages, "relay_provider_retries_total") == sum(each["attempt"] != "1" for each in run.records) > 0
    assert both(pages, "relay_worker_jobs_total") == len({each["job"] for each in run.records})


async def test_tokens_are_those_of_the_records_by_type(run: Run) -> None:
    pages = await run.of_workers()
    for type_ in ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output"):
        recorded = sum(int(each[f"{type_}_tokens"] or 0) for each in run.records)
        assert both(pages, "relay_tokens_total", type=type_) == recorded, type_
    prompt = sum(int(each[name] or 0) for each in run.records for name in PROMPT)
    assert both(pages, "gen_ai_client_token_usage_sum", gen_ai_token_type="input") == prompt > 0
    assert both(pages, "gen_ai_client_token_usage_count", gen_ai_token_type="input") == sum(
        bool(each["input_tokens"]) for each in run.records
    )


PROMPT = ("input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens")


async def test_times_are_those_of_the_records(run: Run) -> None:
    pages = await run.of_workers()
    duration = "gen_ai_client_operation_duration_seconds"
    for error in {each["error"] for each in run.records}:
        recorded = [each for each in run.records if each["error"] == error]
        assert both(pages, f"{duration}_count", error_type=error) == len(recorded), error
    recorded_s = sum(int(each["ended_ms"]) - int(each["started_ms"]) for each in run.records) / 1000
    # The record and the figure are made one after the other, each with a clock that counts milliseconds.
    assert both(pages, f"{duration}_sum") == pytest.approx(recorded_s, abs=0.005 * len(run.records))
    streamed = [each for each in run.records if each["stream"] == "1" and each["first_event_ms"]]
    first = "gen_ai_client_operation_time_to_first_chunk_seconds"
    assert both(pages, f"{first}_count") == len(streamed) > 0
    told_s = sum(int(each["first_event_ms"]) for each in streamed) / 1000
    assert both(pages, f"{first}_sum") == pytest.approx(told_s)


async def test_the_ingress_tells_its_own_requests_by_route_and_answer(run: Run) -> None:
    before = await figures(run.relay.port)
    listed = await run.relay.get("/v1/jobs?limit=1")
    job_id = listed.json["data"][0]["id"]
    await run.relay.get(f"/v1/jobs/{job_id}")
    await run.relay.get("/nowhere")
    after = await figures(run.relay.port)
    count = "http_server_request_duration_seconds_count"
    for route, status in (("/v1/jobs", 200), ("/v1/jobs/{job_id}", 200), ("", 404)):
        labels = {"http_request_method": "GET", "http_route": route, "http_response_status_code": status}
        assert after(count, **labels) == before(count, **labels) + 1, route
    posted = {"http_request_method": "POST", "http_route": "/v1/messages"}
    assert after(count, **posted) == 2 * len(MODELS) + 1
    assert after("relay_ingress_requests_total", surface="anthropic") == 2 * len(MODELS) + 2
    assert not [name for name in after.names if name.startswith("gen_ai_")]  # which the workers know


async def test_dashboard_and_alerts_ask_for_what_there_is(run: Run) -> None:
    total = Total("anthropic", "claude-x", "none", "first_time", 1, 0, 1, 1)
    console = Figures(text(Durations(), Behind(1, 1.0), 0, [total]).decode())
    pages = [*await run.of_workers(), await figures(run.relay.port), console]
    # Their families are there all the same: a target is out only after a series of failures, a budget is set by hand.
    known = {"relay_provider_target_out", "relay_budget_spent_ratio"}.union(*[page.names for page in pages])
    labels = {label for page in pages for sample in page.samples for label in sample.labels}
    asked = set(re.findall(r"\b(?:relay|gen_ai|http_server)_\w+", "\n".join(expressions()))) - labels
    assert len(asked) > 15
    assert asked <= known


def expressions() -> list[str]:
    """Everything the dashboard and the alerts ask of Prometheus."""
    panels = json.loads((DEPLOY / "grafana" / "relay.json").read_text())["panels"]
    [group] = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    return [target["expr"] for panel in panels for target in panel["targets"]] + [
        rule["expr"] for rule in group["rules"]
    ]


async def test_without_a_port_a_worker_listens_nowhere(run: Run) -> None:
    worker = await run.relay.add_worker(RELAY_METRICS_PORT="0")
    assert len(await run.of_workers()) == 2
    run.relay.workers.remove(worker)
    assert await worker.stop() == 0
