"""What a worker says a call costs is what the ledger will say; and the price table is there when it is needed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pytest

from relay.broker.usage_stream import Call
from relay.core.job import Dialect, Target
from relay.core.meter import Meter
from relay.core.pricing import PriceTable
from relay.core.pricing_overrides import Override, parse
from relay.core.usage import Usage
from relay.ledger.record import read
from tests.broker.system import make_job
from tests.support.fixtures import ROOT, read_json
from workers.attempt import METERS
from workers.pricing import MONEY, Pricing

CASES = {case["name"]: case for case in read_json(ROOT / "pricing" / "cases.json")["cases"]}
ANSWERS = sorted(path for path in (ROOT / "responses").glob("*/*.json") if ".expected" not in path.name)
OWN = '[[price]]\nprovider = "eu"\nlike = "anthropic"\n[[price]]\nprovider = "own"\ninput = 2.7\noutput = 13.5\n'
AT_MS = 1_795_219_200_000


def call(provider: str, model: str, usage: Usage | None, at_ms: int = AT_MS) -> Call:
    job = make_job(model=model, created_ms=at_ms)
    return Call(job, Target(provider, "anthropic", model), 7, 1, 1, started_ms=at_ms, usage=usage)


async def both(call: Call, own: list[Override] | tuple[Override, ...] = ()) -> tuple[int | None, int | None]:
    """What the worker says, and the ledger."""
    pricing = Pricing(own)
    pricing.watch(call, MONEY)
    await pricing.ready(call)
    flat = [str(value) for value in call.record("final", "completed")]
    record = dict(zip(flat[::2], flat[1::2], strict=True))
    row = read(record, PriceTable(own))
    parts = [row[name] for name in ("billed_input", "output_cost", "fees")]
    return int(record["cost"]) if record["cost"] else None, None if None in parts else sum(parts)


@pytest.mark.parametrize("name", CASES)
async def test_worker_and_ledger_agree_on_every_worked_case(name: str) -> None:
    case = CASES[name]
    context, used = case["price_context"], case["usage"]
    raw: Mapping[str, Any] = {"server_tool_use": {"web_search_requests": used["web_search_requests"]}}
    if "speed" in context:
        raw = {**raw, "speed": context["speed"]}
    usage = Usage(
        used["input_tokens"],
        used["cache_read_tokens"],
        used["cache_write_by_ttl"],
        used["output_tokens"],
        service_tier=context.get("processing"),
        last_raw=raw,
    )
    at_ms = int(datetime.fromisoformat(case["priced_at"]).timestamp() * 1000)
    worker, ledger = await both(call(case["provider"], case["model"], usage, at_ms))
    assert worker == ledger
    assert (worker is None) == (case["expected"]["total_usd"] is None)


@pytest.mark.parametrize("path", ANSWERS, ids=lambda path: f"{path.parent.name}-{path.stem}")
async def test_worker_and_ledger_agree_on_every_recorded_answer(path: Any) -> None:
    dialect: Dialect = path.parent.name
    meter: Meter = METERS[dialect]()
    meter.see_body(path.read_bytes())
    worker, ledger = await both(call(dialect, meter.model or "none", meter.usage))
    assert worker == ledger


@pytest.mark.parametrize("provider", ["eu", "own", "nobody"])
async def test_worker_and_ledger_agree_on_an_operators_own_prices(provider: str) -> None:
    usage = Usage(2048, 1800, {"5m": 148, "1h": 100}, 503)
    worker, ledger = await both(call(provider, "claude-opus-5-5", usage), parse(OWN))
    assert worker == ledger
    assert (worker is None) == (provider == "nobody")


@pytest.mark.parametrize("usage", [None, Usage(input_tokens=10**8 + 1), Usage(last_raw={"iterations": 7})])
async def test_what_the_ledger_would_not_take_has_no_cost_and_nothing_raises(usage: Usage | None) -> None:
    made = call("anthropic", "claude-opus-5-5", usage)
    pricing = Pricing(())
    pricing.watch(made, MONEY)
    await pricing.ready(made)
    record = made.record("final", "completed")
    known = usage is not None and usage.input_tokens == 0
    assert record[record.index("cost") + 1] == (0 if known else "")


async def test_a_call_under_no_budget_in_money_is_not_priced() -> None:
    made = call("anthropic", "claude-opus-5-5", Usage(input_tokens=10))
    pricing = Pricing(())
    pricing.watch(made, "tokens")
    await pricing.ready(made)
    record = made.record("final", "completed")
    assert record[record.index("cost") + 1] == ""


def test_a_worker_without_such_calls_does_not_load_the_price_table() -> None:
    script = "import sys, workers.worker; print('genai_prices' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
