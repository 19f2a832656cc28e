"""The provider's bill equals the ledger's, though workers and ledgers are killed all the while; and if it did not, the
comparison would say so.

The small form of ``python -m tests.bench reconcile``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from relay.broker.usage_stream import FINAL, PARTIAL
from tests.bench.books import Books
from tests.bench.reconcile import Result, reconcile

# 20 s on a quiet machine, most of it the starts of processes.
pytestmark = pytest.mark.timeout(300)

CALLS, KILLS = 120, 10

Rows = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
async def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return await reconcile(tmp_path_factory.mktemp("reconcile"), CALLS, KILLS)


async def test_the_bills_agree_after_kills_of_workers_and_ledgers(result: Result) -> None:
    assert {law.text: law.broken for law in result.laws if law.broken} == {}
    assert result.ends.total() == CALLS
    assert result.kills.keys() == {"work", "ledger"}
    assert result.kills.total() == KILLS
    assert any(result.books.pairs(FINAL))


def lost(rows: Rows) -> None:
    del rows[first(rows, FINAL)]


def invented(rows: Rows) -> None:
    rows["0-nobody:1"] = rows[first(rows, FINAL)] | {"call": "0-nobody:1"}


def miscounted(rows: Rows) -> None:
    rows[first(rows, FINAL)]["cache_read_tokens"] += 1


def mispriced(rows: Rows) -> None:
    rows[first(rows, FINAL)]["output_cost"] += 1


def exaggerated(rows: Rows) -> None:
    rows[first(rows, FINAL)] |= {"kind": PARTIAL, "output_tokens": 10**6}


def first(rows: Rows, kind: str) -> str:
    return next(name for name, row in rows.items() if row["kind"] == kind and row["cost"])


@pytest.mark.parametrize(
    ("wrong", "law"),
    [
        (lost, "a row for every call the provider saw"),
        (invented, "a call for every row"),
        (miscounted, "final rows"),
        (exaggerated, "partial rows"),
        (mispriced, "to the nano-dollar"),
    ],
)
async def test_a_difference_is_seen(result: Result, wrong: Callable[[Rows], None], law: str) -> None:
    rows = {name: dict(row) for name, row in result.books.rows.items()}
    wrong(rows)
    books: Books = replace(result.books, rows=rows)
    assert any(law in each.text for each in books.reconcile() if each.broken)
