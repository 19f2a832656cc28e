"""What operators and their machines ask."""

from __future__ import annotations

import asyncio

from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from relay.core.envelope import MEMBERS
from tests.broker.system import Broker
from tests.ingress.hand import HandWorker
from tests.support import http
from tests.support.relay import Relay, message

Figures = dict[tuple[str, ...], float]


async def figures(door: Relay) -> Figures:
    """Every sample of /metrics by its name and the values of its labels."""
    answer = await http.request(door.port, "GET", "/metrics")
    assert (answer.status, (answer.headers.get("content-type") or "")[:10]) == (200, "text/plain")
    families = text_string_to_metric_families(answer.body.decode())
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


async def test_it_is_alive_and_ready(door: Relay) -> None:
    alive, ready = await door.get("/healthz"), await door.get("/readyz")
    assert (alive.status, alive.json) == (200, {"status": "ok"})
    assert (ready.status, ready.json) == (200, {"status": "ready"})


async def test_head_is_answered_as_get_without_the_body(door: Relay) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/v1/models", "/openapi.json"):
        exchange = await http.Exchange.open(door.port, http.render("HEAD", path, [*door.auth, ("connection", "close")]))
        assert exchange.status == 200
        assert await exchange.reader.read() == b""
        await exchange.close()


async def test_requests_and_first_events_are_counted(door: Relay, hand: HandWorker) -> None:
    before = await figures(door)
    asking = asyncio.create_task(door.stream(message("claude-x", stream=True)))
    work = await hand.take()
    await work.head()
    await work.count_to(1)
    async with await asking as reader:
        await reader.next()
        assert (await figures(door))["relay_ingress_open_streams",] == 1
        await work.end()
        await reader.rest()
    await door.post("/v1/messages", b"")
    after = await figures(door)
    served, refused = [("relay_ingress_requests_total", status, "anthropic") for status in ("200", "400")]
    assert after[served] == before.get(served, 0) + 1
    assert after[refused] == before.get(refused, 0) + 1
    first = ("relay_ingress_first_event_seconds_count",)
    assert after[first] == before[first] + 1
    assert after["relay_ingress_open_streams",] == 0


async def test_the_queue_and_the_workers_figures_are_there(door: Relay, broker: Broker, redis: Redis) -> None:
    await broker.submit()
    worker = broker.worker()
    await worker.register()
    name = f"{broker.rq.worker_prefix}{worker.name}"
    await redis.sadd(broker.rq.workers, name)
    await redis.hset(broker.keys.worker(worker.name), mapping={"fenced": 3, "loop_lag_ms": 1.5})
    await redis.expire(broker.keys.worker(worker.name), 60)
    found = await figures(door)
    await redis.srem(broker.rq.workers, name)
    assert found["relay_queue_queued",] == 1
    assert found["relay_worker_fenced", worker.name] == 3
    assert found["relay_worker_loop_lag_ms", worker.name] == 1.5
    counters = {"gap_rereads", "tail_rereads", "resubscribes", "redis_losses"}
    assert {f"relay_ingress_{counter}_total" for counter in counters} <= {key[0] for key in found}


async def test_the_documentation_has_every_endpoint(door: Relay) -> None:
    page, schema = await door.get("/docs"), await door.get("/openapi.json")
    assert page.status == 200
    described = schema.json
    jobs = {f"/v1/jobs/{{job_id}}/{step}" for step in ("stream", "result", "cancel", "replay")}
    assert jobs | {"/v1/jobs", "/v1/jobs/{job_id}", "/v1/models", "/healthz", "/readyz", "/metrics"} <= set(
        described["paths"]
    )
    for path in ("POST /v1/messages", "POST /v1/chat/completions"):
        assert path in described["info"]["description"]
    responses = described["paths"]["/v1/jobs/{job_id}/stream"]["get"]["responses"]
    assert {"200", "204", "400", "401", "403", "404", "410", "503"} <= set(responses)
    assert "422" not in responses
    submission = described["paths"]["/v1/jobs"]["post"]
    assert {"202", "400", "404", "413", "415", "422", "429", "503"} <= set(submission["responses"])
    envelope = submission["requestBody"]["content"]["application/json"]["schema"]
    assert set(envelope["properties"]) == set(MEMBERS)
    problem = responses["404"]["content"]["application/problem+json"]
    assert problem["example"]["code"] == "not_found"
    assert problem["schema"]["$ref"].rpartition("/")[2] in described["components"]["schemas"]
    assert set(described["components"]["securitySchemes"]) == {"APIKeyHeader", "Bearer", "StreamToken"}
