"""Files of calls: what a spreadsheet would compute is only text there, and JSON has all as it is."""

from __future__ import annotations

import csv
import json
from io import StringIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.console import export
from relay.console.usage_views import CALL
from relay.ledger.tables import calls


def row(**values: Any) -> dict[str, Any]:
    return {column.name: None for column in calls.c} | {"content": None, "started_ms": 0} | values


def table(*rows: dict[str, Any]) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO((export.head("csv") + export.lines("csv", rows)).decode(), newline="")))


def test_the_columns_are_a_calls_members() -> None:
    assert export.head("csv").decode().strip().split(",") == list(CALL)
    assert export.head("jsonl") == b""


@pytest.mark.parametrize("formula", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_formula_is_only_text(formula: str) -> None:
    assert table(row(app=formula))[0]["app"] == f"'{formula}"
    assert json.loads(export.lines("jsonl", [row(app=formula)]))["app"] == formula


def test_a_number_below_zero_stays_a_number() -> None:
    assert table(row(net_saved=-5))[0]["net_saved_nano_usd"] == "-5"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives(text: str) -> None:
    [found] = table(row(user=text))
    assert found["user"].removeprefix("'") == text.removeprefix("'")
    assert json.loads(export.lines("jsonl", [row(user=text)]))["user"] == text
