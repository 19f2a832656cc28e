"""Whether content is kept: said in a few words, which mean the same wherever they are said."""

from __future__ import annotations

import pytest

from relay.core.content import asked, kept_s
from relay.core.errors import InvalidRequest


@pytest.mark.parametrize(
    ("said", "log", "seconds"),
    [
        ("usage", "", 0),
        ("content", "content", 100),
        (" Content ", "content", 100),
        ("content; ttl=60", "content;ttl=60", 60),
        ("content ;ttl=060", "content;ttl=60", 60),
        ("content;ttl=100", "content;ttl=100", 100),
    ],
)
def test_what_is_said_and_for_how_long_it_is_kept(said: str, log: str, seconds: int) -> None:
    assert asked(said, 100, "x-relay-log") == log
    assert kept_s(log, 100) == seconds


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("", "x-relay-log: Input should be 'usage', 'content' or 'content; ttl=<seconds>', got \"\""),
        ("all", "x-relay-log: Input should be 'usage', 'content' or 'content; ttl=<seconds>', got \"all\""),
        ("content;ttl=", "x-relay-log: Input should be 'usage', 'content' or 'content; ttl=<seconds>', got"),
        ("usage, content", "x-relay-log: Input should be 'usage', 'content' or 'content; ttl=<seconds>', got"),
        ("content;ttl=\u0663", "x-relay-log: Input should be 'usage', 'content' or 'content; ttl=<seconds>', got"),
        ("content; ttl=0", 'x-relay-log: ttl should be from 1 to 100 seconds, got "content; ttl=0"'),
        ("content; ttl=101", 'x-relay-log: ttl should be from 1 to 100 seconds, got "content; ttl=101"'),
    ],
)
def test_anything_else_is_refused_by_its_name_and_value(said: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        asked(said, 100, "x-relay-log")
    assert refused.value.message.startswith(message)
    assert refused.value.param == "x-relay-log"


def test_a_shorter_setting_counts_for_what_was_asked_before() -> None:
    assert kept_s("content;ttl=100", 30) == 30


@pytest.mark.parametrize("log", ["", "everything", "content;ttl=x", "\0"])
def test_a_record_that_says_anything_else_keeps_nothing(log: str) -> None:
    assert kept_s(log, 100) == 0
