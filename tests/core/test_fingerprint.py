"""The fingerprint of a prompt: laws of what it keeps, and where it finds a change."""

from __future__ import annotations

import copy
import re
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core import document, fingerprint
from relay.core.boundaries import sections
from relay.core.cache_control import Breakpoint, breakpoints
from relay.core.fingerprint import ENTRIES_MAX, KEPT, Fingerprint, first_difference, parse
from relay.core.job import Dialect
from relay.sandbox import anthropic_request
from relay.sandbox.prompt import block_prefixes
from tests.core.translate.strategies import Json, mark, openai_conversations, openai_requests
from tests.support import fixtures
from tests.support.json_text import unhurried

MARK = {"cache_control": {"type": "ephemeral"}}
ANY_TOOL = {"type": "any"}
MARK_1H = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
PATH = r"(tools\.\d+|system(\.\d+)?|settings|messages\.\d+(\.(content|tool_calls)\.\d+)?)"
FORM = re.compile(rf"headers:0:[\w-]{{11}}( {PATH}:\d+:[\w-]{{11}}(:5m|:1h)?)+")  # no room for a prompt's text


def of(request: Json, surface: Dialect = "anthropic", headers: dict[str, str] | None = None, auto: bool = False) -> str:
    return fingerprint.of(request, surface, breakpoints(request, surface), headers or {}, auto)


def found(request: Json, surface: Dialect = "anthropic") -> Fingerprint:
    return parse(of(request, surface))


def paths(request: Json, surface: Dialect = "anthropic") -> list[str]:
    return [entry.path for entry in found(request, surface).entries]


def hashes(request: Json, surface: Dialect = "anthropic") -> dict[str, str]:
    return {entry.path: entry.hash for entry in found(request, surface).entries}


def text(content: str = "x", **members: Any) -> Json:
    return {"type": "text", "text": content, **members}


def said(role: str, content: Any = "x", **members: Any) -> Json:
    return {"role": role, "content": content, **members}


def at(request: Any, path: str) -> Any:
    for step in path.split("."):
        request = request[int(step) if isinstance(request, list) else step]
    return request


Q = said("user")


def talk(blocks: int, *, marked: bool = True) -> list[Json]:
    """A conversation of so many messages, its end marked."""
    messages = [said("assistant" if i % 2 else "user", [text(f"turn {i}")]) for i in range(blocks)]
    if marked:
        messages[-1] = said(messages[-1]["role"], [messages[-1]["content"][0] | MARK])
    return messages


def prompt(tools: int = 2, system: int = 2, blocks: int = 4) -> Json:
    return {
        "model": "m",
        "tools": [{"name": f"tool_{i}", "input_schema": {"type": "object"}} for i in range(tools)],
        "system": [text(f"rule {i}") for i in range(system)],
        "messages": talk(blocks),
    }


# ── what it looks like ──────────────────────────────────────────────────────────────────────────────────────────────


def test_an_entry_for_each_boundary_in_the_order_of_processing() -> None:
    request = {
        "model": "m",
        "messages": [said("user", "Hi"), said("assistant", [text("a"), text("b", **MARK)]), said("user", "Go on")],
        "tool_choice": ANY_TOOL,
        "system": [text("Be brief.", **MARK_1H)],
        "tools": [{"name": "f"}],
    }
    entries = found(request).entries
    assert [(entry.path, entry.ttl) for entry in entries] == [
        ("tools.0", ""),
        ("system.0", "1h"),
        ("settings", ""),
        ("messages.0", ""),
        ("messages.1.content.0", ""),
        ("messages.1.content.1", "5m"),
        ("messages.2", ""),
    ]
    assert [entry.size for entry in entries] == sorted({entry.size for entry in entries})
    assert FORM.fullmatch(of(request))


def test_in_openais_form_system_messages_are_messages() -> None:
    calls = [{"id": "1", "function": {"name": "f"}}, {"id": "2", "function": {"name": "f"}, **MARK}]
    request = {
        "model": "m",
        "tools": [{"type": "function", "function": {"name": "f", **MARK}}],
        "messages": [
            said("system", "Be brief."),
            said("user", [text(), text()], **MARK),
            said("assistant", "Let me see.", tool_calls=calls),
            said("tool", [text("1"), text("2", **MARK)], tool_call_id="1"),
            said("assistant", None, tool_calls=calls[:1]),
        ],
        "reasoning_effort": "low",
    }
    assert [(entry.path, entry.ttl) for entry in found(request, "openai").entries] == [
        ("tools.0", "5m"),
        ("settings", ""),
        ("messages.0", ""),
        ("messages.1.content.0", ""),
        ("messages.1.content.1", "5m"),
        ("messages.2", ""),
        ("messages.2.tool_calls.0", ""),
        ("messages.2.tool_calls.1", "5m"),
        ("messages.3", "5m"),
        ("messages.4.tool_calls.0", ""),
    ]


def test_without_breakpoints_there_is_none() -> None:
    assert of({"model": "m", "messages": talk(3, marked=False)}) == ""
    assert of({"model": "m", "messages": [], **MARK}) == ""
    assert parse("") == Fingerprint("", ())


def test_automatic_caching_is_a_breakpoint_at_the_end() -> None:
    request = {"model": "m", "system": "Be brief.", "messages": [said("user"), said("assistant", [text(), text()])]}
    assert found(request | MARK_1H).breakpoints[0].path == "messages.1.content.1"
    assert [entry.ttl for entry in found(request | MARK_1H).breakpoints] == ["1h"]


def test_breakpoints_of_the_relays_count_for_5_minutes() -> None:
    request = {"model": "m", "system": "Be brief.", "messages": [said("user"), said("assistant"), said("user")]}
    assert of(request) == ""
    marked = [(entry.path, entry.ttl) for entry in parse(of(request, auto=True)).breakpoints]
    assert marked == [("system", "5m"), ("messages.1", "5m")]


def test_whoever_sets_breakpoints_gets_no_others() -> None:
    assert of(prompt(), auto=True) == of(prompt())


@pytest.mark.parametrize("surface", ["anthropic", "openai"])
def test_every_legal_request_with_a_breakpoint_has_one_that_says_no_more_than_it_may(surface: Dialect) -> None:
    for name, request in fixtures.requests(surface).items():
        written = of(request, surface)
        assert bool(written) is bool(breakpoints(request, surface)), name
        assert not written or FORM.fullmatch(written), name


@given(openai_requests())
@unhurried
def test_what_is_written_reads_back(request: Json) -> None:
    written = of(request, "openai")
    read = parse(written)
    spelled = [f"{path}:{size}:{hash_}" + (f":{ttl}" if ttl else "") for path, size, hash_, ttl in read.entries]
    assert " ".join([f"headers:0:{read.headers}", *spelled]) == written if written else read == Fingerprint("", ())
    assert bool(written) is bool(breakpoints(request, "openai"))
    assert not written or FORM.fullmatch(written)


@pytest.mark.parametrize("spoilt", ["x", "headers", "headers:0", "tools.0:1:abc", "headers:0:a tools.0:many:b", " "])
def test_anything_else_is_refused(spoilt: str) -> None:
    with pytest.raises(ValueError):
        parse(spoilt)


# ── what makes a difference ─────────────────────────────────────────────────────────────────────────────────────────


@st.composite
def marked_twice(draw: st.DrawFn) -> list[Json]:
    request = draw(openai_requests(marks=False))
    both = [copy.deepcopy(request), copy.deepcopy(request)]
    for each in both:
        mark(each, draw)
    return both


@given(marked_twice())
@unhurried
def test_moving_the_markers_changes_no_hash(both: list[Json]) -> None:
    one, other = (hashes(request, "openai") for request in both)
    assert {path: one[path] for path in one if path in other} == {path: other[path] for path in other if path in one}


def test_nor_does_a_boundary_that_is_kept_for_its_marker_alone() -> None:
    one, other = talk(30), talk(30)
    one[17]["content"][0] |= MARK
    with_it, without = hashes({"model": "m", "messages": one}), hashes({"model": "m", "messages": other})
    assert with_it.pop("messages.17.content.0")
    assert with_it == without


def test_nor_does_a_marker_that_does_not_count() -> None:
    def nested(marker: Json) -> Json:
        result = {"type": "tool_result", "tool_use_id": "1", "content": [text("42") | marker]}
        document = {"type": "document", "source": {"type": "content", "content": [text("page") | marker]}}
        tool = {"name": "f", "defer_loading": True} | marker
        return {"model": "m", "tools": [tool], "messages": [said("user", [result, document, text() | MARK])]}

    assert hashes(nested({})) == hashes(nested(MARK)) == hashes(nested({"cache_control": None}))


def test_a_member_of_that_name_amid_data_is_data() -> None:
    def calling(**data: Any) -> Json:
        tool = {"name": "f", "input_schema": {"properties": data}}
        return {"model": "m", "tools": [tool], "messages": talk(1)}

    assert first_difference(found(calling()), found(calling(**MARK))) == found(calling(**MARK)).entries[0]


def test_a_tool_is_no_rule() -> None:
    tools, system = ({"model": "m", name: [{"name": "f"}], "messages": talk(1)} for name in ("tools", "system"))
    assert not set(hashes(tools).values()) & set(hashes(system).values())


def test_a_string_is_the_same_prompt_as_a_block() -> None:
    strings = {"model": "m", "system": "Be brief.", "messages": [said("user", "Hi"), *talk(1)]}
    blocks = strings | {"system": [text("Be brief.")], "messages": [said("user", [text("Hi")]), *talk(1)]}
    assert list(hashes(strings).values()) == list(hashes(blocks).values())
    assert first_difference(found(strings), found(blocks)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"tool_choice": ANY_TOOL},
        {"thinking": {"type": "adaptive"}},
        {"output_config": {"effort": "low"}},
        {"speed": "fast"},
    ],
)
def test_settings_spoil_the_messages_alone(change: Json) -> None:
    before, after = found(prompt()), found(prompt() | change)
    assert before.entries[:4] == after.entries[:4]
    assert first_difference(before, after) == after.entries[4]
    assert first_difference(after, before) == after.entries[4]  # where it was lost
    assert after.entries[4].path == "settings"


def test_so_does_the_first_image() -> None:
    image = {"type": "image", "source": {"type": "url", "url": "https://img.example/a.png"}}
    before = prompt()
    after = before | {"messages": [*before["messages"], said("user", [image])]}
    assert [difference.path for difference in [first_difference(found(before), found(after))] if difference] == [
        "settings"
    ]


def test_what_is_asked_of_the_model_beside_the_prompt_changes_nothing() -> None:
    others = {"model": "other", "max_tokens": 9, "temperature": 0, "metadata": {"user_id": "u"}, "stream": True}
    assert of(prompt() | others) == of(prompt())


def test_headers_that_decide_about_the_cache_stand_apart() -> None:
    def with_headers(**headers: str) -> Fingerprint:
        return parse(of(prompt(), headers={name.replace("_", "-"): value for name, value in headers.items()}))

    plain = with_headers()
    assert with_headers(traceparent="00-1", anthropic_user_profile_id="u") == plain
    one, other = with_headers(anthropic_beta="a,b"), with_headers(anthropic_beta="b, a")
    assert one == other
    assert len({plain.headers, one.headers, with_headers(anthropic_version="2026-10-21").headers}) == 3
    assert one.entries == plain.entries


def test_the_request_stays_as_it_is() -> None:
    request = prompt() | {"tools": [{"name": "f", **MARK, "input_schema": {"cache_control": 1}}]}
    before = copy.deepcopy(request)
    of(request)
    assert request == before


def test_text_that_no_encoding_takes_has_a_hash_too() -> None:
    body = rb'{"model": "m", "system": "\ud800", "messages": [{"role": "user", "content": "x"}], "cache_control": %b}'
    request = document.parse(body % orjson.dumps(MARK["cache_control"]))
    assert paths(request) == ["system", "messages.0"]


@pytest.mark.parametrize("odd", [None, 5, "x", [5, None, "x", [], {}], {"a": 1}])
@pytest.mark.parametrize("member", ["tools", "system", "content", "message"])
def test_whatever_is_no_prompt_is_no_reason_to_fail(member: str, odd: Any) -> None:
    messages = [said("user", odd if member == "content" else "x"), odd if member == "message" else said("user"), Q]
    request = {"model": "m", "messages": messages, **MARK} | ({member: odd} if member in ("tools", "system") else {})
    for surface in ("anthropic", "openai"):
        assert paths(request, surface)[-1] == "messages.2"


words = st.sampled_from(["a", "b"])
contents: st.SearchStrategy[Any] = words | st.lists(
    st.fixed_dictionaries({"type": st.just("text"), "text": words}, optional={"citations": st.just([])})
    | st.just({"type": "image", "source": {"type": "url", "url": "https://img.example/a.png"}}),
    min_size=1,
    max_size=2,
)


@st.composite
def anthropic_requests(draw: st.DrawFn) -> Json:
    """So few words that two of them often begin alike."""
    said_ = draw(st.lists(contents, min_size=1, max_size=4))
    tools = [{"name": name, "input_schema": {}} for name in draw(st.sampled_from(["f", "fg", "gf"]))]
    optional = {"system": words | st.lists(words.map(text), min_size=1, max_size=2), "tool_choice": st.just(ANY_TOOL)}
    messages = [said("assistant" if i % 2 else "user", content) for i, content in enumerate(said_)]
    return {
        **{"model": "claude-sonnet-4-6", "max_tokens": 9, "tools": tools, "messages": messages, **MARK},
        **draw(st.fixed_dictionaries({}, optional=optional)),
    }


def beginnings(request: Json) -> list[bytes]:
    """Of the prompt, as the sandbox's cache tells them apart."""
    blocks = anthropic_request.read(request, {"anthropic-version": "2023-06-01"}).blocks
    return [prefix.digest for prefix in block_prefixes(b"", blocks)]


@given(anthropic_requests(), anthropic_requests())
@unhurried
def test_two_beginnings_have_one_hash_if_a_cache_takes_them_for_one(one: Json, other: Json) -> None:
    hashes_of_both = [
        [entry.hash for entry in found(request).entries if entry.path != "settings"] for request in (one, other)
    ]
    known = dict(zip(beginnings(one), hashes_of_both[0], strict=True))
    for digest, hash_ in zip(beginnings(other), hashes_of_both[1], strict=True):
        assert (digest in known) is (hash_ in hashes_of_both[0])
        assert known.get(digest, hash_) == hash_


# ── what is kept, and where a change is found ───────────────────────────────────────────────────────────────────────


@given(st.integers(1, 400), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_a_conversation_that_grows_keeps_what_it_had(length: int, more: int) -> None:
    def kept(blocks: int) -> list[tuple[str, int, str]]:
        entries = found({"model": "m", "messages": talk(blocks)}).entries
        return [entry[:3] for entry in entries if int(entry.path.split(".")[1]) in KEPT]

    before = kept(length)
    assert kept(length + more)[: len(before)] == before


@given(openai_conversations())
@unhurried
def test_each_turn_goes_on_from_the_one_before(turns: list[list[Json]]) -> None:
    said_so_far: list[Json] = []
    before = None
    for turn in turns:
        said_so_far += turn
        now = found({"model": "m", "messages": said_so_far, "tool_choice": "none", **MARK}, "openai")
        if before and before.entries[0] == now.entries[0]:  # the settings: no first image has come
            assert first_difference(before, now) is None
            assert first_difference(now, before) is None
        before = now


@given(st.integers(0, 70), st.integers(0, 20), st.integers(1, 120), st.data())
@settings(max_examples=60, deadline=None)
def test_a_change_is_found_at_the_first_boundary_kept_from_there_on(
    tools: int, system: int, blocks: int, data: st.DataObject
) -> None:
    request = prompt(tools, system, blocks)
    places = [each.path(i) for each in sections(request, "anthropic") for i in range(len(each.values))]
    number = data.draw(st.integers(0, len(places) - 1), label="the block that changes")
    before = found(request)
    at(request, places[number])["name" if places[number].startswith("tools") else "text"] = "changed"
    after = found(request)
    known = {entry.path: entry for entry in after.entries}
    expected = next(known[path] for path in places[number:] if path in known)
    assert first_difference(before, after) == expected


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (prompt(tools=3), prompt(tools=2), "tools.2"),
        (prompt(tools=2), prompt(tools=3), "tools.2"),
        (prompt(tools=40), prompt(tools=41), "tools.40"),
        (prompt(tools=41), prompt(tools=40), "tools.40"),
        (prompt(tools=1), prompt(tools=0), "tools.0"),
        (prompt(system=1), prompt(system=0), "system.0"),
        (prompt(system=0), prompt(system=1), "system.0"),
        (prompt(), prompt() | {"system": "rules"}, "system"),
        (prompt(), prompt() | {"messages": talk(4)[1:]}, "messages.0.content.0"),
        (prompt(), prompt() | {"messages": [*talk(2), said("user", [text(), text()])]}, "messages.2.content.0"),
        (prompt(), prompt() | {"messages": [said("assistant", [text("turn 0")])]}, "messages.0.content.0"),
    ],
)
def test_so_is_what_comes_or_goes(before: Json, after: Json, expected: str) -> None:
    difference = first_difference(found(before), found(after | MARK))
    assert difference
    assert difference.path == expected


def test_the_same_prompt_differs_nowhere() -> None:
    assert first_difference(found(prompt()), found(prompt())) is None
    assert first_difference(parse(""), parse("")) is None


@pytest.mark.parametrize(("tools", "system", "blocks"), [(500, 1, 2), (1, 500, 2), (1, 1, 3000), (500, 500, 3000)])
def test_hundreds_of_blocks_take_no_more_than_they_may(tools: int, system: int, blocks: int) -> None:
    request = prompt(tools, system, blocks)
    for number in (0, tools // 2):
        request["tools"][number] |= MARK
    request["system"][system // 2] |= MARK
    request["tool_choice"] = ANY_TOOL
    written = of(request)
    kept = [entry.path for entry in parse(written).entries]
    assert len(kept) < ENTRIES_MAX
    assert len(written) < 3600
    assert {f"tools.{tools - 1}", f"system.{system - 1}", "settings", f"messages.{blocks - 1}.content.0"} < set(kept)
    assert len(parse(written).breakpoints) == 4 if tools > 1 else 3
    assert [path for path in kept if path.startswith("messages")][:2] == [
        "messages.0.content.0",
        "messages.1.content.0",
    ]


def test_a_request_past_measure_has_none() -> None:
    blocks: list[dict[str, Any]] = [{}] * 8_000
    marked = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
    request = {"messages": [{"role": "user", "content": [*blocks, marked]}]}
    marks = (Breakpoint("messages.0.content.8000", "5m"),)
    assert fingerprint.of(request, "anthropic", marks, {}, False) == ""
    request["messages"][0]["content"] = [marked] * 100
    assert fingerprint.of(request, "anthropic", (Breakpoint("messages.0.content.99", "5m"),), {}, False)
