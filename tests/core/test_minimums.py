"""Minimum cacheable lengths: the table as published, and names as they come dressed."""

import pytest

from relay.core.minimums import DEFAULT, minimum_tokens


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("claude-opus-5-5", 512),
        ("claude-fable-5", 512),
        ("claude-haiku-5-5", 512),
        ("claude-opus-4-8", 1024),
        ("claude-sonnet-5", 1024),
        ("claude-sonnet-4-6", 1024),
        ("claude-mythos-preview", 2048),
        ("claude-opus-4-7", 2048),
        ("claude-opus-4-6", 4096),
        ("claude-haiku-4-5", 4096),
    ],
)
def test_the_published_table(model: str, tokens: int) -> None:
    assert minimum_tokens(model) == tokens


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("claude-haiku-4-5-20251001", 4096),
        ("claude-opus-4-20250514", 1024),
        ("claude-opus-4-6@20260205", 4096),
        ("us.anthropic.claude-opus-4-6-v1:0", 4096),
        ("anthropic/claude-opus-4.7", 2048),
        ("Claude-Haiku-4-5", 4096),
        ("claude-3-5-haiku-20241022", 2048),
        ("claude-3-haiku-20240307", 2048),
        ("claude-3-7-sonnet-latest", 1024),
    ],
)
def test_dates_prefixes_dots_and_the_old_word_order_do_not_hide_a_model(model: str, tokens: int) -> None:
    assert minimum_tokens(model) == tokens


@pytest.mark.parametrize("model", ["gpt-6.1-sol", "o4-mini", "claude-opus-4-9", "claude-fable-5-2", "", "opus"])
def test_a_model_the_table_does_not_list_has_the_default(model: str) -> None:
    assert minimum_tokens(model) == DEFAULT == 1024
