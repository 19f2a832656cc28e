"""What the console tells Prometheus: to anybody how far the ledger is, to a key what is in it."""

from __future__ import annotations

import pytest

from relay.broker.usage_reader import Behind
from relay.console.metrics import MODELS_MAX, text
from relay.http_metrics import Durations
from relay.ledger.totals import Total
from tests.console.system import System
from tests.support import http
from tests.support.figures import Figures, figures


async def test_the_ledgers_sums_are_those_of_the_usage_api(system: System, acme: str) -> None:
    found = await figures(system.console_port, acme)
    groups = (await system.usage("/summary?by=provider&by=target&by=cache", acme)).json["data"]
    assert groups
    for group in groups:
        labels = {"provider": group["provider"], "model": group["target"]}
        assert found("relay_ledger_calls", **labels, cache=group["cache"]) == group["calls"]
    for name, member in (("spend", "cost"), ("cache_savings", "net_saved")):
        told = sum(group[f"{member}_nano_usd"] for group in groups) / 1e9
        assert found(f"relay_ledger_{name}_dollars") == pytest.approx(told) != 0


async def test_a_tenants_sums_are_for_its_own_keys(system: System, acme: str) -> None:
    to_nobody, to_acme, to_admin = [await figures(system.console_port, key) for key in ("", acme, system.key)]
    assert {"relay_ledger_records_behind", "relay_ledger_seconds_behind"} <= to_nobody.names
    assert to_nobody("relay_ledger_rejected_records") == 0
    assert not [name for name in to_nobody.names if "calls" in name or "dollars" in name]
    assert 0 < to_acme("relay_ledger_calls") < to_admin("relay_ledger_calls")
    wrong = await http.request(system.console_port, "GET", "/metrics", [("authorization", "Bearer rk_wrong")])
    assert wrong.status == 401


async def test_its_own_requests_are_timed_by_route(system: System) -> None:
    await system.usage()
    found = await figures(system.console_port)
    count = "http_server_request_duration_seconds_count"
    assert found(count, http_request_method="GET", http_route="/v1/usage", http_response_status_code=200) >= 1
    assert not [route for route in found.values(count, "http_route") if "?" in route]


def test_what_is_not_known_is_left_out() -> None:
    assert not [name for name in Figures(text(Durations(), None, None).decode()).names if "ledger" in name]


def test_models_beyond_the_bound_share_a_series() -> None:
    totals = [Total("p", f"model-{n}", "hit", "", n, 0, 10**9, 0) for n in range(1, 2 * MODELS_MAX + 1)]
    found = Figures(text(Durations(), Behind(0, 0), 0, totals).decode())
    assert len(found.values("relay_ledger_calls", "model")) == MODELS_MAX + 1
    assert found("relay_ledger_calls", model="other") == sum(range(1, MODELS_MAX + 1))
    assert found("relay_ledger_spend_dollars") == 2 * MODELS_MAX
