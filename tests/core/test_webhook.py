"""The message, its signatures, and the pauses between attempts."""

from __future__ import annotations

import time
from dataclasses import replace

import orjson
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from relay.core.job import CANCELLED, DONE, FAILED, Job, Target
from relay.core.webhook import Delivery, Reply, Schedule, headers, message, message_id

SECRET, OLDER, OTHER = ("whsec_" + letter * 42 + "A=" for letter in "QRS")
FAILURE = Reply.of(500, None)
DAY = Schedule(5, 86_400)

JOB = Job(
    id="0-" + "0" * 32,
    tenant="acme",
    key_id="rk_1",
    surface="anthropic",
    endpoint="messages",
    query="beta=s3cret",
    headers={"anthropic-version": "s3cret"},
    model="claude-sonnet-4-6",
    targets=(Target("anthropic", "anthropic", "claude-sonnet-4-6"),),
    stream=True,
    created_ms=1,
    body_bytes=1,
    body_pieces=0,
    metadata={"run": "ü 7"},
    webhook="https://example.com/s3cret",
)


def test_the_message_says_which_job_and_how_it_ended_and_no_more() -> None:
    body = message(JOB, DONE, 1_763_760_000_123)
    assert orjson.loads(body) == {
        "id": f"msg_{JOB.id}",
        "type": "job.completed",
        "timestamp": "2025-11-21T21:20:00.123+00:00",
        "data": {
            "id": JOB.id,
            "object": "job",
            "status": "completed",
            "endpoint": "messages",
            "model": "claude-sonnet-4-6",
            "metadata": {"run": "ü 7"},
            "links": {name: f"/v1/jobs/{JOB.id}{path}" for name, path in LINKS.items()},
        },
    }


LINKS = {"self": "", "stream": "/stream", "result": "/result"}


@pytest.mark.parametrize(("state", "status"), [(DONE, "completed"), (FAILED, "failed"), (CANCELLED, "cancelled")])
def test_every_end_has_a_type_of_its_own(state: str, status: str) -> None:
    told = orjson.loads(message(JOB, state, 0))
    assert (told["type"], told["data"]["status"]) == (f"job.{status}", status)


def signed(*secrets: str, age_s: int = 0) -> tuple[bytes, dict[str, str]]:
    body = message(JOB, DONE, 0)
    return body, headers(message_id(JOB.id), body, secrets, int(time.time()) - age_s)


@pytest.mark.parametrize("secret", [SECRET, OLDER])
def test_a_receiver_with_any_secret_in_force_can_check_it(secret: str) -> None:
    body, sent = signed(SECRET, OLDER)
    assert Webhook(secret).verify(body, sent)["id"] == sent["webhook-id"]


def test_a_receiver_with_another_secret_refuses_it() -> None:
    body, sent = signed(SECRET, OLDER)
    with pytest.raises(WebhookVerificationError):
        Webhook(OTHER).verify(body, sent)


@pytest.mark.parametrize("change", ["webhook-id", "webhook-timestamp", "body", "age"])
def test_what_was_changed_or_is_old_is_refused(change: str) -> None:
    body, sent = signed(SECRET, age_s=301 if change == "age" else 0)
    if change == "body":
        body = body.replace(b"completed", b"cancelled")
    elif change != "age":
        sent[change] = f"{sent[change]}1"[-10:]
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body, sent)


@pytest.mark.parametrize(
    ("status", "is_final", "word"),
    [
        *((200, False, ""), (204, False, ""), (301, False, "redirect"), (307, False, "redirect"), (404, False, "404")),
        *((410, True, "410"), (429, False, "429"), (500, False, "500"), (103, False, "103")),
    ],
)
def test_what_an_answer_means(status: int, is_final: bool, word: str) -> None:
    reply = Reply.of(status, None)
    assert (reply.status, reply.is_final, bool(reply.error)) == (status, is_final, bool(word))
    assert word in reply.error


def test_pauses_grow_for_a_day() -> None:
    pauses: list[float] = []
    while (pause_s := DAY.pause_s(FAILURE, len(pauses) + 1, sum(pauses), 0.5)) is not None:
        pauses.append(pause_s)
    assert pauses == [5, 20, 80, 320, 1280, 5120, 14_400, 14_400, 14_400, 14_400, 14_400]
    assert DAY.pause_s(FAILURE, 10_000, 0, 0.5) == 14_400


def test_pauses_differ_by_a_fifth() -> None:
    assert [DAY.pause_s(FAILURE, 2, 0, dice) for dice in (0.0, 1.0)] == pytest.approx([16, 24])


@pytest.mark.parametrize(
    ("asked", "pause_s"), [("60", 60), ("2", 5), ("99999999", 14_400), ("soon", 5), ("-1", 5), ("²", 5)]
)
def test_a_receiver_may_ask_for_a_longer_pause(asked: str, pause_s: float) -> None:
    assert DAY.pause_s(Reply.of(429, asked), 1, 0, 0.5) == pause_s


@pytest.mark.parametrize("reply", [Reply.of(200, None), Reply.of(410, None), Reply(None, "not there", is_final=True)])
def test_what_is_done_is_not_tried_again(reply: Reply) -> None:
    assert DAY.pause_s(reply, 1, 0, 0.5) is None


def test_what_has_failed_for_long_is_given_up() -> None:
    assert DAY.pause_s(FAILURE, 1, 86_395, 0.5) == 5
    assert DAY.pause_s(FAILURE, 1, 86_396, 0.5) is None


def test_how_far_it_has_come() -> None:
    assert Delivery.decode({"id": "x"}) is None
    stored = {"webhook": "https://example.com/"}
    assert Delivery.decode(stored) == Delivery("pending", 0, None, None, None)
    stored |= {"webhook_state": "failed", "webhook_attempts": "3", "webhook_status": "500", "webhook_error": "no"}
    failed = Delivery("failed", 3, 500, "no", None)
    assert Delivery.decode(stored) == failed
    assert Delivery.decode(stored | {"webhook_next_ms": "7"}) == replace(failed, next_ms=7)
