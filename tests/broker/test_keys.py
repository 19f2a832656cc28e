"""The table of names in the README is what Redis really holds."""

from __future__ import annotations

import re
from typing import Any

from redis.asyncio import Redis

from relay.broker.budgets import Budgets
from relay.broker.keys import TABLE, Keys, Name
from relay.broker.leases import Lease
from relay.broker.rate_limits import RateLimit, RateLimits
from relay.broker.results import Results
from relay.broker.stream_secret import StreamSecret
from relay.broker.webhooks import WebhookSecrets
from relay.core.budget import parse
from relay.core.idempotency import Once
from relay.core.job import CANCELLED, DONE, STREAMING
from relay.core.usage import Usage
from tests.broker.batches import begin
from tests.broker.system import REQUEST, Broker, Worker, call_of, make_job
from tests.support import dialects


def matches(name: Name, key: str) -> bool:
    return re.fullmatch(re.sub(r"<\w+>", "[^:]+", re.escape(name.pattern).replace(r"\{p\}", r"\{0\}")), key) is not None


async def test_every_key_is_in_the_table_with_its_type_and_its_end(
    broker: Broker, worker: Worker, redis: Redis
) -> None:
    await Budgets(broker.link, broker.keys).set("tenant:acme", parse(["1M tokens a day"]))
    for state in (STREAMING, DONE, CANCELLED):
        await broker.in_state(state, worker)
    await worker.leases.claim([], 1)
    await broker.queue.submit(make_job(run_at_ms=1 << 45), REQUEST, Once("a" * 64, "f"))
    outlet = worker.outlet(await in_hand(broker, worker, on_disconnect="finish"))
    outlet.head(200, [])
    outlet.events(b"".join(dialects.Anthropic().opening("c")), 2)
    call = call_of(outlet.lease)
    call.usage = Usage(output_tokens=1)
    await worker.finish(outlet, usage=call.record("final", "completed"))
    await Results(broker.link, broker.keys, broker.limits).of(outlet.lease.job)
    await StreamSecret(broker.link, broker.keys).to_sign(60)
    await worker.finish(worker.outlet(await in_hand(broker, worker, webhook="https://example.com/")))
    await WebhookSecrets(broker.link, broker.keys).of("acme")
    await begin(broker.link, broker)
    # Two may run, and there is one too many: it waits in a lane, and another one has been called up from there.
    await RateLimits(broker.link, broker.keys).set("tenant:crowd", RateLimit(calls=2, requests=1000))
    jobs = [await broker.submit(tenant="crowd") for _ in range(4)]
    await broker.queue.cancel(jobs[0].id, "crowd")
    found = {key async for key in redis.scan_iter() if key.startswith("relay:")}
    for key in found:
        [name] = [name for name in TABLE if matches(name, key)]
        kind = {"zset": "sorted set"}.get(kind := await redis.type(key), kind)
        assert name.type == kind, key
        assert name.expires.startswith("never") == (await redis.ttl(key) == -1), key
    shown = {name.pattern for name in TABLE if any(matches(name, key) for key in found)}
    # The rest: a channel is no key, a worker's counters and API keys have tests of their own.
    assert {name.pattern for name in TABLE} - shown == {
        "relay:{p}:job:<id>:live",
        "relay:{p}:workers:<name>",
        "relay:api_keys",
    }


async def in_hand(broker: Broker, worker: Worker, **facts: Any) -> Lease:
    await broker.submit(**facts)
    return await worker.start()


def test_all_names_of_a_partition_are_in_one_slot_of_a_cluster() -> None:
    keys = Keys("eu1")
    names = [keys.leases, keys.usage, keys.timers, keys.due_results, keys.worker("w"), keys.claim("w")]
    names += [keys.webhooks, keys.webhook_secrets, keys.budgets, keys.spent("2026-11", "tenant:acme")]
    names += [keys.stream_secret, keys.jobs("acme"), keys.idempotency("0" * 64)]
    names += [keys.due_batches, keys.batches("openai", "acme"), keys.files("acme"), keys.batch_item("batch", 7)]
    names += [make("batch") for make in (keys.batch, keys.batch_items, keys.batch_names, keys.batch_ended)]
    names += [keys.batch_bits("batch"), keys.file("file"), keys.file_data("file")]
    names += [make("eu1-" + "0" * 32) for make in (keys.job, keys.body, keys.log, keys.live, keys.result)]
    assert {re.findall(r"\{(.*?)\}", name)[0] for name in names} == {"eu1"}
    assert len({*names}) == len(names)
