"""Webhooks from a job's end to a receiver, through real workers: signed, repeated, and never lost."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis
from standardwebhooks import Webhook

from relay.broker.webhooks import Redelivery, WebhookSecrets
from relay.core.job import CANCELLED, DONE, FAILED, STREAMING, Job
from relay.core.webhook import Delivery
from tests.broker.system import TENANT
from tests.support.badprovider import BadProvider
from tests.support.processes import Process, RedisServer
from tests.support.upstream import Call, Upstream, answer, in_turn, serving
from tests.support.wait import wait_until
from tests.workers.test_worker import Shop
from workers.webhooks import AT_ONCE, PER_HOST

CERTIFICATE = Path(__file__).parent / "localhost.pem"
# Short pauses; a receiver here is always at a private address.
ENVIRONMENT = {
    "RELAY_WEBHOOK_ALLOW_PRIVATE": "1",
    "RELAY_WEBHOOK_RETRY_S": "0.05",
    "RELAY_WEBHOOK_TIMEOUT_S": "1",
    "RELAY_RETRIES": "0",
    "RELAY_FIRST_BYTE_S": "1",
}
OK = answer(b"")


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("webhooks-redis"), append_only=False)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[Redis]:
    async with server.client() as client:
        yield client


@pytest.fixture(scope="module")
async def _shop(
    server: RedisServer, _upstream: BadProvider, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Shop]:
    shop = Shop(server, _upstream, tmp_path_factory.mktemp("webhooks"))
    await shop.worker(**ENVIRONMENT)
    yield shop
    await shop.close()


@pytest.fixture
def shop(_shop: Shop, upstream: BadProvider) -> Shop:
    """Where one worker is at work."""
    return _shop


@pytest.fixture
async def own_shop(tmp_path: Path, upstream: BadProvider) -> AsyncIterator[Shop]:
    """A shop without a worker, on a Redis of its own."""
    server = RedisServer(tmp_path / "redis", append_only=False)
    await server.start()
    shop = Shop(server, upstream, tmp_path)
    yield shop
    await shop.close()
    await server.stop()


@pytest.fixture
async def receiver() -> AsyncIterator[Upstream]:
    async with serving(Upstream()) as receiver:
        receiver.script = OK
        yield receiver


async def submit(shop: Shop, receiver: Upstream, mode: str = "", **facts: Any) -> Job:
    [job] = await shop.submit(mode, webhook=f"{receiver.url}/hook", **facts)
    return job


async def delivery(shop: Shop, job: Job) -> Delivery:
    found = (await shop.status(job)).delivery
    assert found
    return found


async def settled(shop: Shop, job: Job) -> Delivery:
    async def state() -> Delivery | None:
        found = await delivery(shop, job)
        return found if found.state != "pending" else None

    found: Delivery = await wait_until(state, what="the webhook is settled")
    return found


async def checked(shop: Shop, call: Call, tenant: str = TENANT) -> dict[str, Any]:
    """The message, when its signature is right."""
    secret = (await WebhookSecrets(shop.broker.link, shop.keys).of(tenant))[0]
    told: dict[str, Any] = Webhook(secret).verify(call.body, dict(call.headers))
    return told


# -- told ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "state"), [("", DONE), ("hang_headers", FAILED), ("gate", CANCELLED)])
async def test_every_end_is_told(shop: Shop, receiver: Upstream, mode: str, state: str) -> None:
    job = await submit(shop, receiver, mode, metadata={"run": "7"})
    if state == CANCELLED:
        await shop.until(job, STREAMING)
        await shop.broker.queue.cancel(job.id, TENANT)
    assert (await settled(shop, job)) == Delivery("delivered", 1, 200, None, None)
    status = await shop.status(job)
    [call] = receiver.calls
    told = await checked(shop, call)
    assert status.state == state
    assert (told["id"], told["type"]) == (call.headers.get("webhook-id"), f"job.{status.status}")
    assert told["data"] == {
        "id": job.id,
        "object": "job",
        "status": status.status,
        "endpoint": "messages",
        "model": job.model,
        "metadata": {"run": "7"},
        "links": {
            "self": f"/v1/jobs/{job.id}",
            "stream": f"/v1/jobs/{job.id}/stream",
            "result": f"/v1/jobs/{job.id}/result",
        },
    }


async def test_tenants_have_secrets_of_their_own(shop: Shop, receiver: Upstream) -> None:
    await submit(shop, receiver, tenant="a")
    await submit(shop, receiver, tenant="b")
    await wait_until(lambda: len(receiver.calls) == 2)
    signed_by = {orjson.loads(call.body)["data"]["id"]: call for call in receiver.calls}
    for tenant, call in zip("ab", [signed_by[name] for name in sorted(signed_by)], strict=True):
        await checked(shop, call, tenant)


async def test_while_a_secret_is_replaced_both_sign(shop: Shop, receiver: Upstream) -> None:
    secrets = WebhookSecrets(shop.broker.link, shop.keys)
    before = (await secrets.of("rotating"))[0]
    after = (await secrets.of("rotating", rotate=True))[0]
    await submit(shop, receiver, tenant="rotating")
    [call] = await wait_until(lambda: receiver.calls)
    for secret in (before, after):
        Webhook(secret).verify(call.body, dict(call.headers))


async def test_over_tls_a_receivers_certificate_counts(own_shop: Shop) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(CERTIFICATE)
    receiver = Upstream()
    receiver.script = OK
    await receiver.start(tls=tls)
    [job] = await own_shop.submit(webhook=f"https://localhost:{receiver.port}/")
    stranger = await own_shop.worker(**ENVIRONMENT)
    refused = await wait_until(lambda: tried(own_shop, job, 1))
    assert refused.last_error == "The receiver's certificate is not valid for its name."
    await stranger.stop()
    friend = await own_shop.worker(**ENVIRONMENT, SSL_CERT_FILE=str(CERTIFICATE))
    assert (await settled(own_shop, job)).state == "delivered"
    # First the client, so that nothing is left in the middle of a TLS handshake or its end.
    await friend.stop()
    await wait_until(lambda: not receiver._connections)
    await receiver.stop()


# -- again -----------------------------------------------------------------------------------------------------------


async def tried(shop: Shop, job: Job, times: int) -> Delivery | None:
    found = await delivery(shop, job)
    return found if found.attempts >= times else None


async def test_a_receiver_that_fails_is_asked_again_with_the_same_message(shop: Shop, receiver: Upstream) -> None:
    receiver.script = in_turn(answer(b"s3cret", status=500), answer(b"", status=302), OK)
    job = await submit(shop, receiver)
    assert await settled(shop, job) == Delivery("delivered", 3, 200, None, None)
    assert len({call.body for call in receiver.calls}) == 1
    assert len({call.headers.get("webhook-id") for call in receiver.calls}) == 1
    for call in receiver.calls:
        await checked(shop, call)


async def test_in_between_the_job_says_what_went_wrong_and_what_is_next(shop: Shop, receiver: Upstream) -> None:
    receiver.script = answer(b"", status=503, headers=[("retry-after", "3600")])
    job = await submit(shop, receiver)
    found = await wait_until(lambda: tried(shop, job, 1))
    assert (found.state, found.last_status) == ("pending", 503)
    assert found.last_error == "The receiver answered with 503."
    assert abs(found.next_ms - ((await shop.status(job)).ended_ms or 0) - 3_600_000) < 10_000


async def test_a_receiver_that_is_gone_is_not_asked_again(shop: Shop, receiver: Upstream) -> None:
    receiver.script = answer(b"", status=410)
    job = await submit(shop, receiver)
    assert await settled(shop, job) == Delivery("failed", 1, 410, "The receiver answered with 410.", None)


async def test_after_a_day_it_is_given_up_and_may_be_asked_for(own_shop: Shop, receiver: Upstream) -> None:
    await own_shop.worker(**ENVIRONMENT, RELAY_WEBHOOK_GIVE_UP_S="3")
    receiver.script = answer(b"", status=500)
    job = await submit(own_shop, receiver)
    given_up = await settled(own_shop, job)
    assert (given_up.state, given_up.next_ms) == ("failed", None)
    assert 2 <= given_up.attempts <= 5
    receiver.script = OK
    assert await Redelivery(own_shop.broker.link, own_shop.keys).ask_for(job.id)
    assert await settled(own_shop, job) == Delivery("delivered", 1, 200, None, None)
    assert len({call.headers.get("webhook-id") for call in receiver.calls}) == 1


async def test_a_worker_that_is_killed_in_mid_delivery_has_it_repeated(own_shop: Shop, receiver: Upstream) -> None:
    async def hang(call: Call) -> None:
        await asyncio.Event().wait()

    receiver.script = in_turn(hang, OK)
    worker = await own_shop.worker(**ENVIRONMENT | {"RELAY_WEBHOOK_TIMEOUT_S": "600"})
    job = await submit(own_shop, receiver)
    await wait_until(lambda: receiver.calls)
    await worker.kill()
    await own_shop.worker(**ENVIRONMENT)
    async with own_shop.server.client() as redis:
        # As if its lease had run out.
        assert await redis.zadd(own_shop.keys.webhooks, {job.id: 1}, xx=True, ch=True) == 1
    assert await settled(own_shop, job) == Delivery("delivered", 1, 200, None, None)
    first, second = receiver.calls
    assert first.how == "client_gone"
    assert first.body == second.body


# -- without harm ----------------------------------------------------------------------------------------------------


async def test_what_leads_inside_is_refused_once_and_for_all(own_shop: Shop, receiver: Upstream) -> None:
    worker = await own_shop.worker(RELAY_RETRIES="0")
    urls = [f"https://localhost:{receiver.port}/s3cret", f"{receiver.url}/s3cret", "https://[::ffff:127.0.0.1]/s3cret"]
    jobs = [(await own_shop.submit(webhook=url))[0] for url in urls]
    for job in jobs:
        refused = Delivery("failed", 1, None, "Webhooks may not go to this target.", None)
        assert await settled(own_shop, job) == refused
    assert not receiver.calls
    await worker.stop()
    assert "s3cret" not in worker.output


async def test_a_slow_receiver_holds_up_no_other(shop: Shop, receiver: Upstream) -> None:
    async def hang(call: Call) -> None:
        await asyncio.Event().wait()

    async with serving(Upstream()) as slow:
        slow.script = hang
        for _ in range(AT_ONCE + 5):
            await submit(shop, slow)
        await wait_until(lambda: len(slow.calls) == PER_HOST)
        job = await submit(shop, receiver)
        assert (await settled(shop, job)).state == "delivered"
        assert sum(not call.ended.is_set() for call in slow.calls) <= PER_HOST


async def test_a_worker_that_leaves_lets_deliveries_end(own_shop: Shop, receiver: Upstream) -> None:
    here, go = asyncio.Event(), asyncio.Event()

    async def wait(call: Call) -> None:
        here.set()
        await go.wait()
        await OK(call)

    receiver.script = wait
    worker: Process = await own_shop.worker(**ENVIRONMENT)
    job = await submit(own_shop, receiver)
    await here.wait()
    worker.ask_to_stop()
    go.set()
    assert await worker.ended() == 0
    assert (await delivery(own_shop, job)).state == "delivered"
