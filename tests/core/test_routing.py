"""Model names and the targets they stand for."""

from __future__ import annotations

import pytest

from relay.core.errors import NotFound
from relay.core.routing import KNOWN_MODELS, Router, Served, Target

ANTHROPIC = Served("anthropic", ("claude-*",), any_prefixed=True)
OPENAI = Served("openai", ("gpt-*", "o3*"), any_prefixed=True)


def test_a_bare_name_goes_to_the_provider_whose_glob_it_matches() -> None:
    router = Router({"anthropic": ANTHROPIC, "openai": OPENAI})
    assert router.resolve("claude-sonnet-4-6") == (Target("anthropic", "anthropic", "claude-sonnet-4-6"),)
    assert router.resolve("o3-mini") == (Target("openai", "openai", "o3-mini"),)


def test_a_prefix_names_the_provider_and_is_cut_off() -> None:
    router = Router({"anthropic": ANTHROPIC, "eu": Served("anthropic", ("claude-*",))})
    assert router.resolve("eu/claude-opus-5-5") == (Target("eu", "anthropic", "claude-opus-5-5"),)


def test_a_slash_before_no_known_provider_belongs_to_the_model_name() -> None:
    router = Router({"anthropic": ANTHROPIC, "local": Served("openai", ("meta/*",))})
    assert router.resolve("meta/llama-3") == (Target("local", "openai", "meta/llama-3"),)
    assert router.resolve("local/meta/llama-3") == (Target("local", "openai", "meta/llama-3"),)


def test_a_prefixed_name_passes_a_default_list_but_not_a_configured_one() -> None:
    router = Router({"openai": OPENAI, "cheap": Served("openai", ("gpt-*-mini",))})
    assert router.resolve("openai/whatever-comes-next") == (Target("openai", "openai", "whatever-comes-next"),)
    with pytest.raises(NotFound):
        router.resolve("cheap/gpt-5")


@pytest.mark.parametrize("first", ["broad", "narrow"])
def test_the_closest_match_wins_whatever_the_order(first: str) -> None:
    served = {"broad": Served("anthropic", ("*",)), "narrow": Served("anthropic", ("claude-haiku-*",))}
    providers = {first: served[first]} | served | {"exact": Served("anthropic", ("claude-haiku-5-5",))}
    router = Router(providers)
    assert router.resolve("claude-haiku-5-5")[0].provider == "exact"
    assert router.resolve("claude-haiku-4-5")[0].provider == "narrow"
    assert router.resolve("mistral")[0].provider == "broad"


def test_of_equal_matches_the_first_configured_wins() -> None:
    router = Router({"a": Served("anthropic", ("claude-*",)), "b": Served("anthropic", ("claude-*",))})
    assert router.resolve("claude-opus-5")[0].provider == "a"


def test_an_alias_gives_its_targets_in_order() -> None:
    router = Router(
        {"anthropic": ANTHROPIC, "openai": OPENAI}, {"fast": ["openai/gpt-5", "anthropic/claude-haiku-5-5"]}
    )
    assert router.resolve("fast") == (
        Target("openai", "openai", "gpt-5"),
        Target("anthropic", "anthropic", "claude-haiku-5-5"),
    )


def test_an_alias_may_hide_a_model_of_the_same_name() -> None:
    router = Router({"anthropic": ANTHROPIC}, {"claude-opus-5": ["anthropic/claude-sonnet-5"]})
    assert router.resolve("claude-opus-5")[0].model == "claude-sonnet-5"


@pytest.mark.parametrize("target", ["nobody/claude-opus-5", "claude-opus-5", "anthropic/", ""])
def test_an_alias_for_something_unknown_is_refused_at_once(target: str) -> None:
    with pytest.raises(ValueError, match="alias 'fast'"):
        Router({"anthropic": ANTHROPIC}, {"fast": [target]})


def test_an_alias_for_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="has no target"):
        Router({"anthropic": ANTHROPIC}, {"fast": []})


@pytest.mark.parametrize("model", ["nope", "Claude-opus-5", "", "nobody/claude-opus-5", "anthropic/", "/claude-opus-5"])
def test_an_unknown_model_is_not_found_and_the_error_says_what_there_is(model: str) -> None:
    router = Router({"anthropic": ANTHROPIC}, {"fast": ["anthropic/claude-haiku-5-5"]})
    with pytest.raises(NotFound) as caught:
        router.resolve(model)
    assert repr(model) in caught.value.message
    assert "fast, claude-*" in caught.value.message
    assert caught.value.param == "model"


def test_a_huge_model_name_does_not_make_a_huge_error() -> None:
    providers = {f"p{n}": Served("openai", (f"model-{n}",)) for n in range(100)}
    with pytest.raises(NotFound) as caught:
        Router(providers).resolve("x" * 10_000)
    assert len(caught.value.message) < 400


def test_signs_of_regular_expressions_mean_nothing_in_a_glob() -> None:
    router = Router({"local": Served("openai", ("llama3.1:8b", "qwen(2)*"))})
    assert router.resolve("llama3.1:8b")
    assert router.resolve("qwen(2)-coder")
    with pytest.raises(NotFound):
        router.resolve("llama3x1:8b")


def test_the_list_has_aliases_configured_names_and_what_a_glob_is_known_to_cover() -> None:
    router = Router(
        {"anthropic": ANTHROPIC, "local": Served("openai", ("llama3", "own-*"))},
        {"fast": ["anthropic/claude-haiku-5-5"]},
    )
    listed = {model.id: model.provider for model in router.models()}
    assert listed == {"fast": "anthropic", "llama3": "local"} | dict.fromkeys(KNOWN_MODELS["anthropic"], "anthropic")


def test_everything_listed_resolves_to_the_provider_it_is_listed_for() -> None:
    router = Router({"anthropic": ANTHROPIC, "openai": OPENAI}, {"fast": ["openai/gpt-5"]})
    for model in router.models():
        assert router.resolve(model.id)[0].provider == model.provider
        assert router.resolve(model.id)[0].dialect == model.dialect
