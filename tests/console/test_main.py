"""The console process: ready, well, behind by so much, asked to stop; with and without what it needs."""

from __future__ import annotations

from pathlib import Path

from tests.console.history import history
from tests.console.system import System, now_ms
from tests.support import http
from tests.support.oracles import check_quiet
from tests.support.processes import Process, RedisServer, free_port, python
from tests.support.wait import wait_until


def start(directory: Path, redis_url: str) -> tuple[Process, int]:
    port = free_port()
    settings = {"RELAY_REDIS_URL": redis_url, "RELAY_CONSOLE_PORT": str(port), "RELAY_DATA_DIR": str(directory)}
    return Process("console", python("-m", "relay", "console"), directory, settings), port


async def test_it_says_where_it_is_and_how_far_the_ledger_is_behind(system: System) -> None:
    assert system.console.ready_line == f"ready console http://127.0.0.1:{system.console_port}"
    assert (await http.request(system.console_port, "GET", "/healthz")).json == {"status": "ok"}

    async def is_up_to_date() -> bool:
        ready = (await http.request(system.console_port, "GET", "/readyz")).json
        assert ready["status"] == "ready"
        return bool(ready["ledger"] == {"records_behind": 0, "seconds_behind": 0})

    await wait_until(is_up_to_date, what="the ledger has stored all")


async def test_records_that_nobody_stores_are_counted(tmp_path: Path, console_redis: RedisServer) -> None:
    redis = RedisServer(tmp_path / "redis")
    await redis.start()
    async with redis.client() as client:
        for entry in history(now_ms(), 1, 8):
            await client.xadd("relay:{0}:usage", dict(entry.fields))
        records = await client.xlen("relay:{0}:usage")
    console, port = start(tmp_path, redis.url)
    await console.ready()
    assert (await http.request(port, "GET", "/readyz")).json["ledger"]["records_behind"] == records
    await redis.stop()
    answer = await http.request(port, "GET", "/readyz")
    assert (answer.status, answer.json["code"]) == (503, "unavailable")
    assert (await http.request(port, "GET", "/healthz")).status == 200
    answer = await http.request(port, "GET", "/dashboard", [("cookie", "relay_session=x")])
    assert (answer.status, b"Unavailable" in answer.body) == (503, True)
    await console.stop()
    check_quiet(console)


async def test_a_stop_ends_live_pages_at_once(tmp_path: Path, system: System, console_redis: RedisServer) -> None:
    console, port = start(tmp_path, console_redis.url)
    await console.ready()
    login = await http.request(port, "POST", "/dashboard/login", form_headers(port), f"key={system.key}".encode())
    cookie = (login.headers.get("set-cookie") or "").partition(";")[0]
    head = [("cookie", cookie)]
    page = await http.Exchange.open(port, http.render("GET", "/dashboard/jobs/live", head))
    assert page.headers.get("content-type") == "text/event-stream; charset=utf-8"
    assert await console.stop(timeout_s=3) == 0
    assert b"event: jobs" in await page.body()
    await page.close()
    check_quiet(console)


def form_headers(port: int) -> list[tuple[str, str]]:
    host = f"127.0.0.1:{port}"
    return [("host", host), ("origin", f"http://{host}"), ("content-type", "application/x-www-form-urlencoded")]
