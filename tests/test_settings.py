"""What an operator sets: sources and their order, clear errors, and secrets that stay secret."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relay.core.errors import NotFound
from relay.settings import Settings, SettingsError, load, markdown_table

CANARY = "canary-s3cret"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty directory, and no variable that means anything to us."""
    for name in list(os.environ):
        if name.startswith(("RELAY_", "ANTHROPIC_", "OPENAI_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def write(text: str, path: str = "relay.toml") -> Path:
    file = Path(path)
    file.write_text(text)
    return file.absolute()


def refused(**flags: str) -> str:
    """The message of a start that fails."""
    with pytest.raises(SettingsError) as caught:
        load(flags)
    message = str(caught.value)
    assert "\n" not in message
    return message


# -- sources ---------------------------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_operators_contract() -> None:
    settings = load()
    expected = {"host": "127.0.0.1", "port": 8080, "lease_s": 15, "first_byte_s": 120, "idle_s": 60, "total_s": 900}
    expected |= {"max_claims": 3, "body_limit_bytes": 33_554_432, "heartbeat_s": 15, "flush_ms": 5, "concurrency": 1000}
    expected |= {"log_ttl_s": 3600, "result_ttl_s": 86_400, "dead_ttl_s": 604_800, "partition": "0", "queue": "relay"}
    assert {name: getattr(settings, name) for name in expected} == expected
    assert settings.data_dir == Path.cwd() / ".relay"
    assert settings.workers >= 1


def test_a_flag_beats_a_variable_and_a_variable_beats_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write("port = 1\nworkers = 1\nconcurrency = 1\n")
    monkeypatch.setenv("RELAY_PORT", "2")
    monkeypatch.setenv("RELAY_WORKERS", "2")
    settings = load({"port": "3"})
    assert (settings.port, settings.workers, settings.concurrency) == (3, 2, 1)


def test_the_file_may_be_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_CONFIG", str(write("port = 9\n", "other.toml")))
    assert load().port == 9


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RELAY_PORT", "RELAY_API_KEY", "RELAY_CONFIG", "ANTHROPIC_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.setenv(name, "")
    settings = load()
    assert settings.port == 8080
    assert settings.api_key is None
    assert settings.sandbox


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().port = 1  # type: ignore[misc]


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("RELAY_PORT", "99999", "less than or equal to 65535, not '99999'"),
        ("RELAY_PORT", "http", "valid integer"),
        ("RELAY_LEASE_S", "0", "greater than 0"),
        ("RELAY_LEASE_S", "-1", "greater than 0"),
        ("RELAY_LEASE_S", "nan", "not 'nan'"),
        ("RELAY_IDLE_S", "inf", "less than or equal to 3600"),
        ("RELAY_TOTAL_S", "1e9", "less than or equal to 3600"),
        ("RELAY_LOG_TTL_S", "1e9", "less than or equal to"),
        ("RELAY_CONCURRENCY", "0", "greater than or equal to 1"),
        ("RELAY_BODY_LIMIT_BYTES", "1e12", "valid integer"),
        ("RELAY_LOG_LEVEL", "loud", "'info'"),
        ("RELAY_QUEUE", "a b", "match"),
        ("RELAY_PARTITION", "}", "match"),
        ("RELAY_REDIS_URL", "localhost:6379", "must be redis://"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_setting(
    variable: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    message = refused()
    assert message.startswith(f"{variable}: ")
    assert says in message


def test_a_setting_is_named_as_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    file = write("port = 0x10000\n")
    assert refused().startswith(f"{file.name}: port: ")
    monkeypatch.setenv("RELAY_PORT", "x")
    assert refused().startswith("RELAY_PORT: ")
    assert refused(port="x").startswith("--port: ")


def test_every_bad_value_is_named() -> None:
    message = refused(port="x", lease_s="y")
    assert "--port" in message
    assert "--lease-s" in message


def test_an_unknown_variable_is_an_error_with_a_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_CONCURENCY", "5")
    assert refused() == "RELAY_CONCURENCY: there is no such setting; did you mean RELAY_CONCURRENCY?"


@pytest.mark.parametrize("name", ["RELAY_PROVIDERS", "RELAY_MODELS", "RELAY_PORT_FILE", "relay_prot"])
def test_what_cannot_be_a_variable_is_unknown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "{}")
    assert refused().startswith(f"{name}: there is no such setting")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prot = 1", "relay.toml: prot: there is no such setting; did you mean port?"),
        (
            "[providers.a]\ndialect = 'openai'\nbaseurl = ''",
            "providers.a.baseurl: there is no such setting; did you mean base_url?",
        ),
        ("[providers.a]\ndialect = 'klingon'", "relay.toml: providers.a.dialect: "),
        ("[providers.a]\nmodels = ['x']", "relay.toml: providers.a.dialect: "),
        ("[providers.A]\ndialect = 'openai'", "relay.toml: providers.A.name: "),
        ("providers = 5", "relay.toml: providers: "),
        ("[providers]\na = 5", "relay.toml: providers.a: "),
        ("models = 5", "relay.toml: models: "),
        ("[models]\nfast = 'nobody/x'", "alias 'fast'"),
        ("[models]\nfast = []", "alias 'fast' has no target"),
        ("port = ", "relay.toml: "),
        ("[providers.a]\ndialect = 'openai'\nidle_s = 0", "relay.toml: providers.a.idle_s: "),
    ],
)
def test_a_bad_file_is_one_line_that_names_the_member(text: str, says: str) -> None:
    write(text)
    assert says in refused()


def test_a_file_that_is_named_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_CONFIG", "gone.toml")
    assert refused() == "RELAY_CONFIG: there is no file gone.toml"


# -- secrets ---------------------------------------------------------------------------------------------------------


def test_secrets_may_come_from_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_API_KEY_FILE", str(write(f"{CANARY}\n", "key")))
    monkeypatch.setenv("RELAY_REDIS_URL_FILE", str(write("redis://:pw@redis:6379/1\n", "url")))
    monkeypatch.setenv("ANTHROPIC_API_KEY_FILE", str(write(f" {CANARY}-a \n", "anthropic")))
    settings = load()
    assert settings.api_key and settings.api_key.get_secret_value() == CANARY
    assert settings.redis_url == "redis://:pw@redis:6379/1"
    secret = settings.providers["anthropic"].secret()
    assert secret and secret.get_secret_value() == f"{CANARY}-a"


@pytest.mark.parametrize("name", ["RELAY_API_KEY", "RELAY_REDIS_URL", "ANTHROPIC_API_KEY", "OPENAI_API_KEY"])
def test_a_secret_given_twice_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv(f"{name}_FILE", str(write(CANARY, "file")))
    message = refused()
    assert message == f"{name} and {name}_FILE are both set; unset one of them"


def test_a_secret_file_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_API_KEY_FILE", "gone")
    assert "gone" in refused()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RELAY_API_KEY", f"{CANARY}\r\nx: y"),
        ("RELAY_API_KEY", f"{CANARY}é"),
        ("RELAY_REDIS_URL", f"http://:{CANARY}@redis"),
        ("ANTHROPIC_BASE_URL", f"https://user:{CANARY}@host"),
        ("ANTHROPIC_BASE_URL", f"https://host/?key={CANARY}"),
    ],
)
def test_an_error_never_shows_a_secret(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    message = refused()
    assert message.startswith(f"{variable}: ")
    assert "canary" not in message


@pytest.mark.parametrize("value", [f"{CANARY}\x00", f"{CANARY}\x7f", f"{CANARY}ü", f"{CANARY}\nx: y", " "])
def test_an_unusable_provider_key_is_found_at_the_start_and_not_shown(value: str) -> None:
    write(value, "key")
    write("[providers.anthropic]\napi_key = 'file:key'\n")
    with pytest.raises(SettingsError) as caught:
        load().check_secrets()
    assert str(caught.value).startswith("provider anthropic: key ")
    assert "canary" not in str(caught.value)


def test_a_key_written_into_the_file_is_refused_with_advice() -> None:
    write(f"[providers.anthropic]\napi_key = '{CANARY}'\n")
    message = refused()
    assert 'must be "env:VARIABLE" or "file:PATH"' in message
    assert "canary" not in message


def test_a_printed_settings_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RELAY_API_KEY", "RELAY_SANDBOX_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv("RELAY_REDIS_URL", f"redis://:{CANARY}@redis:6379/0")
    monkeypatch.setenv("RELAY_LEDGER_URL", f"postgresql://relay:{CANARY}@db/relay")
    assert "canary" not in f"{load()} {load()!r}"


# -- providers -------------------------------------------------------------------------------------------------------


def test_with_no_provider_the_sandbox_stands_in_for_both() -> None:
    settings = load({"sandbox_port": "9999"})
    assert settings.sandbox
    assert {name: provider.url("x") for name, provider in settings.providers.items()} == {
        "anthropic": "http://127.0.0.1:9999/v1/x",
        "openai": "http://127.0.0.1:9999/v1/x",
    }
    secret = settings.providers["anthropic"].secret()
    assert secret and secret.get_secret_value() == settings.sandbox_key.get_secret_value()
    assert settings.router().resolve("anthropic/claude-sonnet-4-6")[0].provider == "anthropic"
    with pytest.raises(NotFound):
        settings.router().resolve("anthropic/no-such-model")


def test_a_key_alone_configures_the_real_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", f"{CANARY}\n")
    settings = load()
    assert not settings.sandbox
    assert list(settings.providers) == ["anthropic"]
    provider = settings.providers["anthropic"]
    assert provider.url("messages") == "https://api.anthropic.com/v1/messages"
    secret = provider.secret()
    assert secret and secret.get_secret_value() == CANARY


def test_an_address_alone_configures_a_server_without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:11434/v1")
    provider = load().providers["openai"]
    assert provider.secret() is None
    assert load().router().resolve("openai/llama3")[0].model == "llama3"


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("https://api.anthropic.com", "https://api.anthropic.com/v1/messages"),
        ("https://api.anthropic.com/", "https://api.anthropic.com/v1/messages"),
        ("https://api.anthropic.com/v1", "https://api.anthropic.com/v1/messages"),
        ("https://api.anthropic.com/v1/", "https://api.anthropic.com/v1/messages"),
        ("http://127.0.0.1:9100", "http://127.0.0.1:9100/v1/messages"),
        ("http://[::1]:9100/proxy", "http://[::1]:9100/proxy/v1/messages"),
        ("https://host/v1beta/openai/", "https://host/v1beta/openai/messages"),
    ],
)
def test_an_address_is_the_same_with_and_without_its_version(
    given: str, used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", given)
    assert load().providers["anthropic"].url("messages") == used


@pytest.mark.parametrize(
    "url", ["ftp://host", "host", "https://", "https://host:port", "https://host/#x", "file:///etc"]
)
def test_an_address_that_is_none_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    assert refused().startswith("OPENAI_BASE_URL: ")


def test_the_relay_is_not_its_own_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://localhost:8080")
    assert "is this relay itself" in refused()
    assert load({"port": "8081"})


def test_a_provider_of_the_file_takes_its_limits_from_the_relay_unless_it_has_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EU_KEY", CANARY)
    write(
        """
        idle_s = 7
        [providers.eu]
        dialect = "anthropic"
        base_url = "https://eu.example.com"
        api_key = "env:EU_KEY"
        models = ["claude-sonnet-4-6", "claude-haiku-*"]
        headers = { X-Team = "search", X-Api-Version = "env:EU_KEY" }
        first_byte_s = 300
        concurrency = 20
        [models]
        fast = "eu/claude-haiku-5-5"
        good = ["eu/claude-sonnet-4-6", "eu/claude-haiku-5-5"]
        """
    )
    settings = load()
    eu = settings.providers["eu"]
    assert (eu.name, eu.idle_s, eu.first_byte_s, eu.total_s, eu.concurrency) == ("eu", 7, 300, 900, 20)
    assert eu.static_headers() == {"x-team": "search", "x-api-version": CANARY}
    assert eu.secret_variables == {"EU_KEY"}
    assert eu.input_tokens_semantics == "exclusive"
    assert eu.anthropic_version == "2023-06-01"
    assert [target.model for target in settings.router().resolve("good")] == ["claude-sonnet-4-6", "claude-haiku-5-5"]
    with pytest.raises(NotFound):
        settings.router().resolve("eu/claude-opus-5")


def test_variables_and_file_describe_one_provider_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", CANARY)
    write("[providers.anthropic]\nmodels = 'claude-haiku-*'\napi_key = 'env:NOT_THIS_ONE'\n")
    provider = load().providers["anthropic"]
    assert provider.models == ("claude-haiku-*",)
    secret = provider.secret()
    assert secret and secret.get_secret_value() == CANARY


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ("{ Authorization = 'Bearer canary' }", 'must be "env:VARIABLE"'),
        ("{ x-api-key = 'canary' }", 'must be "env:VARIABLE"'),
        ("{ Host = 'example.com' }", "host is set by the relay itself"),
        ("{ Content-Length = '5' }", "content-length is set by the relay itself"),
        ("{ 'a b' = 'c' }", "'a b' is not a header name"),
        ('{ x-a = "canary\\r\\nx: y" }', "x-a has control or non-ASCII characters"),
    ],
)
def test_headers_that_would_do_harm_are_refused(headers: str, says: str) -> None:
    write(f"[providers.anthropic]\nheaders = {headers}\n")
    message = refused()
    assert says in message
    assert "canary" not in message


# -- documentation ---------------------------------------------------------------------------------------------------


def test_every_setting_is_explained_in_the_table() -> None:
    table = markdown_table()
    for name, field in Settings.model_fields.items():
        if name not in ("providers", "models"):
            assert field.description and field.description.endswith(".")
            assert f"| `RELAY_{name.upper()}`" in table
    for name in ("ANTHROPIC_API_KEY", "OPENAI_BASE_URL", "RELAY_CONFIG"):
        assert f"`{name}`" in table
