"""Markers on the way to a provider: kept, put in its own words, or cut out and said; and nothing else touched."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.cache_control import check
from relay.core.capabilities import HEADER, Capability, Change, adapt, header, too_short
from relay.core.job import Dialect
from relay.core.usage import Usage
from tests.support import fixtures, json_text
from tests.support.json_text import Spelled

EPHEMERAL = {"type": "ephemeral"}
ONE_HOUR = {"type": "ephemeral", "ttl": "1h"}
EXPLICIT = {"mode": "explicit"}
TWELVE_HOURS = {"mode": "explicit", "ttl": "12h"}


def text(content: str = "x", marker: Any = None, **members: Any) -> dict[str, Any]:
    return {"type": "text", "text": content, **members} | ({"cache_control": marker} if marker is not None else {})


def adapted(
    request: dict[str, Any], capability: Capability, dialect: Dialect = "openai"
) -> tuple[dict[str, Any], list[Change]]:
    body, changes = adapt(json.dumps(request).encode(), dialect, capability)
    return json.loads(body), list(changes)


def one(message: dict[str, Any]) -> tuple[dict[str, Any], list[Change]]:
    """The message as a provider with breakpoints of its own gets it."""
    request, changes = adapted({"model": "m", "messages": [message]}, "explicit_breakpoints")
    assert request["model"] == "m"
    return request["messages"][0], changes


EVERYWHERE: dict[Dialect, dict[str, Any]] = {
    "openai": {
        "cache_control": ONE_HOUR,
        "tools": [
            {"type": "function", "cache_control": ONE_HOUR, "function": {"name": "f", "cache_control": EPHEMERAL}},
            {"type": "function", "function": {"name": "g", "parameters": {"cache_control": EPHEMERAL}}},
        ],
        "messages": [
            {"role": "system", "content": "s", "cache_control": EPHEMERAL},
            {"role": "user", "content": [text("cache_control"), text(marker=EPHEMERAL), 5]},
            {"role": "assistant", "tool_calls": [{"id": "c", "function": {"arguments": '{"cache_control":1}'}}]},
            {"role": "assistant", "tool_calls": [{"id": "c", "cache_control": EPHEMERAL}]},
            "no message",
        ],
    },
    "anthropic": {
        "tools": [{"name": "f", "input_schema": {"cache_control": EPHEMERAL}, "cache_control": ONE_HOUR}],
        "system": [text(marker=ONE_HOUR), text()],
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "user", "content": [{"type": "tool_result", "content": [text(marker=EPHEMERAL)]}]},
            {"role": "user", "content": [{"type": "document", "source": {"content": [text(marker=EPHEMERAL)]}}]},
            {"role": "assistant", "content": [{"type": "tool_use", "input": {"cache_control": EPHEMERAL}}]},
            {"role": "user", "content": [text(marker=EPHEMERAL)], "cache_control": EPHEMERAL},
        ],
        "cache_control": EPHEMERAL,
    },
}
PATHS: dict[Dialect, list[str]] = {
    "openai": ["body", "tools.0", "tools.0.function", "messages.0", "messages.1.content.1", "messages.3.tool_calls.0"],
    "anthropic": [
        "body",
        "tools.0",
        "system.0",
        "messages.1.content.0.content.0",
        "messages.2.content.0.source.content.0",
        "messages.4",
        "messages.4.content.0",
    ],
}


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_a_provider_without_markers_gets_none_and_every_one_is_said(dialect: Dialect) -> None:
    request, changes = adapted(EVERYWHERE[dialect], "strip", dialect)
    assert [change.path or "body" for change in changes] == PATHS[dialect]
    assert all(change.became is None for change in changes)
    left = json.dumps(EVERYWHERE[dialect]).count('"cache_control"') - len(changes)
    assert json.dumps(request).count('"cache_control"') == left  # in the schemas and the input
    again, said = adapted(request, "strip", dialect)
    assert (again, said) == (request, [])


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize("capability", ["keep", "strip", "explicit_breakpoints"])
def test_a_body_without_markers_passes_as_the_very_same_bytes(dialect: Dialect, capability: Capability) -> None:
    for request in fixtures.requests(dialect).values():
        body = json.dumps(request, indent=1).encode()
        if capability == "keep" or (not check(request, dialect) and '"cache_control": null' not in body.decode()):
            same, changes = adapt(body, dialect, capability)
            assert (same, changes) == (body, ())


def test_only_the_marker_is_cut_out() -> None:
    body = b'{ "messages":[ {"content":[{"type":"text"%b ,"text":"\\u00e9"}], "role":"user"}],"top_p":1.10 }'
    left = body.replace(b"%b", b"")
    body = body.replace(b"%b", b',\n"cache_control" : {"type":"ephemeral"}')
    assert adapt(body, "openai", "strip") == (left, (Change("messages.0.content.0", "5m"),))


def test_an_escaped_name_is_a_name() -> None:
    body = rb'{"messages":[{"role":"user","content":"x","\u0063ache_control":{"type":"ephemeral"}}]}'
    assert adapt(body, "openai", "strip").body == b'{"messages":[{"role":"user","content":"x"}]}'


def test_null_is_no_marker_but_goes_too() -> None:
    request, changes = adapted({"messages": [{"role": "user", "content": [text(cache_control=None)]}]}, "strip")
    assert (request["messages"][0]["content"], changes) == ([text()], [])
    message, changes = one({"role": "user", "content": [text(cache_control=None)]})
    assert (message["content"], changes) == ([text()], [])


@pytest.mark.parametrize("marker", [{"ttl": "x\r\ny"}, "1h", [], {"type": "ephemeral", "ttl": None}])
def test_a_marker_that_nobody_judged_is_said_as_5m(marker: Any) -> None:
    _, changes = adapted({"messages": [{"role": "user", "content": [{"type": "?", "cache_control": marker}]}]}, "strip")
    assert changes == [Change("messages.0.content.0", "5m")]


# ── OpenAI's own breakpoints ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["text", "image_url", "input_audio", "file", "refusal"])
@pytest.mark.parametrize(
    ("marker", "own", "change"),
    [
        (EPHEMERAL, EXPLICIT, Change("messages.0.content.0", "5m", "30m")),
        (ONE_HOUR, TWELVE_HOURS, Change("messages.0.content.0", "1h", "12h")),
    ],
)
def test_a_marked_part_gets_a_breakpoint(kind: str, marker: Any, own: Any, change: Change) -> None:
    message, changes = one({"role": "user", "content": [{"cache_control": marker, "type": kind, kind: "x"}, text()]})
    assert message["content"] == [{"type": kind, kind: "x", "prompt_cache_breakpoint": own}, text()]
    assert changes == [change]


def test_a_marked_message_gets_it_on_its_last_part() -> None:
    message, changes = one({"role": "user", "content": [text("a"), text("b"), text("")], "cache_control": ONE_HOUR})
    expected = [text("a"), text("b", prompt_cache_breakpoint=TWELVE_HOURS), text("")]
    assert message == {"role": "user", "content": expected}
    assert changes == [Change("messages.0", "1h", "12h")]
    message, changes = one({"role": "user", "content": [text(cache_control=None)], "cache_control": EPHEMERAL})
    assert message == {"role": "user", "content": [text(prompt_cache_breakpoint=EXPLICIT)]}


def test_a_marked_string_becomes_a_part() -> None:
    body = b'{"messages":[{"cache_control":{"type":"ephemeral"},"content" : "\\u00e9\\n" ,"role":"system"}]}'
    own = b'"prompt_cache_breakpoint":{"mode":"explicit"}'
    expected = b'{"messages":[{"content" : [{"type":"text","text":"\\u00e9\\n",%b}] ,"role":"system"}]}' % own
    assert adapt(body, "openai", "explicit_breakpoints") == (expected, (Change("messages.0", "5m", "30m"),))
    body = b'{"messages":[{"content":"x","cache_control":{"type":"ephemeral"}}]}'
    expected = b'{"messages":[{"content":[{"type":"text","text":"x",%b}]}]}' % own
    assert adapt(body, "openai", "explicit_breakpoints").body == expected


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "", "cache_control": ONE_HOUR},
        {"role": "user", "content": [], "cache_control": ONE_HOUR},
        {"role": "user", "cache_control": ONE_HOUR},
        {"role": "user", "content": [text("")], "cache_control": ONE_HOUR},
        {"role": "user", "content": [{"type": "video_url"}], "cache_control": ONE_HOUR},
        {"role": "user", "content": [text(prompt_cache_breakpoint=EXPLICIT)], "cache_control": ONE_HOUR},
        {"role": "assistant", "content": "x", "tool_calls": [{"id": "c"}], "cache_control": ONE_HOUR},
    ],
)
def test_a_marked_message_without_a_free_part_loses_it(message: dict[str, Any]) -> None:
    rest = {name: value for name, value in message.items() if name != "cache_control"}
    assert one(message) == (rest, [Change("messages.0", "1h")])


def test_of_a_message_and_its_last_part_the_part_has_the_breakpoint() -> None:
    message, changes = one({"role": "user", "content": [text(marker=ONE_HOUR)], "cache_control": EPHEMERAL})
    assert message["content"] == [text(prompt_cache_breakpoint=TWELVE_HOURS)]
    assert changes == [Change("messages.0", "5m"), Change("messages.0.content.0", "1h", "12h")]


def test_a_breakpoint_that_the_client_wrote_itself_stays() -> None:
    message, changes = one({"role": "user", "content": [text(marker=ONE_HOUR, prompt_cache_breakpoint=EXPLICIT)]})
    assert message["content"] == [text(prompt_cache_breakpoint=EXPLICIT)]
    assert changes == [Change("messages.0.content.0", "1h")]


@pytest.mark.parametrize(
    ("request_", "path"),
    [
        ({"cache_control": EPHEMERAL, "type": "text"}, ""),
        ({"tools": [{"type": "text", "cache_control": EPHEMERAL}]}, "tools.0"),
        ({"tools": [{"role": "user", "content": "x", "cache_control": EPHEMERAL}]}, "tools.0"),
        ({"tools": [{"function": {"type": "text", "cache_control": EPHEMERAL}}]}, "tools.0.function"),
        ({"messages": [{"tool_calls": [{"type": "text", "cache_control": EPHEMERAL}]}]}, "messages.0.tool_calls.0"),
        ({"messages": [{"content": [{"content": [text(marker=EPHEMERAL)]}]}]}, "messages.0.content.0.content.0"),
    ],
)
def test_only_parts_of_messages_have_a_place_for_it(request_: dict[str, Any], path: str) -> None:
    request, changes = adapted(request_, "explicit_breakpoints")
    assert "cach" not in json.dumps(request)
    assert changes == [Change(path, "5m")]


def test_the_other_dialect_has_none() -> None:
    system = {"system": [text(marker=EPHEMERAL)]}
    assert adapted(system, "explicit_breakpoints", "anthropic") == ({"system": [text()]}, [Change("system.0", "5m")])


# ── any spelling ─────────────────────────────────────────────────────────────────────────────────────────────────────


@st.composite
def marked_bodies(draw: st.DrawFn) -> tuple[Spelled, list[str]]:
    """A request of any spelling, and the paths of its marked objects; names may be repeated."""
    paths: list[str] = []

    def holder(path: str, members: list[tuple[str, Spelled]]) -> Spelled:
        members = [*members, *draw(st.lists(st.tuples(st.just("x"), json_text.scalars), max_size=1))]
        marker = draw(st.sampled_from([None, None, b"null", b'{"type":"ephemeral"}']))
        if marker is None:
            return draw(json_text.objects(draw(st.permutations(members))))
        last = [("cache_control", Spelled(marker))]
        members = draw(st.permutations([*members, *draw(st.sampled_from([[], [("cache_control", Spelled(b"5"))]]))]))
        at = max((i + 1 for i, (name, _) in enumerate(members) if name == "cache_control"), default=0)
        at = draw(st.integers(at, len(members)))
        if marker != b"null":
            paths.append(path)
        return draw(json_text.objects([*members[:at], *last, *members[at:]]))

    messages = []
    for m in range(draw(st.integers(0, 2))):
        path = f"messages.{m}"
        own = len(paths)
        parts = [holder(f"{path}.content.{i}", [("type", Spelled(b'"?"'))]) for i in range(draw(st.integers(0, 2)))]
        content = draw(json_text.arrays(parts))
        nested = paths[own:]
        del paths[own:]
        messages.append(holder(path, [("role", Spelled(b'"user"')), ("content", content)]))
        paths += nested
    own = len(paths)
    body = holder("", [("messages", draw(json_text.arrays(messages)))])
    return body, paths[own:] + paths[:own]


def pairs(body: bytes) -> Any:
    """Every member, repeated ones too, with its digits as they stand."""
    return json.loads(body.decode(), parse_int=str, parse_float=str, object_pairs_hook=Members)


class Members(list[Any]):
    """Of an object; a list of them is not equal to an array."""


def without_markers(value: Any) -> Any:
    if isinstance(value, Members):
        return Members((name, without_markers(member)) for name, member in value if name != "cache_control")
    return [without_markers(entry) for entry in value] if isinstance(value, list) else value


def is_what_is_left(left: bytes, of: bytes) -> bool:
    """Whether bytes were cut out, and nothing else was done."""
    rest = iter(of)
    return all(byte in rest for byte in left)


@given(marked_bodies())
def test_markers_are_cut_out_of_any_spelling(case: tuple[Spelled, list[str]]) -> None:
    body, paths = case
    left, changes = adapt(body.raw, "openai", "strip")
    assert pairs(left) == without_markers(pairs(body.raw))
    assert is_what_is_left(left, body.raw)
    assert [change.path for change in changes] == paths


# ── what is said ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_response_header_says_what_became_of_the_markers() -> None:
    changes = [Change("messages.0.content.1", "1h"), Change("system.0", "5m", "30m"), Change("", "5m")]
    said = "stripped=messages.0.content.1;ttl=1h, translated=system.0;ttl=5m;as=30m, stripped=body;ttl=5m"
    assert (HEADER, header(changes), header([])) == ("x-relay-cache-control", said, "")


def test_a_header_is_never_long() -> None:
    changes = [Change(f"messages.{i}", "5m") for i in range(1000)]
    assert header(changes).endswith("stripped=messages.15;ttl=5m, more=984")
    assert "more" not in header(changes[:16])


@pytest.mark.parametrize(
    ("model", "breakpoints", "usage", "note"),
    [
        (
            "claude-sonnet-4-6",
            1,
            Usage(input_tokens=1023),
            "1023 tokens, claude-sonnet-4-6 caches from 1024",
        ),
        ("claude-sonnet-4-6", 1, Usage(input_tokens=1024), None),
        ("claude-haiku-4-5", 1, Usage(input_tokens=4000), "from 4096 on"),
        ("claude-haiku-4-5", 0, Usage(input_tokens=5), None),
        ("claude-haiku-4-5", 4, Usage(input_tokens=0), None),
        ("claude-haiku-4-5", 4, Usage(input_tokens=1), "1 tokens"),
        ("claude-haiku-4-5", 1, Usage(input_tokens=5, cache_read_tokens=1), None),
        ("claude-haiku-4-5", 1, Usage(input_tokens=5, cache_write_by_ttl={"5m": 1}), None),
    ],
)
def test_a_prompt_too_short_to_be_cached_gets_a_note(model: str, breakpoints: int, usage: Usage, note: Any) -> None:
    said = too_short(model, breakpoints, usage)
    assert said is None if note is None else note in str(said)


def test_the_note_says_how_much_was_missing() -> None:
    said = too_short("claude-opus-5-5", 1, Usage(input_tokens=500))
    assert said == "nothing was cached: the prompt has 500 tokens, claude-opus-5-5 caches from 512 on"
