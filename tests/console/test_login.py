"""Login, sessions and forms: who gets in, what the cookie is, and which forms are taken."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from relay.broker import connections
from relay.broker.api_keys import ApiKeys
from relay.console.guesses import EACH_BURST, EACH_S
from tests.console.conftest import MakeKey
from tests.console.system import System
from tests.console.test_main import start
from tests.console.visitor import Visitor
from tests.support.oracles import check_quiet
from tests.support.processes import RedisServer


@pytest.fixture
def visitor(system: System) -> Visitor:
    return Visitor(system.console_port)


@pytest.fixture
async def admin(system: System, visitor: Visitor) -> Visitor:
    await visitor.login(system.key)
    return visitor


async def test_nobody_gets_in_without_a_session(visitor: Visitor) -> None:
    for path in ("", "/usage", "/jobs", "/jobs/live", "/jobs/0-1", "/jobs/0-1/live", "/budgets", "/keys"):
        answer = await visitor.get(path)
        assert (answer.status, answer.headers.get("location")) == (303, f"/dashboard/login?next=/dashboard{path}")


async def test_the_cookie_is_for_the_dashboard_alone_and_no_script_reads_it(system: System, visitor: Visitor) -> None:
    answer = await visitor.login(system.key)
    parts = (answer.headers.get("set-cookie") or "").lower().split("; ")
    assert {"httponly", "samesite=strict", "path=/dashboard"} <= set(parts)
    assert system.key not in visitor.cookie
    assert (await visitor.get("")).status == 200


async def test_behind_https_the_cookie_is_for_https(system: System, visitor: Visitor) -> None:
    answer = await visitor.post("/login", {"key": system.key}, headers=("x-forwarded-proto", "https"))
    assert "secure" in (answer.headers.get("set-cookie") or "").lower()


async def test_a_wrong_key_is_told_so(visitor: Visitor, make_key: MakeKey) -> None:
    answer = await visitor.post("/login", {"key": "no key of this relay"})
    assert (answer.status, b"is unknown" in answer.body) == (401, True)
    answer = await visitor.post("/login", {"key": await make_key("acme", "jobs:read")})
    assert (answer.status, b"usage:read" in answer.body) == (403, True)
    assert not visitor.cookie


async def test_whoever_fails_too_often_has_to_wait(tmp_path: Path, system: System, console_redis: RedisServer) -> None:
    console, port = start(tmp_path, console_redis.url)
    await console.ready()
    stranger = Visitor(port)
    statuses = [(await stranger.post("/login", {"key": "a guess"})).status for _ in range(EACH_BURST)]
    assert statuses == [401] * EACH_BURST
    answer = await stranger.post("/login", {"key": system.key})
    assert (answer.status, b"Too many attempts to log in have failed" in answer.body) == (429, True)
    assert 1 <= int(answer.headers.get("retry-after") or 0) <= EACH_S
    await console.stop()
    check_quiet(console)


async def test_a_session_cannot_be_made_up(admin: Visitor) -> None:
    head, body, signature = admin.cookie.removeprefix("relay_session=").split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    forged = base64.urlsafe_b64encode(json.dumps(claims | {"exp": claims["exp"] + 1}).encode()).rstrip(b"=").decode()
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    for cookie in (f"{head}.{forged}.{signature}", f"{unsigned}.{body}.", "x" * 5000, "", "a.b.c"):
        admin.cookie = f"relay_session={cookie}"
        assert (await admin.get("")).status == 303


async def test_a_revoked_key_ends_its_session(
    system: System, visitor: Visitor, admin: Visitor, console_redis: RedisServer
) -> None:
    async with connections.client(console_redis.url) as client:
        record, key = await ApiKeys(client).create("to go", "acme")
    guest = Visitor(system.console_port)
    await guest.login(key)
    answer = await admin.post(f"/keys/{record.id}/revoke", {"token": await admin.token()})
    assert answer.status == 303
    assert (await guest.get("")).status == 303


async def test_logout_takes_the_cookie_away(admin: Visitor) -> None:
    await admin.post("/logout", {"token": await admin.token()})
    assert (await admin.get("")).status == 303


@pytest.mark.parametrize(
    "path", ["/keys", "/keys/abc/revoke", "/jobs/0-1/cancel", "/jobs/0-1/replay", "/logout", "/login"]
)
async def test_a_form_of_another_site_is_refused(system: System, admin: Visitor, path: str) -> None:
    token = await admin.token()
    for origin in ("http://evil.example", "null", ""):
        answer = await admin.post(path, {"token": token, "key": system.key}, origin=origin)
        assert (answer.status, b"does not come from a page of this console" in answer.body) == (403, True)
    answer = await admin.post(path, {"token": token, "key": system.key}, headers=("sec-fetch-site", "same-site"))
    assert answer.status == 403


@pytest.mark.parametrize("path", ["/keys", "/keys/abc/revoke", "/jobs/0-1/cancel", "/jobs/0-1/replay", "/logout"])
async def test_a_form_without_this_sessions_token_is_refused(system: System, admin: Visitor, path: str) -> None:
    other = Visitor(system.console_port)
    await other.login(system.key)
    for token in ("", "guessed", await other.token()):
        answer = await admin.post(path, {"token": token, "name": "x", "tenant": "x", "scopes": "admin"})
        assert (answer.status, b"out of date" in answer.body) == (403, True)


async def test_login_leads_to_pages_of_the_dashboard_only(system: System, visitor: Visitor) -> None:
    for wanted, to in (
        ("/dashboard/usage?model=gpt-5&cache=hit", "/dashboard/usage?model=gpt-5&cache=hit"),
        ("//evil.example", "/dashboard"),
        ("/dashboard//evil.example", "/dashboard"),
        ("https://evil.example/dashboard", "/dashboard"),
        ("/dashboard\r\nset-cookie: a=b", "/dashboard"),
    ):
        answer = await visitor.post("/login", {"key": system.key, "next": wanted})
        assert answer.headers.get("location") == to


async def test_a_form_that_is_too_long_or_none_is_refused(visitor: Visitor) -> None:
    assert (await visitor.post("/login", {"key": "x" * 9000})).status == 413
    assert (await visitor.post("/login", {f"field{n}": "" for n in range(60)})).status == 400
