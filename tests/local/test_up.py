"""What ``relay up`` decides before anything runs: which programs, and what each of them may know."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from relay.local import up
from relay.local.banner import SNIPPETS, banner, snippets
from relay.local.data_dir import DataDir
from relay.local.supervisor import Program
from relay.settings import Settings, SettingsError, load

PLAN = up.Plan("unix://:redis-pw@/x", 8123, "the-api-key", 8124, "sandbox-canary", 8125)


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("RELAY_", "ANTHROPIC_", "OPENAI_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def planned(**flags: str) -> dict[str, Program]:
    return {program.name: program for program in up.programs(load(flags), PLAN, os.environ)}


def seen_by(program: Program, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings a program will find."""
    with monkeypatch.context() as patch:
        for name in list(os.environ):
            patch.delenv(name)
        for name, value in program.environment.items():
            patch.setenv(name, value)
        return load()


def test_without_a_provider_there_is_a_sandbox_and_the_workers_know_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = planned(workers="2")
    assert list(programs) == ["sandbox", "worker-1", "worker-2", "ledger", "console", "ingress"]
    for name in ("sandbox", "worker-2"):
        settings = seen_by(programs[name], monkeypatch)
        assert (settings.sandbox_port, settings.sandbox_key.get_secret_value()) == (8124, "sandbox-canary")
    assert "sandbox-canary" not in str(programs["ingress"].environment)


def test_with_a_provider_there_is_no_sandbox_and_only_workers_hold_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "canary-1")
    monkeypatch.setenv("EU_KEY", "canary-2")
    Path("relay.toml").write_text("[providers.eu]\ndialect = 'anthropic'\napi_key = 'env:EU_KEY'\n")
    programs = planned(workers="1")
    assert list(programs) == ["worker-1", "ledger", "console", "ingress"]

    worker = seen_by(programs["worker-1"], monkeypatch)
    assert {name for name, value in programs["worker-1"].environment.items() if "canary" in value} == {
        "ANTHROPIC_API_KEY",
        "EU_KEY",
    }
    assert "canary" not in str(programs["ingress"].environment)
    ingress = seen_by(programs["ingress"], monkeypatch)
    assert not ingress.sandbox
    assert ingress.router().models() == worker.router().models()


def test_only_the_ingress_knows_the_api_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_API_KEY_FILE", "key")
    Path("key").write_text("the-api-key")
    programs = planned(workers="1")
    assert [name for name, program in programs.items() if "the-api-key" in program.environment.values()] == ["ingress"]
    assert not any("RELAY_API_KEY_FILE" in program.environment for program in programs.values())


def test_only_ledger_and_console_know_the_address_of_their_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_LEDGER_URL_FILE", "url")
    Path("url").write_text("postgresql://u:p@h/books")
    programs = planned(workers="1")
    assert [name for name, program in programs.items() if "h/books" in str(program.environment)] == [
        "ledger",
        "console",
    ]
    assert seen_by(programs["ledger"], monkeypatch).ledger_url == "postgresql://u:p@h/books"


def test_a_flag_reaches_every_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_LEASE_S", "20")
    for program in planned(workers="1", lease_s="3", drain_s="4").values():
        settings = seen_by(program, monkeypatch)
        assert (settings.lease_s, settings.drain_s, settings.redis_url) == (3, 4, PLAN.redis_url)


def test_nothing_secret_is_on_a_command_line() -> None:
    for program in planned().values():
        for secret in ("redis-pw", "the-api-key", "sandbox-canary"):
            assert secret not in " ".join(program.command)


def test_a_program_may_take_its_drain_time_and_some_more_to_stop() -> None:
    programs = planned(drain_s="60", workers="1")
    assert programs["worker-1"].stop_s > 60
    assert programs["ingress"].stop_s > 60


def test_a_given_key_wins_over_the_one_kept_and_is_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    directory = DataDir(tmp_path)
    made = up.make_plan(load({"port": "0"}), directory, "redis://x").api_key
    assert made.startswith("rk_")
    monkeypatch.setenv("RELAY_API_KEY", "given")
    assert up.make_plan(load({"port": "0"}), directory, "redis://x").api_key == "given"
    monkeypatch.delenv("RELAY_API_KEY")
    assert up.make_plan(load({"port": "0"}), directory, "redis://x").api_key == made


def test_the_sandbox_gets_a_new_key_each_time_unless_one_is_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plans = [up.make_plan(load({"port": "0"}), DataDir(tmp_path), "redis://x") for _ in range(2)]
    assert plans[0].sandbox_key != plans[1].sandbox_key
    monkeypatch.setenv("RELAY_SANDBOX_KEY", "mine")
    monkeypatch.setenv("RELAY_SANDBOX_PORT", "8999")
    plan = up.make_plan(load({"port": "0"}), DataDir(tmp_path), "redis://x")
    assert (plan.sandbox_key, plan.sandbox_port) == ("mine", 8999)


def test_a_taken_port_is_a_clear_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SettingsError, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use"):
            up.make_plan(load({"port": str(port)}), DataDir(tmp_path), "redis://x")


def test_an_address_of_another_machine_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot listen on 192\.0\.2\.1"):
        up.make_plan(load({"host": "192.0.2.1"}), DataDir(tmp_path), "redis://x")


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:80"), ("0.0.0.0", "http://127.0.0.1:80"), ("::", "http://[::1]:80")],
)
def test_the_base_url_is_one_to_connect_to(host: str, url: str) -> None:
    assert up.base_url(host, 80) == url


def test_the_banner_has_all_one_needs_to_begin() -> None:
    text = banner(load(), "http://127.0.0.1:8123", "the-api-key", "http://127.0.0.1:8124/dashboard")
    assert text.count("http://127.0.0.1:8123") == 1 + len(SNIPPETS)
    assert text.count("the-api-key") == 1 + len(SNIPPETS)
    assert "the sandbox" in text


def test_the_calls_name_a_model_that_is_there() -> None:
    assert "claude-sonnet-4-6" in snippets(load(), "u", "k")["Python"]
    Path("relay.toml").write_text("[providers.eu]\ndialect = 'anthropic'\nmodels = ['our-own']\n")
    assert all("our-own" in text for text in snippets(load(), "u", "k").values())
