"""The client's bytes: looked at once, and what is to be changed or hashed in them found."""

import json
import pickle
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.body import MODEL_SPANS_MAX, Endpoint, Peek, model_spans, peek, prefixes
from relay.core.cache_control import Breakpoint
from relay.core.document import Span
from relay.core.errors import InvalidRequest, body_of
from relay.core.job import Dialect
from relay.core.pieces import Prefix, digests, moved, replaced
from tests.support import fixtures, json_text
from tests.support.json_text import Spelled, unhurried

DOORS: list[tuple[Dialect, Endpoint]] = [
    ("anthropic", "messages"),
    ("anthropic", "count_tokens"),
    ("openai", "chat_completions"),
]
MINIMAL = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
EPHEMERAL = {"type": "ephemeral"}


def body(**members: Any) -> bytes:
    return json.dumps(MINIMAL | members).encode()


def without(member: str) -> bytes:
    return json.dumps({name: value for name, value in MINIMAL.items() if name != member}).encode()


def refusal_of(text: bytes, surface: Dialect = "anthropic", endpoint: Endpoint = "messages") -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        peek(text, surface, endpoint)
    assert body_of(refused.value, surface)
    return refused.value


# ── peek ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_peek_holds_what_the_relay_has_to_know() -> None:
    system = [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    seen = peek(body(stream=True, system=system, metadata={"user_id": "u"}), "anthropic", "messages")
    assert seen == Peek("m", 1, True, "", (Breakpoint("system.0", "1h"),), 5, "u")
    assert seen.marker_ttls == ("1h",)


@pytest.mark.parametrize(
    ("members", "limit"),
    [
        ({}, 5),
        ({"max_completion_tokens": 7}, 7),
        ({"max_completion_tokens": None}, 5),
        ({"max_completion_tokens": 0}, 0),
        ({"max_tokens": True}, None),
        ({"max_tokens": "9"}, None),
    ],
)
def test_the_token_limit_is_the_one_that_counts(members: dict[str, Any], limit: int | None) -> None:
    assert peek(body(**members), "openai", "chat_completions").max_tokens == limit


@pytest.mark.parametrize(
    ("surface", "members", "user"),
    [
        ("anthropic", {"metadata": {"user_id": "a"}, "user": "b"}, "a"),
        ("anthropic", {"metadata": {"user_id": 5}}, None),
        ("anthropic", {"metadata": []}, None),
        ("openai", {"user": "b"}, "b"),
        ("openai", {"safety_identifier": "c", "user": "b"}, "c"),
        ("openai", {"user": "\ud800é"}, "?é"),
        ("openai", {"user": "x" * 1000}, "x" * 256),
        ("openai", {}, None),
    ],
)
def test_the_callers_user_is_text_of_bounded_size(surface: Dialect, members: dict[str, Any], user: str | None) -> None:
    assert peek(body(**members), surface, "messages").user == user


@pytest.mark.parametrize(("surface", "endpoint"), DOORS)
@pytest.mark.parametrize(
    ("text", "param", "message"),
    [
        (without("model"), "model", "model: Field required"),
        (body(model=""), "model", 'model: String should have at least 1 character, got ""'),
        (body(model=None), "model", "model: Input should be a valid string, got null"),
        (body(model=["m"]), "model", "model: Input should be a valid string, got an array"),
        (body(model="\ud800"), "model", r'model: Input should be Unicode text, got "\ud800"'),
        (b'{"model": 1e400}', "model", "model: Input should be a valid string, got Infinity"),
        (without("messages"), "messages", "messages: Field required"),
        (body(messages="hi"), "messages", 'messages: Input should be a valid array, got "hi"'),
        (body(messages=None), "messages", "messages: Input should be a valid array, got null"),
        (b"[]", None, "The request body must be a JSON object, not an array."),
        (b'"model"', None, 'The request body must be a JSON object, not "model".'),
        (b"", None, "The request body is empty."),
    ],
)
def test_what_every_door_refuses(
    surface: Dialect, endpoint: Endpoint, text: bytes, param: str | None, message: str
) -> None:
    refused = refusal_of(text, surface, endpoint)
    assert (refused.param, refused.message) == (param, message)


@pytest.mark.parametrize("stream", ["true", 1, 0, {}])
def test_stream_is_a_boolean_or_nothing(stream: Any) -> None:
    assert refusal_of(body(stream=stream)).param == "stream"
    assert not peek(body(stream=None), "openai", "chat_completions").stream


def test_token_counting_never_streams_and_ignores_how_many_markers_there_are() -> None:
    block = {"type": "text", "text": "x", "cache_control": EPHEMERAL}
    seen = peek(body(stream="yes", system=[block] * 5), "anthropic", "count_tokens")
    assert (seen.stream, seen.breakpoints) == (False, ())
    refused = refusal_of(body(system=[block | {"cache_control": {}}]), "anthropic", "count_tokens")
    assert refused.param == "system.0.cache_control.type"


@pytest.mark.parametrize(
    "text",
    [
        rb'{"mod\u0065l": "m", "messages": []}',
        b'{"model": 5, "messages": [], "model": "m"}',
        b'\n{\t"messages" :[ ] ,"max_tokens":1e400,"seed":%b,"model":"m"} ' % (b"7" * 5000),
        b'{"messages": [{"content": "\\ud800"}, 5, null], "model": "m", "top_p": 1.10, "unknown": {"model": 5}}',
    ],
)
def test_a_legal_spelling_is_never_refused(text: bytes) -> None:
    assert peek(text, "anthropic", "messages").model == "m"


@pytest.mark.parametrize("folder", ["anthropic", "openai"])
def test_every_fixture_is_read_as_the_request_it_is(folder: Dialect) -> None:
    for request in fixtures.requests(folder).values():
        seen = peek(json.dumps(request).encode(), folder, "messages")
        assert (seen.model, seen.messages) == (request["model"], len(request["messages"]))


@pytest.mark.parametrize("surface", ["anthropic", "openai"])
def test_a_body_cut_at_any_byte_is_refused(surface: Dialect) -> None:
    for request in fixtures.requests(surface).values():
        text = json.dumps(request).encode()
        for end in range(len(text)):
            with pytest.raises(InvalidRequest):
                peek(text[:end], surface, "messages")


def test_results_and_refusals_travel_between_processes() -> None:
    seen = peek(body(system=[{"type": "text", "text": "x", "cache_control": EPHEMERAL}]), "anthropic", "messages")
    assert pickle.loads(pickle.dumps(seen)) == seen
    refused = pickle.loads(pickle.dumps(refusal_of(body(model=""))))
    assert (type(refused), refused.param, refused.status) == (InvalidRequest, "model", 400)


KEYS = ["model", "messages", "content", "cache_control", "type", "system", "tools", "stream", "metadata", "user_id"]


@unhurried
@given(st.binary() | json_text.values(KEYS).map(lambda value: value.raw), st.sampled_from(DOORS))
def test_any_bytes_are_read_or_refused(text: bytes, door: tuple[Dialect, Endpoint]) -> None:
    try:
        seen = peek(text, *door)
    except InvalidRequest as error:
        assert body_of(error, door[0])
    else:
        assert seen.model


# ── model_spans ─────────────────────────────────────────────────────────────────────────────────────────────────────


@st.composite
def requests(draw: st.DrawFn, extra: list[tuple[str, Spelled]] | None = None) -> Spelled:
    """A request of any spelling with ``extra`` among its members, and a model, perhaps named more than once."""
    others = draw(st.lists(st.tuples(st.sampled_from(["metadata", "user", "x"]), json_text.values(KEYS)), max_size=2))
    members = draw(st.permutations(others + (extra or [("messages", Spelled(b"[]"))])))
    at = draw(st.integers(0, len(members)))
    members.insert(at, ("model", Spelled(draw(st.sampled_from([b'"m"', rb'"\"model\": \u006d"', b'"}"'])))))
    for shadowed in draw(st.lists(json_text.values(KEYS), max_size=2)):
        members.insert(draw(st.integers(0, at)), ("model", shadowed))
    return draw(json_text.objects(members))


def spans_of_model(request: Spelled) -> tuple[Span, ...]:
    return tuple((start, start + len(value.raw)) for name, start, value in request.parts if name == "model")


@unhurried
@given(requests())
def test_every_value_of_model_is_found_and_nothing_else(request: Spelled) -> None:
    assert model_spans(request.raw) == spans_of_model(request)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"model":"a"}', b'{"model":"b"}'),
        (b' { "model" \n:\t"a\\"" , "x":1.10}', b' { "model" \n:\t"b" , "x":1.10}'),
        (b'{"tools":[{"model":"x"}],"model":"a"}', b'{"tools":[{"model":"x"}],"model":"b"}'),
        (b'{"role":"model","model":"a"}', b'{"role":"model","model":"b"}'),
        (b'{"x\\"model":"y","model":"a"}', b'{"x\\"model":"y","model":"b"}'),
        (rb'{"x":{"model":"y"},"mod\u0065l":"a"}', rb'{"x":{"model":"y"},"mod\u0065l":"b"}'),
        (b'{"model":{"model":1},"model":"a"}', b'{"model":"b","model":"b"}'),
        (rb'{"model":"a","\u006Dodel":"c"}', rb'{"model":"b","\u006Dodel":"b"}'),
        ('{"é":"日本","model":"a"}'.encode(), '{"é":"日本","model":"b"}'.encode()),
    ],
)
def test_the_model_is_found_where_it_counts(before: bytes, after: bytes) -> None:
    assert replaced([before], model_spans(before), b'"b"') == [after]


def test_more_positions_than_a_job_carries_are_not_looked_for() -> None:
    named = b'"model":"m",' * (MODEL_SPANS_MAX + 5)
    assert len(model_spans(b'{%b"messages":[]}' % named)) == MODEL_SPANS_MAX + 1


# ── prefixes ────────────────────────────────────────────────────────────────────────────────────────────────────────


def texts(prefix: Prefix, body: bytes) -> list[tuple[str, bytes]]:
    return [(name, body[start:end]) for name, start, end in prefix.parts]


def test_a_prefix_covers_the_raw_text_up_to_the_marked_block() -> None:
    mark = b'"cache_control": {"type": "ephemeral", "ttl": "1h"}'
    block = b'{"type":"text", "text":"caf\\u00e9", %b }' % mark
    tools, system = b'[ {"name":"t"} ]', b'[{"type":"text","text":"1"}, %b , {"type":"text","text":"2"}]' % block
    text = b'{"messages":[],"system":%b,"model":"m","tools": %b}' % (system, tools)
    (prefix,) = prefixes(text, "anthropic")
    assert (prefix.path, prefix.ttl) == ("system.1", "1h")
    assert texts(prefix, text) == [("tools", tools), ("system", system[: system.index(block) + len(block)])]


def test_the_automatic_breakpoint_covers_the_whole_prompt() -> None:
    text = (
        b'{"model":"m","messages":[ {"role":"user","content":"q"} ],"cache_control":{"type":"ephemeral"},"system":"s"}'
    )
    (prefix,) = prefixes(text, "anthropic")
    assert texts(prefix, text) == [("system", b'"s"'), ("messages", b'[ {"role":"user","content":"q"} ]')]


def test_the_prompt_of_an_openai_request_has_no_system_member() -> None:
    text = b'{"model":"m","system":"s","messages":[{"role":"user","content":"q","cache_control":{"type":"ephemeral"}}]}'
    (prefix,) = prefixes(text, "openai")
    assert texts(prefix, text) == [("messages", text[text.index(b"[") : text.rindex(b"]")])]


def test_a_prompt_without_breakpoints_has_no_prefixes() -> None:
    assert prefixes(body(), "anthropic") == ()


@st.composite
def marked_requests(draw: st.DrawFn) -> tuple[Spelled, list[str]]:
    """A request of any spelling with up to four marked blocks, and their paths in processing order."""
    sizes = draw(st.tuples(st.integers(0, 2), st.integers(0, 2), st.lists(st.integers(0, 2), min_size=1, max_size=2)))
    tools = [f"tools.{i}" for i in range(sizes[0])]
    system = [f"system.{i}" for i in range(sizes[1])]
    messages = [[f"messages.{m}.content.{i}" for i in range(n)] for m, n in enumerate(sizes[2])]
    paths = [*tools, *system, *(path for content in messages for path in content)]
    marked = draw(st.lists(st.sampled_from(paths), max_size=4, unique=True)) if paths else []

    def block(path: str) -> Spelled:
        marker = draw(json_text.objects([("type", Spelled(b'"ephemeral"'))]))
        members = [("type", Spelled(b'"text"')), ("text", Spelled(b'"x"')), ("input", draw(json_text.scalars))]
        members += [("cache_control", marker)] if path in marked else []
        return draw(json_text.objects(draw(st.permutations(members))))

    def blocks(content: list[str]) -> Spelled:
        return draw(json_text.arrays([block(path) for path in content]))

    turns = [draw(json_text.objects([("role", Spelled(b'"user"')), ("content", blocks(turn))])) for turn in messages]
    sections = [("messages", draw(json_text.arrays(turns))), ("system", blocks(system)), ("tools", blocks(tools))]
    return draw(requests(sections)), sorted(marked, key=paths.index)


@unhurried
@given(marked_requests())
def test_every_breakpoint_is_counted_and_its_prefix_found_as_it_stands(case: tuple[Spelled, list[str]]) -> None:
    request, paths = case
    assert [mark.path for mark in peek(request.raw, "anthropic", "messages").breakpoints] == paths
    found = prefixes(request.raw, "anthropic")
    assert [prefix.path for prefix in found] == paths
    for prefix in found:
        section = prefix.path.partition(".")[0]
        prompt = []
        for name in ("tools", "system", "messages"):
            start, value = request.part(name)
            end = request.end_of(prefix.path) if name == section else start + len(value.raw)
            prompt.append((name, request.raw[start:end]))
            if name == section:
                break
        assert texts(prefix, request.raw) == prompt


# ── at the door and at the worker ───────────────────────────────────────────────────────────────────────────────────


@unhurried
@given(marked_requests(), st.text(min_size=1), st.data())
def test_what_the_door_found_serves_a_worker_as_if_it_had_looked_itself(
    case: tuple[Spelled, list[str]], model: str, data: st.DataObject
) -> None:
    """Renamed by position, however cut into pieces, a body is what renaming it whole gives, and hashes alike."""
    request, value = case[0], json.dumps(model, ensure_ascii=False).encode()
    spans, found = model_spans(request.raw), prefixes(request.raw, "anthropic")
    renamed, done = b"", 0
    for start, end in spans_of_model(request):
        renamed += request.raw[done:start] + value
        done = end
    renamed += request.raw[done:]
    borders = sorted(data.draw(st.lists(st.integers(0, len(request.raw)), max_size=6)))
    cut = [request.raw[start:end] for start, end in pairwise([0, *borders, len(request.raw)])]
    pieces = replaced(cut, spans, value)
    assert b"".join(pieces) == renamed
    assert digests(moved(found, spans, len(value)), pieces) == digests(prefixes(renamed, "anthropic"), [renamed])
    # The prompt has not changed, and the name is not part of it.
    assert digests(found, cut) == digests(moved(found, spans, len(value)), pieces)
