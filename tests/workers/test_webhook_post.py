"""One delivery of a webhook: where it goes, where it never goes, and what is said of what went wrong."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from relay.core.webhook import Reply
from tests.support.processes import free_port
from tests.support.upstream import Call, Script, Upstream, answer, in_turn, serving
from workers.webhook_post import READ_BYTES, Guard, Lookup, Post, Refused

BODY = b'{"type":"job.completed"}'
HEADERS = {"content-type": "application/json", "webhook-id": "msg_1"}
NAME = "hooks.example.com"
NOT_THERE = Reply(None, "Webhooks may not go to this target.", is_final=True)

INSIDE = [
    *("127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "168.63.129.16", "100.100.100.200"),
    *("0.0.0.0", "255.255.255.255", "224.0.0.1", "::1", "::", "fe80::1%lo", "fd00:ec2::254", "::ffff:127.0.0.1"),
    *("64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:db8::1"),
]


@pytest.fixture
async def receiver() -> AsyncIterator[Upstream]:
    async with serving(Upstream()) as receiver:
        receiver.script = answer(b"")
        yield receiver


@asynccontextmanager
async def posting(
    lookup: Lookup | None = None, *, allow_private: bool = True, timeout_s: float = 5
) -> AsyncIterator[Post]:
    post = Post(timeout_s, allow_private=allow_private, lookup=lookup)
    yield post
    await post.close()


async def send(url: str, lookup: Lookup | None = None, *, allow_private: bool = True, timeout_s: float = 5) -> Reply:
    async with posting(lookup, allow_private=allow_private, timeout_s=timeout_s) as post:
        return await post.send(url, HEADERS, BODY)


def leading_to(*addresses: str) -> Lookup:
    """Names that lead there."""

    async def lookup(host: str, port: int) -> list[str]:
        return list(addresses)

    return lookup


# -- there -----------------------------------------------------------------------------------------------------------


async def test_what_is_sent_arrives_as_it_is(receiver: Upstream) -> None:
    assert await send(f"{receiver.url}/a%2Fb/%41~?x=%7e&y=+") == Reply(200)
    [call] = receiver.calls
    assert (call.method, call.path, call.body) == ("POST", "/a%2Fb/%41~?x=%7e&y=+", BODY)
    assert {name: call.headers.get(name) for name in HEADERS} == HEADERS


async def test_every_2xx_will_do(receiver: Upstream) -> None:
    receiver.script = answer(b"", status=299)
    assert await send(receiver.url) == Reply(299)


async def test_an_answer_that_never_ends_is_cut(receiver: Upstream) -> None:
    async def endless(call: Call) -> None:
        await call.head()
        while True:
            await call.chunk(b"x" * READ_BYTES)

    receiver.script = endless
    assert await send(receiver.url) == Reply(200)
    await receiver.calls[0].ended.wait()
    assert receiver.calls[0].how == "client_gone"


async def test_neither_cookies_nor_connections_are_kept(receiver: Upstream) -> None:
    receiver.script = answer(b"", headers=[("set-cookie", "id=1; Path=/")])
    async with posting(leading_to("127.0.0.1")) as post:
        for _ in range(2):
            await post.send(f"http://{NAME}:{receiver.port}/", HEADERS, BODY)
    first, second = receiver.calls
    assert second.headers.get("cookie") is None
    assert first._writer is not second._writer


async def test_no_proxy_is_used(receiver: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    assert await send(receiver.url) == Reply(200)


# -- not there -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", INSIDE)
async def test_a_name_that_leads_inside(address: str) -> None:
    assert await send(f"https://{NAME}/", leading_to(address), allow_private=False) == NOT_THERE


async def test_one_address_inside_is_enough_to_refuse_a_name() -> None:
    assert await send(f"https://{NAME}/", leading_to("8.8.8.8", "10.0.0.1"), allow_private=False) == NOT_THERE


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", "2130706433", "127.1", "[::ffff:127.0.0.1]"])
async def test_an_address_inside(host: str) -> None:
    assert await send(f"https://{host}/", allow_private=False) == NOT_THERE


async def test_plain_http_where_it_is_not_allowed_any_more(receiver: Upstream) -> None:
    url = f"http://{NAME}:{receiver.port}/"
    assert await send(url, leading_to("127.0.0.1"), allow_private=False) == NOT_THERE
    assert not receiver.calls


@pytest.mark.parametrize("address", INSIDE)
def test_whatever_a_url_says_no_socket_is_made_for_an_address_inside(address: str) -> None:
    guard = Guard(allow_private=False, lookup=None)
    with pytest.raises(Refused):
        guard.socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, 80)))


async def test_a_name_is_looked_up_once_and_nobody_can_lead_it_elsewhere_in_between(receiver: Upstream) -> None:
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

    url = f"http://{NAME}:{receiver.port}/"
    async with posting(rebinding) as post:
        assert await post.send(url, HEADERS, BODY) == Reply(200)
        assert asked == [NAME]
        assert receiver.calls[0].headers.get("host") == f"{NAME}:{receiver.port}"
        assert (await post.send(url, HEADERS, BODY)).error == "The receiver cannot be connected to."
    assert len(asked) == 2


async def test_a_name_that_leads_inside_the_second_time_is_refused_then() -> None:
    answers = [OSError("no such name"), ["10.0.0.1"]]

    async def rebinding(host: str, port: int) -> list[str]:
        found = answers.pop(0)
        if isinstance(found, OSError):
            raise found
        return found

    async with posting(rebinding, allow_private=False) as post:
        replies = [await post.send(f"https://{NAME}/", HEADERS, BODY) for _ in range(2)]
    assert replies == [Reply(None, "The receiver's name cannot be resolved."), NOT_THERE]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(receiver: Upstream, status: int) -> None:
    async with serving(Upstream()) as elsewhere:
        receiver.script = answer(b"", status=status, headers=[("location", elsewhere.url)])
        reply = await send(receiver.url)
        assert (reply.status, "redirect" in reply.error, reply.is_final) == (status, True, False)
        assert not elsewhere.calls


# -- what goes wrong -------------------------------------------------------------------------------------------------


async def silent(call: Call) -> None:
    await asyncio.Event().wait()


async def drip(call: Call) -> None:
    await call.raw(b"HTTP/1.1 200 OK\r\n")
    with suppress(ConnectionError):
        while True:
            await call.raw(b"x: y\r\n")
            await asyncio.sleep(0.02)


async def reset(call: Call) -> None:
    call.reset()


async def babble(call: Call) -> None:
    await call.raw(b"220 mail.example.com ESMTP\r\n\r\n")


async def long_head(call: Call) -> None:
    await call.raw(b"HTTP/1.1 200 OK\r\nx: " + b"s3cret" * 10_000 + b"\r\n\r\n")


IN_TIME, BROKE = "The receiver did not answer within 0.3 s.", "The connection to the receiver broke before it answered."


@pytest.mark.parametrize(
    ("script", "error"),
    [(silent, IN_TIME), (drip, IN_TIME), (reset, BROKE), (babble, BROKE), (long_head, BROKE)],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_a_receiver_that_does_not_answer(receiver: Upstream, script: Script, error: str) -> None:
    receiver.script = script
    assert await send(f"{receiver.url}/s3cret", timeout_s=0.3) == Reply(None, error)


async def test_a_receiver_that_is_not_there() -> None:
    assert await send(f"http://127.0.0.1:{free_port()}/") == Reply(None, "The receiver cannot be connected to.")


async def test_a_name_that_takes_too_long() -> None:
    async def never(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    assert (await send(f"http://{NAME}/", never, timeout_s=0.2)).error == "The receiver did not answer within 0.2 s."


async def test_the_systems_resolver_is_asked_unless_told_otherwise(receiver: Upstream) -> None:
    assert await send(f"http://localhost:{receiver.port}/") == Reply(200)
    assert (await send("http://nobody.invalid/")).error == "The receiver's name cannot be resolved."


async def test_a_receiver_that_asks_for_time(receiver: Upstream) -> None:
    receiver.script = in_turn(answer(b"", status=429, headers=[("retry-after", "60")]))
    assert (await send(receiver.url)).retry_after_s == 60
