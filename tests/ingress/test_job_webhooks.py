"""What the jobs API says of webhooks: which are taken, how far they have come, and that they may be delivered again."""

from __future__ import annotations

from typing import Any

import pytest

from relay.broker.webhooks import Due, Outbox
from relay.core.job import Job
from tests.broker.system import Broker
from tests.ingress.hand import HandWorker
from tests.support import http
from tests.support.relay import Relay, message

URL = "https://hooks.example.com/hook-s3cret"
UNKNOWN = "0-" + "0" * 32


async def submit(door: Relay, webhook: Any = URL) -> http.Response:
    return await door.post(
        "/v1/jobs", {"endpoint": "/v1/messages", "webhook": webhook, "body": message("claude-sonnet-4-6")}
    )


async def redeliver(door: Relay, job_id: str) -> http.Response:
    return await door.post(f"/v1/jobs/{job_id}/webhook/redeliver", b"")


async def due(broker: Broker, job: Job) -> Due:
    """As a worker takes it; there may be those of other tests."""
    taken, _ = await Outbox(broker.link, broker.keys).take(20, 60, (), 20)
    [found] = [each for each in taken if each.job.id == job.id]
    return found


@pytest.fixture
async def delivered(broker: Broker, hand: HandWorker) -> Job:
    """A job whose end has been told."""
    job = await broker.submit(tenant="default", webhook=URL)
    await (await hand.take()).answer()
    await Outbox(broker.link, broker.keys).note(await due(broker, job), "delivered", 204, "")
    return job


async def test_of_a_webhook_everything_is_shown_but_its_path(door: Relay, hand: HandWorker) -> None:
    answer = await submit(door)
    assert (answer.status, b"s3cret" in answer.body) == (202, False)
    pending = {"url": "https://hooks.example.com", "state": "pending", "attempts": 0}
    assert answer.json["webhook"] == pending | {"last_status": None, "last_error": None, "next_attempt_ms": None}
    work = await hand.take()
    assert work.job.webhook == URL
    await work.answer()
    ended = await door.job(work.job.id)
    assert ended["webhook"]["next_attempt_ms"] == ended["timings"]["ended_ms"]


async def test_a_job_without_one(door: Relay, broker: Broker) -> None:
    job = await broker.submit(tenant="default")
    assert (await door.job(job.id))["webhook"] is None


async def test_how_far_it_has_come(door: Relay, delivered: Job) -> None:
    shown = (await door.job(delivered.id))["webhook"]
    assert (shown["state"], shown["attempts"], shown["last_status"]) == ("delivered", 1, 204)


@pytest.mark.parametrize(
    "url",
    [
        *("https://127.0.0.1/hook-s3cret", "https://2130706433/hook-s3cret", "https://[::ffff:a9fe:a9fe]/hook-s3cret"),
        *("http://hooks.example.com/hook-s3cret", "https://localhost/hook-s3cret", "https://x:s3cret@example.com/"),
        *("https://redis:6379/hook-s3cret", "ftp://example.com/hook-s3cret", "hook-s3cret", ""),
    ],
)
@pytest.mark.usefixtures("refused")
async def test_one_that_leads_inside_is_refused(door: Relay, url: str) -> None:
    answer = await submit(door, url)
    assert (answer.status, answer.json["param"]) == (400, "webhook")
    assert answer.json["detail"].startswith("webhook: Input should be a")
    assert b"s3cret" not in answer.body


async def test_it_is_delivered_again(door: Relay, broker: Broker, delivered: Job) -> None:
    for _ in range(2):
        answer = await redeliver(door, delivered.id)
        assert (answer.status, answer.json["id"]) == (202, delivered.id)
        assert (answer.json["webhook"]["state"], answer.json["webhook"]["attempts"]) == ("pending", 0)
    assert (await due(broker, delivered)).attempts == 0


async def test_before_the_end_there_is_nothing_to_deliver(door: Relay, broker: Broker) -> None:
    waiting = await broker.submit(tenant="default", webhook=URL)
    without = await broker.submit(tenant="default")
    answers = [await redeliver(door, job.id) for job in (waiting, without)]
    assert [(answer.status, answer.json["code"]) for answer in answers] == [(409, "conflict")] * 2
    assert "queued" in answers[0].json["detail"]
    assert "has no webhook" in answers[1].json["detail"]


async def test_anothers_job_is_not_there(door: Relay, broker: Broker) -> None:
    foreign = await broker.submit(tenant="somebody-else", webhook=URL)
    for job_id in (foreign.id, UNKNOWN, "x", "0-{0}"):
        assert (await redeliver(door, job_id)).status == 404
