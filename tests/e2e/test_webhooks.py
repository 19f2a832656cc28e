"""A webhook as its receiver lives it: a job goes in at the door, and its end comes to a URL of the client's."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from standardwebhooks import Webhook

from tests.support.badprovider import BadProvider
from tests.support.processes import Process, RedisServer, python
from tests.support.relay import Relay, message, served_by
from tests.support.upstream import Upstream, answer, in_turn, serving
from tests.support.wait import wait_until

# A partition of its own: workers of other tests on this Redis may not post to private addresses, and would say so.
PARTITION = {"RELAY_PARTITION": "hooks", "RELAY_QUEUE": "hooks"}
ENVIRONMENT = PARTITION | {"RELAY_WEBHOOK_ALLOW_PRIVATE": "1", "RELAY_WEBHOOK_RETRY_S": "0.05"}


async def test_from_submission_to_a_second_delivery(
    redis_server: RedisServer, upstream: BadProvider, tmp_path: Path
) -> None:
    relay = Relay(tmp_path, redis_server.url, served_by(upstream) | ENVIRONMENT)
    async with relay, serving(Upstream()) as receiver:
        receiver.script = in_turn(answer(b"", status=500), answer(b""))
        envelope = {"endpoint": "/v1/messages", "webhook": f"{receiver.url}/hook?s3cret", "body": message("claude-x")}
        job = (await relay.post("/v1/jobs", envelope)).json

        async def is_delivered() -> dict[str, Any] | None:
            shown: dict[str, Any] = (await relay.get(f"/v1/jobs/{job['id']}")).json["webhook"]
            return shown if shown["state"] == "delivered" else None

        shown = await wait_until(is_delivered, what="the webhook is delivered")
        assert shown == {
            "url": receiver.url,
            "state": "delivered",
            "attempts": 2,
            "last_status": 200,
            "last_error": None,
            "next_attempt_ms": None,
        }
        again = await relay.post(f"/v1/jobs/{job['id']}/webhook/redeliver", b"")
        assert (again.status, again.json["webhook"]["state"]) == (202, "pending")
        await wait_until(is_delivered, what="the webhook is delivered again")

        secret = await secret_of(redis_server, tmp_path)
        told = [Webhook(secret).verify(call.body, dict(call.headers)) for call in receiver.calls]
        assert told == [told[0]] * 3
        assert told[0]["type"] == "job.completed"
        result = await relay.get(told[0]["data"]["links"]["result"])
        assert (result.status, result.json["type"]) == (200, "message")
    assert "s3cret" not in logs_in(tmp_path)


def logs_in(directory: Path) -> str:
    return "".join(log.read_text() for log in directory.glob("*.log"))


async def secret_of(server: RedisServer, directory: Path) -> str:
    """As an operator asks for it."""
    command = Process(
        "secret", python("-m", "relay", "webhooks", "secret"), directory, PARTITION | {"RELAY_REDIS_URL": server.url}
    )
    async with asyncio.timeout(20):
        assert await command.ended() == 0
    return command.output.strip()
