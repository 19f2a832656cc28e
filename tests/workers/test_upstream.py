"""Calls to providers: what goes out, what comes back, and what can go wrong between."""

from __future__ import annotations

import asyncio
import gzip
import socket
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from relay.broker import usage_stream
from relay.core.errors import (
    RelayError,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamTruncated,
    UpstreamUnreachable,
)
from relay.core.job import Job, Target
from tests.broker.system import make_job
from tests.support.badprovider import BadProvider
from tests.support.processes import free_port
from tests.support.upstream import JSON, Call, answer
from tests.support.wait import wait_until
from tests.workers.conftest import KEY, provider_at
from workers import upstream as module
from workers.upstream import NOT_PASSED_BACK, Answer, Upstream, reading

GPT = (Target("openai", "openai", "gpt-5"),)


def made(job: Job | None = None) -> usage_stream.Call:
    job = job or make_job()
    return usage_stream.Call(job, job.targets[0], generation=1_763_760_000_000, number=1, attempt=1)


async def call(http: Upstream, job: Job | None = None, pieces: list[bytes] | None = None) -> tuple[Answer, bytes]:
    """An answer, and its body."""
    got = await http.open(made(job), [b"{}"] if pieces is None else pieces, job.trace if job else {})
    try:
        with reading():
            return got, b"".join([chunk async for chunk in got.body])
    finally:
        await got.close()


@asynccontextmanager
async def calling(url: str, key_file: Path | None = None, **settings: Any) -> AsyncIterator[Upstream]:
    """The providers of a process, which is one at this address."""
    http = Upstream({"anthropic": provider_at(url, "anthropic", key_file, **settings)})
    try:
        yield http
    finally:
        await http.close()


async def failure(http: Upstream) -> RelayError:
    """The error a call ends in; it must be told without the words of a library, which may quote a key."""
    with pytest.raises(RelayError) as caught:
        await call(http)
    assert KEY not in caught.value.message
    return caught.value


# --- what goes out


@pytest.mark.parametrize(
    ("endpoint", "path"), [("messages", "/v1/messages"), ("count_tokens", "/v1/messages/count_tokens")]
)
async def test_an_endpoint_has_its_place_below_the_base_url(
    http: Upstream, upstream: BadProvider, endpoint: str, path: str
) -> None:
    upstream.script = answer(b"{}")
    await call(http, make_job(endpoint=endpoint))
    [sent] = upstream.calls
    assert (sent.method, sent.path) == ("POST", path)


async def test_the_query_of_the_client_goes_along(http: Upstream, upstream: BadProvider) -> None:
    upstream.script = answer(b"{}")
    await call(http, make_job(query="beta=true&x=%C3%A9"))
    assert upstream.calls[0].path == "/v1/messages?beta=true&x=%C3%A9"


async def test_anthropics_key_has_a_header_of_its_own(http: Upstream, upstream: BadProvider) -> None:
    upstream.script = answer(b"{}")
    await call(http)
    headers = upstream.calls[0].headers
    assert (headers.get("x-api-key"), headers.get("authorization")) == (KEY, None)
    assert headers.get("anthropic-version") == "2023-06-01"


async def test_openais_key_is_a_bearer_token(http: Upstream, upstream: BadProvider) -> None:
    upstream.script = answer(b"{}")
    await call(
        http,
        make_job(
            targets=(Target("openai", "openai", "gpt-5"),), surface="openai", endpoint="chat_completions", headers={}
        ),
    )
    [sent] = upstream.calls
    assert sent.path == "/v1/chat/completions"
    headers = sent.headers
    assert (headers.get("authorization"), headers.get("x-api-key")) == (f"Bearer {KEY}", None)
    assert headers.get("anthropic-version") is None


async def test_a_provider_without_a_key_is_sent_none(upstream: BadProvider) -> None:
    upstream.script = answer(b"{}")
    async with calling(upstream.url) as http:
        await call(http)
    assert {"x-api-key", "authorization"}.isdisjoint(name.lower() for name, _ in upstream.calls[0].headers)


async def test_the_headers_are_these_and_no_others(http: Upstream, upstream: BadProvider) -> None:
    upstream.script = answer(b"{}")
    job = make_job(headers={"anthropic-version": "2024-01-01", "anthropic-beta": "a,b"})
    await call(http, job, [b'{"model": "m"}'])
    assert {name.lower(): value for name, value in upstream.calls[0].headers} == {
        "host": upstream.url.removeprefix("http://"),
        "accept-encoding": "identity",
        "anthropic-beta": "a,b",
        "anthropic-version": "2024-01-01",
        "content-length": "14",
        "content-type": "application/json",
        "user-agent": "llm-relay",
        "x-api-key": KEY,
        "x-relay-call-id": f"{job.id}:1763760000000",
    }


async def test_configured_headers_go_along(upstream: BadProvider) -> None:
    upstream.script = answer(b"{}")
    async with calling(upstream.url, headers={"x-team": "blue"}) as http:
        await call(http)
    assert upstream.calls[0].headers.get("x-team") == "blue"


@pytest.mark.parametrize("sizes", [[0], [1], [100_000], [1 << 20, 1 << 20, 77], [1] * 50])
async def test_a_body_in_pieces_arrives_as_one(http: Upstream, upstream: BadProvider, sizes: list[int]) -> None:
    upstream.script = answer(b"{}")
    pieces = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    await call(http, pieces=list(pieces))
    [sent] = upstream.calls
    assert sent.body == b"".join(pieces)
    assert sent.headers.get("content-length") == str(sum(sizes))
    assert sent.headers.get("transfer-encoding") is None


async def test_nothing_is_kept_between_calls(http: Upstream, upstream: BadProvider) -> None:
    upstream.script = answer(b"{}", headers=[*JSON, ("set-cookie", "session=1; Path=/")])
    await call(http)
    await call(http)
    assert [sent.headers.get("cookie") for sent in upstream.calls] == [None, None]


# --- what comes back


async def test_an_answer_has_a_status_headers_and_a_body(http: Upstream, upstream: BadProvider) -> None:
    upstream.script = answer(
        b'{"a": 1}', status=529, headers=[*JSON, ("retry-after", "3"), ("x-new", "1"), ("x-new", "2")]
    )
    got, body = await call(http)
    assert (got.status, got.content_type, got.is_stream, body) == (529, "application/json", False, b'{"a": 1}')
    assert dict(got.headers) == {
        "content-type": "application/json",
        "request-id": "req_scripted",
        "retry-after": "3",
        "x-new": "1, 2",
    }


async def test_headers_of_the_connection_end_here(http: Upstream, upstream: BadProvider) -> None:
    told = NOT_PASSED_BACK - {"content-length", "content-encoding", "transfer-encoding", "connection"}
    upstream.script = answer(b"{}", headers=[*JSON, *((name, "1") for name in sorted(told))])
    got, _ = await call(http)
    assert {name for name, _ in got.headers} == {"content-type", "request-id"}


async def test_a_stream_comes_as_it_is_sent(http: Upstream, upstream: BadProvider) -> None:
    passed = asyncio.Event()

    async def script(call: Call) -> None:
        await call.head()
        await call.chunk(b"data: 1\n\n")
        await passed.wait()
        await call.chunk(b"data: 2\n\n")
        await call.finish()

    upstream.script = script
    got = await http.open(made(), [b"{}"], {})
    chunks = aiter(got.body)
    assert got.is_stream
    assert await anext(chunks) == b"data: 1\n\n"
    passed.set()
    assert [chunk async for chunk in chunks] == [b"data: 2\n\n"]
    await got.close()


async def test_a_connection_is_used_again_when_its_answer_was_read(key_file: Path) -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while await reader.read(1 << 16):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, calling(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", key_file) as http:
        for _ in range(3):
            _, body = await call(http)
            assert body == b"{}"
    assert connections == 1


async def test_an_answer_that_is_not_read_to_its_end_is_hung_up_on(http: Upstream, upstream: BadProvider) -> None:
    async def script(call: Call) -> None:
        await call.head()
        await call.chunk(b"data: 1\n\n")
        await asyncio.Event().wait()

    upstream.script = script
    got = await http.open(made(), [b"{}"], {})
    await anext(aiter(got.body))
    await got.close()
    async with asyncio.timeout(5):
        await upstream.calls[0].ended.wait()
    assert upstream.calls[0].how == "client_gone"


# --- compression, which nobody asked for

PLAIN = b"data: " + b"so it is " * 1000 + b"\n\n"


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_a_compressed_answer_is_unpacked(
    http: Upstream, upstream: BadProvider, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    upstream.script = answer(pack(PLAIN), headers=[*JSON, ("content-encoding", encoding)])
    got, body = await call(http)
    assert body == PLAIN
    assert "content-encoding" not in dict(got.headers)


async def test_an_answer_that_is_not_packed_as_it_says_is_an_error(http: Upstream, upstream: BadProvider) -> None:
    upstream.script = answer(PLAIN, headers=[*JSON, ("content-encoding", "gzip")])
    assert isinstance(await failure(http), UpstreamProtocolError)


async def test_a_small_answer_cannot_become_an_endless_one(http: Upstream, upstream: BadProvider) -> None:
    bomb = gzip.compress(bytes(module.DECODED_BYTES + 1), compresslevel=1)
    upstream.script = answer(bomb, headers=[*JSON, ("content-encoding", "gzip")])
    error = await failure(http)
    assert isinstance(error, UpstreamProtocolError)
    assert "decodes to more than" in error.message


# --- what goes wrong


async def test_nobody_there(key_file: Path) -> None:
    async with calling(f"http://127.0.0.1:{free_port()}", key_file=key_file) as http:
        assert isinstance(await failure(http), UpstreamUnreachable)


async def test_a_name_that_does_not_resolve(key_file: Path) -> None:
    async with calling("http://no-such-host.invalid", key_file=key_file) as http:
        assert isinstance(await failure(http), UpstreamUnreachable)


async def test_a_host_that_does_not_answer_is_not_waited_for_long(key_file: Path) -> None:
    with closing(socket.socket()) as full, closing(socket.socket()) as first, closing(socket.socket()) as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)  # takes one, and lets the others wait
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        async with calling(f"http://127.0.0.1:{full.getsockname()[1]}", key_file=key_file, connect_s=0.2) as http:
            assert isinstance(await failure(http), UpstreamTimeout)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(http: Upstream, upstream: BadProvider, status: int) -> None:
    """It would send the key, and the prompt, to whoever is named."""
    upstream.script = answer(b"{}", status=status, headers=[*JSON, ("location", f"{upstream.url}/v1/elsewhere")])
    error = await failure(http)
    assert isinstance(error, UpstreamProtocolError)
    assert str(status) in error.message
    assert len(upstream.calls) == 1


async def raw_failure(http: Upstream, upstream: BadProvider, said: bytes) -> RelayError:
    async def script(call: Call) -> None:
        await call.raw(said)

    upstream.script = script
    return await failure(http)


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 9999 nope\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n",
        HEAD + b"content-length: -5\r\n\r\n",
        HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\n{}",
        HEAD + b"no colon here\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_an_error_in_our_words(http: Upstream, upstream: BadProvider, said: bytes) -> None:
    error = await raw_failure(http, upstream, said)
    assert isinstance(error, UpstreamProtocolError)
    assert error.message == "the provider did not answer in HTTP"


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200", HEAD])
async def test_a_connection_that_breaks_before_the_answer(http: Upstream, upstream: BadProvider, said: bytes) -> None:
    assert isinstance(await raw_failure(http, upstream, said), UpstreamUnreachable)


@pytest.mark.parametrize(
    "said",
    [
        HEAD + b"content-length: 100\r\n\r\n{",
        HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\n{",
        HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n",
    ],
)
async def test_a_connection_that_breaks_in_mid_answer(http: Upstream, upstream: BadProvider, said: bytes) -> None:
    assert isinstance(await raw_failure(http, upstream, said), UpstreamTruncated)


async def test_a_call_that_is_called_off_is_hung_up_on(http: Upstream, upstream: BadProvider) -> None:
    async def script(_: Call) -> None:
        await asyncio.Event().wait()

    upstream.script = script
    opening = asyncio.ensure_future(http.open(made(), [b"{}"], {}))
    await wait_until(lambda: upstream.calls)
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    async with asyncio.timeout(5):
        await upstream.calls[0].ended.wait()
    assert upstream.calls[0].how == "client_gone"


# --- secrets


def test_a_key_is_taken_out_of_texts(http: Upstream) -> None:
    assert http.scrub("anthropic", f"no: {KEY}, {KEY}".encode()) == b"no: [redacted], [redacted]"


async def test_a_provider_without_a_key_has_nothing_to_hide(upstream: BadProvider) -> None:
    async with calling(upstream.url) as http:
        assert http.scrub("anthropic", b"all of it") == b"all of it"


def test_only_configured_providers_are_there(http: Upstream) -> None:
    assert http.provider("elsewhere") is None
    assert http.provider("openai") is not None
