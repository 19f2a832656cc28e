"""A request as one target takes it: which bytes change, which never do, and what is said of it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.body import peek, prefixes
from relay.core.capabilities import Capability
from relay.core.errors import InvalidRequest
from relay.core.outbound import Way, asked_for_usage, is_rewritten, rewritten
from relay.core.pieces import digests
from tests.core.translate.strategies import Json, openai_requests

MARK = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
MARKED: Json = {
    "model": "alias",
    "max_tokens": 5,
    "system": [{"type": "text", "text": "Be brief.", **MARK}],
    "messages": [{"role": "user", "content": "Hello"}],
}
PLAIN: Json = {"model": "alias", "messages": [{"role": "user", "content": "Hello"}]}
CHAT: Json = PLAIN | {"stream": True}

NATIVE = Way("anthropic", "anthropic", "claude-x", "keep")
CHATTING = Way("openai", "openai", "gpt-x", "strip")
TO_ANTHROPIC = Way("openai", "anthropic", "claude-x", "keep")
TO_OPENAI = Way("anthropic", "openai", "gpt-x", "strip")

ASKED = b'"stream_options":{"include_usage":true}'


def spelled(request: Json) -> bytes:
    """As no client of ours would spell it."""
    return json.dumps(request, indent=2).encode()


# --- whether it is parsed at all


def test_a_request_that_can_go_as_it_is_is_not_rewritten() -> None:
    assert not is_rewritten(spelled(MARKED), NATIVE)
    assert not is_rewritten(spelled(CHAT), CHATTING)
    assert not is_rewritten(spelled(CHAT), replace(CHATTING, stream_usage="unasked"))
    assert not is_rewritten(spelled(CHAT), replace(CHATTING, stream_usage="asked"))


@pytest.mark.parametrize(
    ("request_", "way"),
    [
        (PLAIN, TO_ANTHROPIC),
        (PLAIN, TO_OPENAI),
        (PLAIN, replace(NATIVE, auto_cache=True)),
        (MARKED, replace(NATIVE, cache_control="strip")),
        (CHAT, replace(CHATTING, stream_usage="declined")),
    ],
)
def test_whatever_else_is_to_happen_takes_a_look_inside(request_: Json, way: Way) -> None:
    assert is_rewritten(spelled(request_), way)


def test_breakpoints_are_not_for_a_provider_that_takes_none() -> None:
    way = replace(CHATTING, auto_cache=True)
    assert not is_rewritten(spelled(PLAIN), way)
    assert rewritten(spelled(PLAIN), replace(TO_OPENAI, auto_cache=True)).added == 0


# --- the same dialect


def test_only_what_must_change_does() -> None:
    before = spelled(MARKED)
    sent = rewritten(before, replace(NATIVE, cache_control="strip"))
    marker = before[before.index(b',\n      "cache_control"') : before.index(b'\n    }\n  ],\n  "messages"')]
    assert sent.body == before.replace(marker, b"").replace(b'"alias"', b'"claude-x"')
    assert (sent.cache_control, sent.stripped, sent.added) == ("stripped=system.0;ttl=1h", 1, 0)


def test_openais_own_breakpoints_take_a_markers_place() -> None:
    parts = [{"type": "text", "text": "Hello", **MARK}]
    request = {"model": "m", "messages": [{"role": "user", "content": parts}]}
    sent = rewritten(spelled(request), replace(CHATTING, cache_control="explicit_breakpoints"))
    [part] = json.loads(sent.body)["messages"][0]["content"]
    assert part == {"type": "text", "text": "Hello", "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "12h"}}
    assert (sent.cache_control, sent.stripped) == ("translated=messages.0.content.0;ttl=1h;as=12h", 0)


def test_breakpoints_are_put_where_the_client_set_none() -> None:
    request = {**PLAIN, "system": "Be brief.", "tools": [{"name": "now", "input_schema": {}}]}
    sent = rewritten(spelled(request), replace(NATIVE, auto_cache=True))
    assert [mark.path for mark in peek(sent.body, "anthropic", "messages").breakpoints] == ["tools.0", "system.0"]
    assert (sent.cache_control, sent.added) == ("added=tools.0, added=system", 2)


def test_but_never_beside_the_clients_own() -> None:
    sent = rewritten(spelled(MARKED), replace(NATIVE, auto_cache=True))
    assert json.loads(sent.body) == MARKED | {"model": "claude-x"}
    assert (sent.cache_control, sent.added) == ("", 0)


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_obfuscation": False}, [], 7])
def test_a_stream_is_asked_for_its_usage_whatever_else_it_is_asked(options: Any) -> None:
    body = spelled(CHAT | {"stream_options": options})
    assert peek(body, "openai", "chat_completions").stream_usage == "declined"
    sent = rewritten(body, replace(CHATTING, stream_usage="declined")).body
    others = options if isinstance(options, dict) else {}
    assert json.loads(sent) == CHAT | {"model": "gpt-x", "stream_options": others | {"include_usage": True}}
    assert (sent.count(b'"stream_options"'), sent.count(b'"include_usage"')) == (1, 1)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"stream": True}, "unasked"),
        ({"stream": True, "stream_options": {"include_usage": True}}, "asked"),
        ({"stream": False, "stream_options": {"include_usage": True}}, ""),
        ({}, ""),
    ],
)
def test_how_a_stream_was_asked_for_its_usage(members: Json, said: str) -> None:
    assert peek(spelled(PLAIN | members), "openai", "chat_completions").stream_usage == said
    assert peek(spelled(PLAIN | members), "anthropic", "messages").stream_usage == ""


@given(st.lists(st.integers(0, 400), max_size=4), st.sampled_from([b"", b" ", b"\n\t \r"]))
def test_asking_adds_one_member_behind_all_others(cuts: list[int], blanks: bytes) -> None:
    """However the body is cut, and whatever blanks follow it."""
    body = spelled(CHAT) + blanks
    places = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    pieces = [body[start:end] for start, end in pairwise(places)]
    sent = b"".join(asked_for_usage([piece for piece in pieces if piece]))
    assert sent == spelled(CHAT).removesuffix(b"}") + b"," + ASKED + b"}"


# --- the other dialect


def test_a_translated_request_names_the_targets_model_and_keeps_its_markers() -> None:
    chat = {"model": "alias", "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello", **MARK}]}]}
    sent = rewritten(spelled(chat), TO_ANTHROPIC)
    assert json.loads(sent.body) == {
        "model": "claude-x",
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello", **MARK}]}],
    }
    assert sent.cache_control == ""


def test_what_has_no_counterpart_is_named() -> None:
    sent = rewritten(spelled(PLAIN | {"seed": 7, "logit_bias": {"1": 2}}), TO_ANTHROPIC)
    assert sent.dropped == ("seed", "logit_bias")


@pytest.mark.parametrize(("capability", "said"), [("strip", "stripped=system.0;ttl=1h"), ("keep", "")])
def test_a_provider_of_the_other_dialect_gets_the_markers_it_takes(capability: Capability, said: str) -> None:
    sent = rewritten(spelled(MARKED), replace(TO_OPENAI, cache_control=capability))
    assert (b"cache_control" in sent.body, sent.cache_control) == (capability == "keep", said)


def test_a_stream_of_the_other_dialect_is_asked_for_its_usage() -> None:
    assert ASKED in rewritten(spelled(MARKED | {"stream": True}), TO_OPENAI).body


def test_a_stripped_marker_does_not_reach_an_anthropic_provider_either() -> None:
    chat = {"model": "alias", "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello", **MARK}]}]}
    sent = rewritten(spelled(chat), replace(TO_ANTHROPIC, cache_control="strip"))
    assert b"cache_control" not in sent.body
    assert (sent.cache_control, sent.stripped) == ("stripped=messages.0.content.0;ttl=1h", 1)


def test_breakpoints_are_put_into_a_translated_request_too() -> None:
    chat = {"model": "alias", "messages": [{"role": "system", "content": "Be brief."}, *PLAIN["messages"]]}
    sent = rewritten(spelled(chat), replace(TO_ANTHROPIC, auto_cache=True))
    assert json.loads(sent.body)["system"] == [
        {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}
    ]
    assert (sent.cache_control, sent.added) == ("added=messages.0.content", 1)


def test_what_a_provider_is_like_shows_in_the_request() -> None:
    chat = {
        "model": "alias",
        "messages": [*PLAIN["messages"], {"role": "system", "content": "Now be brief."}],
        "reasoning_effort": "none",
        "temperature": 0.5,
    }
    way = replace(TO_ANTHROPIC, role_system="native", default_max_tokens=99, refuses_disabled_thinking=True)
    sent = json.loads(rewritten(spelled(chat), replace(way, anthropic_version="2026-10-21")).body)
    assert (sent["max_tokens"], sent["messages"][-1]["role"]) == (99, "system")
    assert not {"thinking", "temperature", "system"} & sent.keys()
    usual = json.loads(rewritten(spelled(chat), TO_ANTHROPIC).body)
    assert (usual["thinking"], usual["temperature"]) == ({"type": "disabled"}, 0.5)


def test_reasoning_goes_to_a_server_that_knows_it() -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
    said = {"role": "assistant", "content": [thought, {"type": "text", "text": "Hi"}]}
    request = MARKED | {"messages": [*PLAIN["messages"], said, *PLAIN["messages"]]}
    assert b"Hm." not in rewritten(spelled(request), TO_OPENAI).body
    assert b"Hm." in rewritten(spelled(request), replace(TO_OPENAI, reasoning="extension")).body


def test_what_cannot_be_served_is_refused_with_its_place() -> None:
    with pytest.raises(InvalidRequest) as refused:
        rewritten(spelled(PLAIN | {"n": 2}), TO_ANTHROPIC)
    assert refused.value.param == "n"


# --- in any case


def test_digests_are_those_of_the_prompt_as_it_is_sent() -> None:
    chat = {"model": "alias", "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello", **MARK}]}]}
    sent = rewritten(spelled(chat), replace(TO_ANTHROPIC, digests=True))
    assert sent.digests == digests(prefixes(sent.body, "anthropic"), [sent.body]) != ""
    assert rewritten(spelled(chat), TO_ANTHROPIC).digests == ""


@given(openai_requests(), st.sampled_from([TO_ANTHROPIC, replace(CHATTING, cache_control="strip", auto_cache=False)]))
def test_equal_requests_give_equal_bytes(request: Json, way: Way) -> None:
    """In whatever order their members came, for a translated one; and through JSON, as a child process gets its way."""
    assert rewritten(spelled(request), way) == rewritten(spelled(request), Way(**json.loads(json.dumps(asdict(way)))))
    if way.translates:
        turned = dict(reversed(request.items()))
        assert rewritten(spelled(turned), way).body == rewritten(spelled(request), way).body


@given(openai_requests())
def test_markers_are_all_there_is_between_keeping_and_stripping(request: Json) -> None:
    kept = json.loads(rewritten(spelled(request), TO_ANTHROPIC).body)
    stripped = json.loads(rewritten(spelled(request), replace(TO_ANTHROPIC, cache_control="strip")).body)
    assert _without_markers(kept) == _without_markers(stripped)


def _without_markers(value: Any) -> Any:
    if isinstance(value, dict):
        is_data = value.get("type") == "object"  # a schema may speak of cache_control itself
        return {name: _without_markers(child) for name, child in value.items() if is_data or name != "cache_control"}
    return [_without_markers(child) for child in value] if isinstance(value, list) else value
