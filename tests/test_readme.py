"""What the README says is so: its tables come from the code, its commands and paths exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from relay import provider
from relay.broker.keys import TABLE
from relay.broker.usage_stream import FIELDS
from relay.core.job import STATUS
from relay.ingress.paths import PATHS
from relay.local import banner
from relay.settings import Settings, markdown_table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def rows(*cells: tuple[str, ...]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def test_the_settings_table_is_made_from_the_settings() -> None:
    assert markdown_table() in README


def test_the_table_of_a_providers_members_is_made_from_them() -> None:
    assert provider.markdown_table() in README


def test_the_table_of_redis_names_is_made_from_keys_py() -> None:
    assert rows(*((f"`{name.pattern}`", name.type, name.holds, name.expires) for name in TABLE)) in README


def test_the_table_of_usage_fields_is_made_from_the_record() -> None:
    assert rows(*((f"`{name}`", meaning) for name, meaning in FIELDS.items())) in README


def test_every_job_state_is_in_the_table_with_its_public_word() -> None:
    for state, status in STATUS.items():
        assert f"| `{state}` | `{status}` |" in README


@pytest.mark.parametrize("language", banner.SNIPPETS)
def test_the_calls_are_those_that_relay_up_prints(language: str) -> None:
    """tests/e2e/test_up.py runs them."""
    call = banner.SNIPPETS[language].format(url="http://127.0.0.1:8080", key="YOUR_KEY", model="claude-sonnet-4-6")
    assert call in README


def test_every_setting_it_names_exists() -> None:
    known = {f"RELAY_{name.upper()}" for name in Settings.model_fields} | {"RELAY_CONFIG"}
    named = set(re.findall(r"RELAY_[A-Z0-9_]+", README))
    assert named <= known | {f"{name}_FILE" for name in known}


def test_every_file_and_folder_it_names_exists() -> None:
    named = set(re.findall(r"`((?:relay|workers|tests|deploy)/[\w/.-]*|docker-compose\.yml)`", README))
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_native_endpoints_are_named() -> None:
    for path in PATHS:
        if path.startswith("/v1/"):
            assert f"POST {path}`" in README


def test_each_make_target_it_names_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:`|^)(?:[A-Z_]+=\S+ )*make ([a-z]+)", README, re.M)) <= targets
