"""Where Anthropic takes a breakpoint and where it does not: every request fixture, and the rules behind them."""

import json
from pathlib import Path
from typing import Any

import pytest

from relay.sandbox.anthropic_request import read
from relay.sandbox.markers import TTL_S
from relay.sandbox.refusal import Refusal

FIXTURES = Path(__file__).parent / "fixtures/requests/anthropic"
HEADERS = {"anthropic-version": "2023-06-01"}


def fixtures(kind: str) -> list[Any]:
    return [pytest.param(json.loads(path.read_text()), id=path.stem) for path in sorted((FIXTURES / kind).iterdir())]


@pytest.mark.parametrize("case", fixtures("valid"))
def test_a_valid_request_is_read_with_its_breakpoints_in_order(case: dict[str, Any]) -> None:
    ask = read(case["request"], HEADERS)
    ttls = [block.ttl_s for block in ask.blocks if block.ttl_s is not None]
    assert ttls == [TTL_S[ttl] for ttl in case["expected"]["ttls_in_order"]]


@pytest.mark.parametrize("case", fixtures("invalid"))
def test_an_invalid_request_is_refused_in_the_providers_words(case: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as refused:
        read(case["request"], HEADERS)
    assert refused.value.status == case["expected"]["status"]
    assert case["expected"]["error"]["message_contains"] in refused.value.message


def automatic(*content: dict[str, Any]) -> list[int | None]:
    message = {"role": "assistant", "content": list(content)}
    body = {"model": "claude-sonnet-4-6", "max_tokens": 1, "cache_control": {"type": "ephemeral"}}
    return [block.ttl_s for block in read({**body, "messages": [message]}, HEADERS).blocks]


def test_the_automatic_breakpoint_walks_back_over_blocks_that_cannot_carry_one() -> None:
    text, thought = {"type": "text", "text": "x"}, {"type": "thinking", "thinking": "hm", "signature": "Rg=="}
    assert automatic(text, thought) == [300, None]
    assert automatic(thought, text, text) == [None, None, 300]
    assert automatic(thought) == [None]
