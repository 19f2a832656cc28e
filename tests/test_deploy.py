"""The recipes in ``deploy/``, the compose file and the Makefile say what is so.

No container is built here, that needs a Docker daemon; the compose file is held against the Compose Specification's own
schema, and everything a recipe names is looked up.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft201909Validator

from relay.settings import load
from tests.support.processes import clean_environment

ROOT = Path(__file__).parent.parent
SCHEMA = ROOT / "tests" / "fixtures" / "compose-spec" / "compose-spec.json"
MONITORING = ROOT / "deploy" / "prometheus"
RECIPES = sorted((ROOT / "deploy").glob("*.Dockerfile"))
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = ("console", "ingress", "ledger", "worker")


def instructions(recipe: Path) -> list[tuple[str, str]]:
    """A Dockerfile's instructions, of its last stage only where it matters who runs."""
    text = re.sub(r"\\\n\s*", "", recipe.read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def last_stage(recipe: Path) -> dict[str, str]:
    found = instructions(recipe)
    begin = max(place for place, (word, _) in enumerate(found) if word == "FROM")
    return dict(found[begin:])


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(s|m)", text).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "m": 60}[unit]


# -- images ----------------------------------------------------------------------------------------------------------


def test_there_is_a_recipe_for_each_process() -> None:
    assert [recipe.name for recipe in RECIPES] == [f"{name}.Dockerfile" for name in OURS]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_an_image_does_not_run_as_root(recipe: Path) -> None:
    user = last_stage(recipe)["USER"]
    assert user.isdigit() and int(user) > 0  # a number, so that Kubernetes' runAsNonRoot can tell


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_an_image_runs_and_checks_itself_with_commands_that_exist(recipe: Path) -> None:
    stage = last_stage(recipe)
    for command in (json.loads(stage["CMD"]), json.loads(stage["HEALTHCHECK"].partition("CMD ")[2])):
        assert command[0] == "relay"
        done = subprocess.run(
            [sys.executable, "-m", "relay", *command[1:2], "--help"], capture_output=True, env=clean_environment()
        )
        assert done.returncode == 0
    assert stage["HEALTHCHECK"].endswith(f'["relay", "health", "{recipe.stem}"]')


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_what_an_image_is_made_of_exists_and_reaches_the_builder(recipe: Path) -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for word, rest in instructions(recipe):
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists()
                assert source in sent


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_an_images_environment_is_made_of_settings(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare(monkeypatch)
    for pair in last_stage(recipe)["ENV"].split():
        name, _, value = pair.partition("=")
        if name.startswith("RELAY_"):
            monkeypatch.setenv(name, value)
    load()


# -- compose ---------------------------------------------------------------------------------------------------------


def test_the_compose_file_follows_the_specification() -> None:
    validator = Draft201909Validator(json.loads(SCHEMA.read_text()))
    assert [error.message for error in validator.iter_errors(COMPOSE)] == []


def test_the_check_would_notice_a_mistake() -> None:
    validator = Draft201909Validator(json.loads(SCHEMA.read_text()))
    wrong = COMPOSE | {"services": SERVICES | {"ingress": SERVICES["ingress"] | {"portz": []}}}
    assert list(validator.iter_errors(wrong))


@pytest.mark.parametrize("name", OURS)
def test_a_service_is_built_from_its_recipe(name: str) -> None:
    assert (ROOT / SERVICES[name]["build"]["dockerfile"]).name == f"{name}.Dockerfile"


@pytest.mark.parametrize("name", OURS)
def test_a_service_starts_with_settings_that_work(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare(monkeypatch)
    monkeypatch.chdir(tmp_path)
    held = {"redis_url": "redis://:pw@redis:6379/0", "relay_api_key": "key", "anthropic_api_key": "sk-ant-x"}
    for variable, value in SERVICES[name]["environment"].items():
        if value.startswith("/run/secrets/"):
            secret = value.removeprefix("/run/secrets/")
            assert secret in SERVICES[name]["secrets"]
            value = str(tmp_path / secret)
            Path(value).write_text(held[secret])
        monkeypatch.setenv(variable, value)
    settings = load()
    settings.check_secrets()
    assert settings.redis_url == held["redis_url"]
    assert list(settings.providers) == ["anthropic"]
    assert not settings.sandbox
    assert seconds(SERVICES[name]["stop_grace_period"]) >= settings.drain_s + 10


def test_secrets_are_files_and_nowhere_else() -> None:
    assert all(set(secret) == {"file"} for secret in COMPOSE["secrets"].values())
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
    assert used == set(COMPOSE["secrets"])
    assert "anthropic_api_key" not in SERVICES["ingress"]["secrets"]
    for name in OURS:
        for variable in SERVICES[name]["environment"]:
            assert not variable.endswith(("_KEY", "_URL")) or variable == "ANTHROPIC_BASE_URL"


def test_redis_keeps_what_was_accepted() -> None:
    redis = SERVICES["redis"]
    script = redis["command"][-1]
    for option in ("--appendonly yes", "--appendfsync everysec", "--maxmemory-policy noeviction"):
        assert option in script
    assert "redis:/data" in redis["volumes"]
    assert redis["healthcheck"]["test"]
    # 8.6.3 is the first with every fix we know to concern Lua scripts.
    version = tuple(map(int, re.findall(r"\d+", redis["image"])[:3]))
    assert version >= (8, 6, 3)
    assert "ports" not in redis


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_has_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["read_only"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_door_is_open_to_this_machine_only() -> None:
    assert all(port.startswith("127.0.0.1:") for name in ("ingress", "console") for port in SERVICES[name]["ports"])


# -- monitoring; that the names asked for exist is held in tests/e2e/test_metrics.py ---------------------------------


def test_prometheus_asks_each_process_at_the_port_it_has() -> None:
    asked = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    for job in asked["scrape_configs"]:
        [finder] = job["dns_sd_configs"]
        [name] = finder["names"]
        assert job["job_name"] == f"relay-{name}"
        stage = last_stage(ROOT / "deploy" / f"{name}.Dockerfile")
        assert stage["EXPOSE"] == str(finder["port"])
        if name == "worker":
            assert f"RELAY_METRICS_PORT={finder['port']}" in stage["ENV"].split()
        if credentials := job.get("authorization"):
            path = credentials["credentials_file"]
            assert path.removeprefix("/run/secrets/") in SERVICES["prometheus"]["secrets"]
    assert all((MONITORING / name).is_file() for name in asked["rule_files"])


def test_every_alert_says_how_bad_it_is_and_what_it_means() -> None:
    [group] = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]:
        assert rule["expr"]
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("page", "warn")
            assert rule["annotations"]["summary"].endswith(".")


def test_the_dashboard_has_a_place_for_every_panel() -> None:
    panels = json.loads((ROOT / "deploy" / "grafana" / "relay.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 10
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)


# -- make ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["install", "up", "lint", "test", "bench", "clean"])
def test_make_knows_its_targets(target: str) -> None:
    done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_make_says_which_python_it_needs(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2"\nexit 1\n')
    old.chmod(0o755)
    command = ["make", "-f", str(ROOT / "Makefile"), "-C", str(tmp_path), "install", f"PYTHON={old}"]
    (tmp_path / "pyproject.toml").write_text("")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr
    assert "Python 3.9.2" in done.stderr


def test_ci_runs_lint_and_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert re.findall(r"^make (\w+)$", script.read_text(), re.M) == ["lint", "test"]


def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable that means anything to the relay."""
    for name in list(os.environ):
        if name.startswith(("RELAY_", "ANTHROPIC_", "OPENAI_")):
            monkeypatch.delenv(name)
