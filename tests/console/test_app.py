"""The console as a whole: no request, however odd, is answered with a 500, and each gets an error of the right form."""

from __future__ import annotations

import pytest

from tests.console.system import System
from tests.console.visitor import Visitor
from tests.support import http

ODD_PATHS = (
    *("/dashboard/jobs/%ff", "/dashboard/jobs/0-%00", "/dashboard/jobs/..%2f..", "/dashboard/static/../app.py"),
    *("/dashboard/static/%2e%2e/app.py", "/dashboard/static/", "/dashboard/jobs/0-" + "é" * 32, "/dashboard//jobs"),
    *("/dashboard?period=%ff", "/dashboard?tenant=%00", "/dashboard/usage?cursor=9999999999999999-9999999999999999"),
    *("/dashboard/usage?model=" + "x" * 5000, "/dashboard/usage?user=%00", "/dashboard/jobs?after=0-" + "f" * 32),
    *(
        "/dashboard/jobs?model=%ff%fe",
        "/dashboard/login?next=%0d%0a",
        "/v1/usage?since=9999-12-31",
        "/v1/usage?job=:;'",
    ),
    *("/v1/usage?since=1969-01-01&until=1969-01-02", "/v1/usage?cursor=0-0", "/v1/usage/export?model=%f0%9f%92%a9"),
    *("/v1/usage/timeline?since=1969-12-31&until=1970-01-02", "/v1/usage?limit=1e3", "/v1/usage?limit=1&limit=2"),
)


@pytest.mark.parametrize("path", ODD_PATHS)
async def test_an_odd_address_is_no_accident(system: System, path: str) -> None:
    visitor = Visitor(system.console_port)
    await visitor.login(system.key)
    headers = [*system.auth, ("cookie", visitor.cookie)]
    answer = await http.request(system.console_port, "GET", path.encode().decode("latin-1"), headers)
    assert answer.status < 500, answer


@pytest.mark.parametrize(
    "header",
    [
        *[("cookie", "relay_session=\xff\xfe"), ("cookie", "relay_session"), ("cookie", ";" * 3000)],
        *[("x-api-key", "\xe9\xff"), ("authorization", "Bearer"), ("authorization", "\xff"), ("x-api-key", "x" * 600)],
    ],
)
async def test_odd_credentials_are_refused(system: System, header: tuple[str, str]) -> None:
    assert (await http.request(system.console_port, "GET", "/v1/usage", [header])).status == 401
    assert (await http.request(system.console_port, "GET", "/dashboard", [header])).status == 303


async def test_head_is_get_without_its_body(system: System) -> None:
    for path in ("/healthz", "/v1/usage", "/dashboard/login", "/dashboard/static/console.css"):
        answer = await http.Exchange.open(
            system.console_port, http.render("HEAD", path, [*system.auth, ("connection", "close")])
        )
        assert answer.status == 200
        assert await answer.reader.read() == b""
        await answer.close()


async def test_a_wrong_method_is_told_the_right_one(system: System) -> None:
    answer = await http.request(system.console_port, "POST", "/v1/usage", system.auth, b"{}")
    assert (answer.status, answer.headers.get("allow")) == (405, "GET")
    assert answer.json["detail"] == "POST is not allowed here."
    assert (await http.request(system.console_port, "DELETE", "/dashboard/keys")).status == 405


async def test_the_root_leads_to_the_dashboard(system: System) -> None:
    answer = await http.request(system.console_port, "GET", "/")
    assert (answer.status, answer.headers.get("location")) == (303, "/dashboard")
