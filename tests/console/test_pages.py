"""What pages show, read as HTML: to whom, escaped, and with the forms that work."""

from __future__ import annotations

import re

import pytest

from relay.console.answers import POLICY
from tests.console.conftest import MakeKey
from tests.console.system import System
from tests.console.visitor import Visitor
from tests.support import http
from tests.support.relay import message
from tests.support.wait import wait_until

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


@pytest.fixture
async def admin(system: System) -> Visitor:
    visitor = Visitor(system.console_port)
    await visitor.login(system.key)
    return visitor


async def text(visitor: Visitor, path: str) -> str:
    answer = await visitor.get(path)
    assert answer.status == 200, answer
    return answer.body.decode()


async def test_every_answer_carries_the_policy(system: System, admin: Visitor) -> None:
    for path in ("/dashboard", "/dashboard/login", "/dashboard/nothing", "/dashboard/static/console.css", "/v1/usage"):
        answer = await http.request(system.console_port, "GET", path)
        assert answer.headers.get("content-security-policy") == POLICY
        assert answer.headers.get("x-content-type-options") == "nosniff"
    assert (await admin.get("")).headers.get("cache-control") == "no-store"


async def test_nothing_is_inline_or_from_elsewhere(admin: Visitor) -> None:
    for path in ("", "/usage", "/jobs", "/keys"):
        page = await text(admin, path)
        assert not re.findall(r"<style|\sstyle=|\son\w+=|<script(?![^>]* src=)", page)
        assert not re.findall(r'(?:src|href|action)="(?!/dashboard|\?|#)[^"]*"', page)


async def test_what_clients_write_is_text(system: System, admin: Visitor) -> None:
    body = message(HOSTILE, metadata={"user_id": HOSTILE})
    body["model"] = f"claude-{HOSTILE}"
    answer = await system.post("/v1/messages", body, [("x-title", HOSTILE)])
    job_id = answer.headers.get("x-relay-job-id")
    assert job_id, answer
    await system.stored(job_id)
    for path in (
        "",
        "/usage",
        "/jobs",
        f"/jobs/{job_id}",
        f"/usage?app={HOSTILE[:8]}%22%3E",
        f"/jobs?model={'%3Cimg'}",
    ):
        page = await text(admin, path)
        assert "<script>alert" not in page
        assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)" in await text(admin, "/usage")


async def test_a_tenant_sees_its_own_pages_only(system: System, make_key: MakeKey) -> None:
    job_id = await system.call()
    await system.stored(job_id)
    guest = Visitor(system.console_port)
    await guest.login(await make_key("acme", "usage:read", "jobs:read"))
    for path in ("", "/usage?period=24h", "/jobs"):
        assert "Test bench" not in await text(guest, path)
    assert "Support desk" in await text(guest, "")
    for path in (f"/jobs/{job_id}", f"/jobs/{job_id}/live"):
        assert (await guest.get(path)).status == 404
    for path in ("?tenant=default", "/usage?tenant=default", "/jobs?tenant=default", "/keys"):
        assert (await guest.get(path)).status == 403
    answer = await guest.post(f"/jobs/{job_id}/cancel", {"token": await guest.token()})
    assert (answer.status, b"jobs:write" in answer.body) == (403, True)


async def test_navigation_offers_what_the_key_may_see(system: System, acme: str) -> None:
    guest = Visitor(system.console_port)
    await guest.login(acme)
    page = await text(guest, "")
    assert "/dashboard/usage" in page
    assert 'href="/dashboard/jobs"' not in page
    assert 'href="/dashboard/keys"' not in page


async def test_unknown_prices_are_called_unknown_and_counted(admin: Visitor) -> None:
    page = await text(admin, "?period=30d&tenant=acme")
    assert re.search(r"[1-9]\d* calls? of unknown price", page)
    assert re.search(r"house-70b</a></th>.*?unknown", page, re.S)


async def test_a_key_is_made_shown_once_and_revoked(system: System, admin: Visitor) -> None:
    token = await admin.token()
    fields = {"token": token, "name": "laptop", "tenant": "zeta", "scopes": ["jobs:read", "usage:read"], "expires": ""}
    made = (await admin.post("/keys", fields)).body.decode()
    found = re.search(r'id="new-key">(rk_\w+)<', made)
    assert found
    assert found[1] not in await text(admin, "/keys")
    guest = Visitor(system.console_port)
    await guest.login(found[1])
    key_id = found[1].split("_")[1]
    await admin.post(f"/keys/{key_id}/revoke", {"token": token})
    assert re.search(rf"{key_id}.*?revoked 20", await text(admin, "/keys"), re.S)
    assert (await guest.post("/login", {"key": found[1]})).status == 401


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"name": ""}, "Name"),
        ({"tenant": "x" * 101}, "Tenant"),
        ({"scopes": []}, "Scopes"),
        ({"scopes": "root"}, "root"),
        ({"expires": "2020-01-01"}, "2020-01-01"),
        ({"expires": "soon"}, "soon"),
        ({"cache": "maybe"}, "maybe"),
    ],
)
async def test_a_form_with_a_mistake_says_which(admin: Visitor, fields: dict[str, str], named: str) -> None:
    good = {"token": await admin.token(), "name": "n", "tenant": "t", "scopes": "jobs:read", "expires": "", "cache": ""}
    answer = await admin.post("/keys", good | fields)
    assert answer.status == 400
    assert re.search(rf'role="alert">[^<]*{named}', answer.body.decode())


async def test_a_failed_job_is_replayed(system: System, admin: Visitor) -> None:
    body = message("claude-haiku-4-5", "SANDBOX(fault=400,times=1)")
    answer = await system.post("/v1/jobs", {"endpoint": "/v1/messages", "body": body})
    job_id = answer.json["id"]
    await wait_until(lambda: _is(system, job_id, "failed"), what="the job has failed")
    assert "Replay" in await text(admin, f"/jobs/{job_id}")
    answer = await admin.post(f"/jobs/{job_id}/replay", {"token": await admin.token()})
    again = (answer.headers.get("location") or "").rpartition("/")[2]
    await wait_until(lambda: _is(system, again, "completed"), what="its replay has succeeded")
    assert (await system.job(again))["replay_of"] == job_id
    answer = await admin.post(f"/jobs/{again}/replay", {"token": await admin.token()})
    assert (answer.status, b"Only a failed job" in answer.body) == (409, True)


async def test_a_tenant_is_told_of_its_own_dead_letters_only(system: System, admin: Visitor, make_key: MakeKey) -> None:
    body = message("claude-haiku-4-5", "SANDBOX(fault=400) For ever.")
    job_id = (await system.post("/v1/jobs", {"endpoint": "/v1/messages", "body": body})).json["id"]
    await wait_until(lambda: _is(system, job_id, "failed"), what="the job has failed")
    guest = Visitor(system.console_port)
    await guest.login(await make_key("acme", "usage:read", "jobs:read"))
    counted = re.compile(r'Dead letters</h2><p class="figure">(\d+)<')
    told = [counted.findall(await text(visitor, "/jobs")) for visitor in (guest, admin)]
    assert told[0] == ["0"]
    assert int(told[1][0]) > 0


async def test_a_running_job_is_cancelled(system: System, admin: Visitor) -> None:
    body = message("claude-haiku-4-5", "SANDBOX(fault=stall)", stream=True)
    answer = await system.post("/v1/jobs", {"endpoint": "/v1/messages", "body": body})
    job_id = answer.json["id"]
    await wait_until(lambda: _is(system, job_id, "in_progress"), what="the job runs")
    answer = await admin.post(f"/jobs/{job_id}/cancel", {"token": await admin.token()})
    assert answer.headers.get("location") == f"/dashboard/jobs/{job_id}"
    await wait_until(lambda: _is(system, job_id, "cancelled"), what="the job is cancelled")


async def _is(system: System, job_id: str, status: str) -> bool:
    return bool((await system.job(job_id))["status"] == status)


@pytest.mark.parametrize(
    ("path", "status", "named"),
    [
        ("?period=1y", 400, "1y"),
        ("/usage?cache=warm", 400, "warm"),
        ("/usage?cursor=x", 400, "x"),
        ("/jobs?status=lost", 400, "lost"),
        ("/jobs?after=lost", 400, "lost"),
        ("/jobs/lost", 404, "lost"),
        ("/jobs/0-00000000000000000000000000000000", 404, "No job"),
        ("/lost", 404, "/dashboard/lost"),
    ],
)
async def test_a_mistake_in_an_address_is_a_page_that_names_it(
    admin: Visitor, path: str, status: int, named: str
) -> None:
    answer = await admin.get(path)
    assert (answer.status, answer.headers.get("content-type")) == (status, "text/html; charset=utf-8")
    assert named in answer.body.decode()
