"""Tokens, digests and steps of a prompt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.sandbox.prompt import Block, block_prefixes, canonical, step_prefixes, tokens_in, tokens_of
from relay.sandbox.refusal import Refusal

texts = st.binary(max_size=6000)


@pytest.mark.parametrize(("size", "tokens"), [(0, 1), (1, 1), (4, 1), (5, 2), (400, 100)])
def test_a_token_is_four_bytes_and_a_block_has_at_least_one(size: int, tokens: int) -> None:
    assert tokens_of(b"x" * size) == tokens


def test_white_space_escapes_and_markers_do_not_change_what_is_cached() -> None:
    plain = {"type": "text", "text": "é"}
    assert canonical(plain) == "é".encode()
    assert canonical({**plain, "cache_control": {"type": "ephemeral"}}, "cache_control") == canonical(plain)


def test_member_order_is_content() -> None:
    assert canonical({"a": 1, "b": 2}) != canonical({"b": 2, "a": 1})


def test_nesting_the_canonical_form_cannot_hold_is_refused() -> None:
    deep: dict[str, object] = {}
    for _ in range(300):
        deep = {"a": deep}
    with pytest.raises(Refusal, match="nested too deeply"):
        canonical(deep)


def test_a_text_moved_across_a_block_border_is_another_prompt() -> None:
    one = block_prefixes(b"", [Block(b"user", b"ab"), Block(b"user", b"c")])
    other = block_prefixes(b"", [Block(b"user", b"a"), Block(b"user", b"bc")])
    assert one[-1].digest != other[-1].digest


def test_section_and_scope_are_part_of_the_digest() -> None:
    digests = {
        block_prefixes(scope, [Block(place, b"x")])[0].digest
        for scope in (b"one key", b"another")
        for place in (b"system", b"user")
    }
    assert len(digests) == 4


@given(st.lists(texts, max_size=4), texts)
def test_what_is_appended_leaves_every_earlier_prefix_alone(contents: list[bytes], more: bytes) -> None:
    before = [Block(b"user", content) for content in contents]
    after = [*before, Block(b"user", more)]
    assert block_prefixes(b"k", after)[: len(before)] == block_prefixes(b"k", before)
    steps = step_prefixes(b"k", before)
    assert step_prefixes(b"k", after)[: len(steps)] == steps


@given(st.lists(texts, max_size=4))
def test_steps_start_at_1024_go_by_128_and_never_exceed_the_prompt(contents: list[bytes]) -> None:
    blocks = [Block(b"user", content) for content in contents]
    tokens = [step.tokens for step in step_prefixes(b"k", blocks)]
    assert tokens == list(range(1024, 1024 + 128 * len(tokens), 128))
    assert not tokens or tokens[-1] <= tokens_in(blocks)
    assert sum(map(len, contents)) // 4 < 1024 + 128 * len(tokens)


def test_steps_end_with_the_largest_window_on_sale() -> None:
    steps = step_prefixes(b"k", [Block(b"user", bytes(5 << 20))])
    assert steps[-1].tokens == 1 << 20
