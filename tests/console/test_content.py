"""Content as the console shows it: byte for byte to programs, indented to people, and to nobody who may not see it."""

from __future__ import annotations

import json
import re

import orjson
import pytest

from relay.console.content_api import as_json
from relay.console.pages.content import SHOWN_BYTES, indented
from relay.ledger.contents import Kept
from tests.console.conftest import MakeKey
from tests.console.system import System
from tests.console.visitor import Visitor
from tests.support import http
from tests.support.relay import message
from tests.support.wait import wait_until

KEEP = [("x-relay-log", "content")]
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
# Legal JSON that parsers differ about, and that none would write like this.
ODD = b'{ "model":"claude-sonnet-4-6",\n"max_tokens" : 20, "temperature":1e0,'
ODD += b'"messages":[{"role":"user","content":"\\u00e9 \\u003c"}] }\n'


async def content(system: System, job_id: str, key: str = "", method: str = "GET") -> http.Response:
    headers = [("x-api-key", key)] if key else system.auth
    return await http.request(system.console_port, method, f"/v1/usage/jobs/{job_id}/content", headers)


async def kept(
    system: System, request: bytes = ODD, headers: list[tuple[str, str]] = KEEP
) -> tuple[str, http.Response]:
    """A job whose content the ledger has, and its answer."""
    answered = await system.post("/v1/messages", request, headers)
    assert answered.status == 200, answered
    job_id = answered.headers.get("x-relay-job-id") or ""

    async def is_stored() -> bool:
        shown = await content(system, job_id)
        return shown.status == 200 and shown.json["state"] != "pending"

    await wait_until(is_stored, what=f"the ledger has the content of {job_id}")
    return job_id, answered


# -- for programs ------------------------------------------------------------------------------------------------------


async def test_bodies_are_shown_byte_for_byte(system: System) -> None:
    job_id, answered = await kept(system)
    shown = await content(system, job_id)
    assert shown.headers.get("content-type") == "application/json"
    assert b'"request":' + ODD + b',"response":{"status":200,"body":' + answered.body + b"}}" in shown.body
    told = shown.json
    assert (told["job"], told["state"]) == (job_id, "stored")
    assert (told["request_bytes"], told["response_bytes"]) == (len(ODD), len(answered.body))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", told["expires_at"])


async def test_a_usage_row_says_that_there_is_content(system: System) -> None:
    job_id, _ = await kept(system)
    assert (await system.stored(job_id))["content"] == "stored"
    assert (await system.stored(await system.call()))["content"] is None


async def test_it_takes_a_scope_of_its_own_and_the_tenant_s_key(system: System, make_key: MakeKey) -> None:
    job_id, _ = await kept(system)
    usual = await make_key("default", "jobs:read", "jobs:write", "usage:read")
    answered = await content(system, job_id, usual)
    assert (answered.status, "content:read" in answered.json["detail"]) == (403, True)
    reading, writing = await make_key("default", "content:read"), await make_key("default", "content:write")
    assert (await content(system, job_id, reading)).status == 200
    assert (await content(system, job_id, reading, "DELETE")).status == 403
    assert (await content(system, job_id, writing)).status == 403
    foreign = await make_key("acme", "content:read", "content:write")
    for method in ("GET", "DELETE"):
        assert (await content(system, job_id, foreign, method)).status == 404
    nobody = await http.request(system.console_port, "GET", f"/v1/usage/jobs/{job_id}/content")
    assert nobody.status == 401
    assert (await content(system, job_id)).status == 200


async def test_what_is_deleted_is_gone_and_its_usage_stays(system: System, make_key: MakeKey) -> None:
    job_id, _ = await kept(system)
    assert (await content(system, job_id, await make_key("default", "content:write"), "DELETE")).status == 204
    for method in ("GET", "DELETE"):
        answered = await content(system, job_id, method=method)
        assert (answered.status, job_id in answered.json["detail"]) == (404, True)
    assert (await system.stored(job_id))["content"] == "deleted"


@pytest.mark.parametrize("job_id", ["0-nothing", "%00", "x" * 300, "..%2f", "%ff"])
async def test_of_a_job_that_never_asked_there_is_none(system: System, job_id: str) -> None:
    for method in ("GET", "DELETE"):
        answered = await content(system, job_id, method=method)
        assert answered.status in (400, 404)
        assert answered.json["detail"]
    assert (await content(system, await system.call())).status == 404


async def test_its_routes_are_documented(system: System) -> None:
    schema = (await http.request(system.console_port, "GET", "/openapi.json")).json
    path = schema["paths"]["/v1/usage/jobs/{job_id}/content"]
    assert set(path) == {"get", "delete"}
    assert {"200", "401", "403", "404", "503"} <= set(path["get"]["responses"])
    assert "request_bytes" in schema["components"]["schemas"]["ContentView"]["properties"]


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": 1.0, "a": 12345678901234567890123}', b'{"a": 1.0, "a": 12345678901234567890123}'),
        (b' "\\ud800" ', b' "\\ud800" '),
        (b"<h1>Bad Gateway</h1>", b'"<h1>Bad Gateway</h1>"'),
        (b"\xff", '"\ufffd"'.encode()),
        (b"NaN", b'"NaN"'),
        (b"", b'""'),
        (None, b"null"),
    ],
)
def test_a_body_is_json_as_it_was_or_a_text(body: bytes | None, value: bytes) -> None:
    shown = as_json(Kept("0-job", "acme", "stored", 0, 502, None, None, body, body))
    assert shown.endswith(b'"request":%b,"response":{"status":502,"body":%b}}' % (value, value))
    json.loads(shown)


# -- for people --------------------------------------------------------------------------------------------------------


async def visit(system: System, key: str = "") -> Visitor:
    visitor = Visitor(system.console_port)
    await visitor.login(key or system.key)
    return visitor


async def test_the_page_of_a_job_shows_it_indented_and_escaped(system: System) -> None:
    job_id, _ = await kept(system, orjson.dumps(message("claude-sonnet-4-6", HOSTILE)))
    admin = await visit(system)
    for path in (f"/jobs/{job_id}", f"/jobs/{job_id}/content"):
        page = (await admin.get(path)).body.decode()
        assert 'id="content">Content <span class="state stored">' in page
        assert "&#34;max_tokens&#34;: 20,\n" in page
        assert "<script>alert" not in page and "<img src=x" not in page
        assert not re.findall(r"<style|<[^>]*\s(?:style|on\w+)=|<script(?![^>]* src=)", page)
        assert "Delete for good" in page
    assert (
        f'href="/dashboard/jobs/{job_id}/content">stored</a>' in (await admin.get(f"/usage?job={job_id}")).body.decode()
    )


async def test_who_may_not_read_it_sees_no_trace_of_it(system: System, make_key: MakeKey) -> None:
    job_id, _ = await kept(system, orjson.dumps(message("claude-sonnet-4-6", "canary")))
    colleague = await visit(system, await make_key("default", "jobs:read", "usage:read"))
    page = (await colleague.get(f"/jobs/{job_id}")).body
    assert b'id="content"' not in page
    assert b"canary" not in page
    assert (await colleague.get(f"/jobs/{job_id}/content")).status == 403
    assert b"/content" not in (await colleague.get(f"/usage?job={job_id}")).body
    reader = await visit(system, await make_key("default", "usage:read", "jobs:read", "content:read"))
    page = (await reader.get(f"/jobs/{job_id}")).body
    assert b"canary" in page
    assert b"Delete for good" not in page
    foreign = await visit(system, await make_key("acme", "usage:read", "jobs:read", "content:read", "content:write"))
    assert (await foreign.get(f"/jobs/{job_id}/content")).status == 404
    deleting = await foreign.post(f"/jobs/{job_id}/content/delete", {"token": await foreign.token()})
    assert deleting.status == 404


async def test_the_button_deletes_and_leads_back_to_the_job(system: System) -> None:
    job_id, _ = await kept(system)
    admin = await visit(system)
    path = f"/jobs/{job_id}/content/delete"
    assert (await admin.post(path, {"token": "made up"})).status == 403
    assert (await admin.post(path, {"token": await admin.token()}, origin="https://evil.example")).status == 403
    answered = await admin.post(path, {"token": await admin.token()})
    assert (answered.status, answered.headers.get("location")) == (303, f"/dashboard/jobs/{job_id}")
    assert (await admin.get(f"/jobs/{job_id}/content")).status == 404
    assert b'id="content"' not in (await admin.get(f"/jobs/{job_id}")).body


async def test_a_key_that_keeps_content_is_made_on_the_page_of_keys(system: System) -> None:
    admin = await visit(system)
    fields = {
        "token": await admin.token(),
        "name": "curious",
        "tenant": "default",
        "scopes": "jobs:write",
        "expires": "",
    }
    refused = await admin.post("/keys", {**fields, "log": "all"})
    assert (refused.status, b"Log: &#39;all&#39; is not a choice." in refused.body) == (400, True)
    page = (await admin.post("/keys", {**fields, "log": "content"})).body.decode()
    key = re.search(r'<code id="new-key">([^<]+)</code>', page)
    assert key
    headers = [("x-api-key", key[1]), ("content-type", "application/json")]
    answered = await http.request(system.port, "POST", "/v1/messages", headers, ODD)
    job_id = answered.headers.get("x-relay-job-id") or ""
    assert (await system.stored(job_id))["log"] == "content"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"a":[1,"\\u00e9"]}', '{\n  "a": [\n    1,\n    "é"\n  ]\n}'),
        (b"<h1>Bad Gateway</h1>", "<h1>Bad Gateway</h1>"),
        (b'"\\ud800"', '"?"'),
        (b"[" * 5000, "[" * 5000),
        (b'"%b"' % (b"x" * SHOWN_BYTES), None),
        (None, None),
    ],
)
def test_what_people_read(body: bytes | None, text: str | None) -> None:
    assert indented(body) == text
