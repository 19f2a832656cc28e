"""The usage API of a running console: rows, sums and files, each tenant's own, and errors that name what is wrong."""

from __future__ import annotations

import csv
import json
from io import StringIO
from urllib.parse import quote

import pytest

from relay.console.export import PAGE_CALLS
from relay.console.usage_views import moment
from tests.console.conftest import ACME_CALLS, MakeKey
from tests.console.history import HOUR_MS
from tests.console.system import System, now_ms
from tests.support import http


async def test_a_call_through_the_relay_is_a_row_with_tokens_and_money(system: System) -> None:
    await system.call()
    call = await system.stored(await system.call())
    assert (call["provider"], call["model"], call["app"], call["outcome"]) == (
        *("anthropic", "claude-sonnet-4-6"),
        *("Test bench", "completed"),
    )
    assert call["cache"] == "hit"
    assert call["cache_read_tokens"] > 1024
    assert call["net_saved_nano_usd"] == call["read_savings_nano_usd"] - call["write_premium_nano_usd"] > 0
    assert call["usage_last"]["output_tokens"] == call["output_tokens"]


async def test_pages_have_every_call_once_newest_first(system: System, acme: str) -> None:
    found, cursor = [], ""
    while True:
        page = (await system.usage(f"?limit=7&cursor={cursor}", acme)).json
        found += page["data"]
        if not page["has_more"]:
            break
        cursor = page["next_cursor"]
    assert len(found) == len({call["call"] for call in found}) == ACME_CALLS
    assert [call["started"] for call in found] == sorted((call["started"] for call in found), reverse=True)


async def test_every_filter_finds_what_it_names_and_nothing_else(system: System, acme: str) -> None:
    all_calls = (await system.usage("?limit=1000", acme)).json["data"]
    for name in ("key_id", "app", "provider", "model", "target", "outcome", "cache", "surface", "endpoint"):
        value = all_calls[0][name]
        found = (await system.usage(f"?limit=1000&{name}={quote(value)}", acme)).json["data"]
        assert found == [call for call in all_calls if call[name] == value], name
    middle = all_calls[len(all_calls) // 2]["started"]
    since = (await system.usage(f"?limit=1000&since={middle}", acme)).json["data"]
    until = (await system.usage(f"?limit=1000&until={middle}", acme)).json["data"]
    assert since + until == all_calls
    assert min(call["started"] for call in since) == middle


async def test_a_filter_may_have_several_values(system: System, acme: str) -> None:
    found = (await system.usage("?limit=1000&app=Search&app=Translations", acme)).json["data"]
    assert {call["app"] for call in found} == {"Search", "Translations"}


async def test_sums_by_model_are_what_the_rows_add_up_to(system: System, acme: str) -> None:
    calls = (await system.usage("?limit=1000", acme)).json["data"]
    sums = (await system.usage("/summary?by=model", acme)).json["data"]
    for each in sums:
        rows = [call for call in calls if call["model"] == each["model"]]
        assert each["calls"] == len(rows)
        for name in ("input_tokens", "cache_read_tokens", "cost_nano_usd", "net_saved_nano_usd"):
            assert each[name] == sum(row[name] or 0 for row in rows), name
    assert sum(each["calls"] for each in sums) == ACME_CALLS
    unpriced = next(each for each in sums if each["model"] == "house-70b")
    assert (unpriced["unpriced"] + unpriced["unreported"], unpriced["cost_nano_usd"]) == (unpriced["calls"], 0)


async def test_sums_by_two_things(system: System, acme: str) -> None:
    found = (await system.usage("/summary?by=day&by=app", acme)).json
    assert found["by"] == ["day", "app"]
    assert all(each["day"].endswith("T00:00:00.000Z") for each in found["data"])


async def test_the_timeline_has_every_hour(system: System) -> None:
    query = "/timeline?since=2026-01-01T05:10:00Z&until=2026-01-02T05:10:00%2B01:00"
    hours = (await system.usage(query)).json["data"]
    assert [each["hour"] for each in hours] == [
        f"2026-01-{1 + hour // 24:02}T{hour % 24:02}:00:00.000Z" for hour in range(5, 29)
    ]
    assert {each["calls"] for each in hours} == {0}


async def test_csv_and_jsonl_have_every_call(system: System, acme: str) -> None:
    answer = await system.usage("/export?format=csv", acme)
    assert answer.headers.get("content-type") == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(StringIO(answer.body.decode())))
    lines = [json.loads(line) for line in (await system.usage("/export?format=jsonl", acme)).body.splitlines()]
    assert [row["call"] for row in rows] == [line["call"] for line in lines]
    assert len(rows) == ACME_CALLS
    assert [row["cost_nano_usd"] for row in rows] == ["" if c is None else str(c) for c in map(_cost, lines)]


def _cost(line: dict[str, int | None]) -> int | None:
    return line["cost_nano_usd"]


async def test_an_export_of_several_pages_is_whole(system: System) -> None:
    past = f"tenant=default&until={moment(now_ms() - HOUR_MS)}"
    [total] = (await system.usage(f"/summary?{past}")).json["data"]
    calls = [
        json.loads(line)["call"] for line in (await system.usage(f"/export?format=jsonl&{past}")).body.splitlines()
    ]
    assert len(set(calls)) == len(calls) == total["calls"] > 2 * PAGE_CALLS


async def test_a_tenant_sees_its_own_and_an_admin_sees_all(system: System, acme: str, make_key: MakeKey) -> None:
    assert {call["tenant"] for call in (await system.usage("?limit=1000", acme)).json["data"]} == {"acme"}
    admin = await make_key("nobody", "admin")
    tenants = {each["tenant"] for each in (await system.usage("/summary?by=tenant", admin)).json["data"]}
    assert {"acme", "default"} <= tenants
    of_one = (await system.usage("/summary?by=tenant&tenant=acme", admin)).json["data"]
    assert [each["tenant"] for each in of_one] == ["acme"]


async def test_another_tenant_cannot_be_asked_for(system: System, acme: str) -> None:
    for path in ("", "/summary", "/timeline", "/export"):
        answer = await system.usage(f"{path}?tenant=default", acme)
        assert (answer.status, answer.json["code"]) == (403, "forbidden")
        assert "'default'" in answer.json["detail"]


async def test_a_key_without_the_scope_or_none_at_all_is_refused(system: System, make_key: MakeKey) -> None:
    answer = await system.usage("", await make_key("acme", "jobs:read"))
    assert (answer.status, "usage:read" in answer.json["detail"]) == (403, True)
    answer = await http.request(system.console_port, "GET", "/v1/usage")
    assert (answer.status, answer.headers.get("content-type")) == (401, "application/problem+json")


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("?since=yesterday", "'yesterday'"),
        ("?since=2026-13-01", "'2026-13-01'"),
        ("?since=2026-02-01&until=2026-01-01", "2026-01-01"),
        ("?cache=warm", "'warm'"),
        ("?limit=0", "'0'"),
        ("?limit=many", "'many'"),
        ("?cursor=1-1-1", "'1-1-1'"),
        ("?modle=x", "modle"),
        ("?model=%00", "model"),
        ("?user=" + "x" * 201, "user"),
        ("?tenant=", "tenant"),
        ("/summary?by=weather", "'weather'"),
        ("/summary?" + "&".join(["by=model"] * 5), "by"),
        ("/timeline?step=minute", "'minute'"),
        ("/timeline?since=0001-01-01&until=2026-01-01", "hours"),
        ("/export?format=xml", "'xml'"),
    ],
)
async def test_a_bad_filter_is_a_400_that_names_it(system: System, query: str, named: str) -> None:
    answer = await system.usage(query)
    assert (answer.status, answer.headers.get("content-type")) == (400, "application/problem+json")
    assert named in answer.json["detail"]


async def test_the_api_is_documented(system: System) -> None:
    document = (await http.request(system.console_port, "GET", "/openapi.json")).json
    assert {"/v1/usage", "/v1/usage/summary", "/v1/usage/timeline", "/v1/usage/export"} <= set(document["paths"])
    assert not [path for path in document["paths"] if path.startswith("/dashboard")]
    named = [each["name"] for each in document["paths"]["/v1/usage"]["get"]["parameters"]]
    assert {"since", "until", "model", "cache", "cursor", "limit"} <= set(named)
    assert set(document["paths"]["/v1/usage"]["get"]["responses"]) == {"200", "400", "401", "403", "503"}
