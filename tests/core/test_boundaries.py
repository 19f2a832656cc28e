"""The boundaries of a prompt have names, by which breakpoints find them.  What is hashed: ``test_fingerprint``."""

from __future__ import annotations

import pytest
from hypothesis import given

from relay.core.boundaries import Section, sections, unmarked
from relay.core.job import Dialect
from tests.core.translate.strategies import Json, openai_requests
from tests.support import fixtures
from tests.support.json_text import unhurried

MARK = {"cache_control": {"type": "ephemeral"}}


def paths(section: Section) -> list[str]:
    return [section.path(index) for index in range(len(section.values))]


def named(request: Json, surface: Dialect) -> dict[str, Section]:
    return {section.name: section for section in sections(request, surface)}


@pytest.mark.parametrize("surface", ["anthropic", "openai"])
def test_a_path_leads_to_its_boundary(surface: Dialect) -> None:
    for name, request in fixtures.requests(surface).items():
        for section in sections(request, surface):
            assert [section.index(path) for path in paths(section)] == list(range(len(section.values))), name


@given(openai_requests())
@unhurried
def test_every_part_and_every_call_has_a_boundary(request: Json) -> None:
    expected = []
    for number, message in enumerate(request["messages"]):
        path, content = f"messages.{number}", message["content"]
        if message["role"] == "tool" or isinstance(content, str):
            expected.append(path)
        elif content:
            expected += [f"{path}.content.{i}" for i in range(len(content))]
        expected += [f"{path}.tool_calls.{i}" for i in range(len(message.get("tool_calls", [])))]
    assert paths(named(request, "openai")["messages"]) == expected


@pytest.mark.parametrize(
    ("path", "falls_on"),
    [
        ("messages.0", "messages.0.content.1"),
        ("messages.1", "messages.1.tool_calls.0"),
        ("messages.1.content", "messages.1"),
        ("messages.2.content.1", "messages.2"),
        ("tools.0.function", "tools.0"),
    ],
)
def test_a_breakpoint_falls_on_the_block_that_is_to_carry_it(path: str, falls_on: str) -> None:
    part = {"type": "text", "text": "x"}
    request = {
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "messages": [
            {"role": "user", "content": [part, part]},
            {"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]},
            {"role": "tool", "tool_call_id": "1", "content": [part, part]},
        ],
    }
    section = named(request, "openai")[path.partition(".")[0]]
    assert section.path(section.index(path)) == falls_on


def test_only_what_may_carry_a_marker_loses_it() -> None:
    call = {"type": "tool_use", "input": MARK, **MARK}
    result = {"type": "tool_result", "content": [{"type": "text", "text": "x", **MARK}]}
    assert unmarked([call, result]) == [
        {"type": "tool_use", "input": MARK},
        {"type": "tool_result", "content": [{"type": "text", "text": "x"}]},
    ]
