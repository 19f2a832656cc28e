"""The ledger as its readers see it: there before the first record, and plain about a database that is away."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from relay.core.errors import InvalidRequest, Unavailable
from relay.ledger.queries import Filter, rows, summary
from relay.ledger.reading import Reading, answers
from relay.settings import load


def test_a_reader_may_come_before_the_first_ledger(ledger_url: str) -> None:
    reading = Reading(load({"ledger_url": ledger_url}))
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(reading.ask, lambda connection: summary(connection, Filter(), [])) for _ in range(20)]
        assert [each.result() for each in asked] == [[]] * 20
    reading.close()


def test_a_value_no_database_takes_is_the_askers_mistake(ledger_url: str) -> None:
    reading = Reading(load({"ledger_url": ledger_url}))
    wanted = Filter(any_of={"app": ["a\0b"]})
    if ledger_url.startswith("postgresql"):
        with pytest.raises(InvalidRequest):
            reading.ask(lambda connection: rows(connection, wanted))
    else:
        assert reading.ask(lambda connection: rows(connection, wanted)).rows == []
    reading.close()


def test_a_database_that_is_away_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite3").mkdir()
    reading = Reading(load({"data_dir": str(tmp_path)}))
    with pytest.raises(Unavailable, match="database cannot be reached"):
        reading.ask(answers)
    reading.close()
