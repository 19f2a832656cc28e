"""Frames and cursors: what was encoded is decoded, and a cursor may stand anywhere."""

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.errors import InvalidRequest
from relay.core.frame import BODY, END, EVENTS, HEAD, START, Cursor, Frame, after, decode, encode, parse_cursor
from relay.core.frame import split_events as split

PART_MAX = 2**64 - 1

parts = st.integers(0, PART_MAX - 1)
kinds = st.sampled_from([HEAD, EVENTS, BODY, END])
# Finished events hold no blank line but their last one.
events = st.binary(max_size=20).map(lambda data: b"data: " + data.replace(b"\n", b"").replace(b"\r", b"") + b"\n\n")


@st.composite
def event_frames(draw: st.DrawFn) -> Frame:
    inside = draw(st.lists(events, min_size=1, max_size=5))
    before = draw(st.integers(0, 1000))
    return Frame(draw(st.integers(1, 10**13)), before + len(inside), len(inside), EVENTS, b"".join(inside))


# --- bytes


@given(parts, parts, st.integers(0, 10**6), kinds, st.binary())
def test_a_frame_survives_its_encoding(generation: int, sequence: int, count: int, kind: str, data: bytes) -> None:
    assert decode(encode(generation, sequence, count, kind, data)) == Frame(generation, sequence, count, kind, data)


def test_a_frame_reads_well_on_the_wire() -> None:
    assert encode(1763760000000, 12, 2, EVENTS, b"data: 1\n\ndata: 2\n\n") == (
        b"1763760000000-12 2 e\ndata: 1\n\ndata: 2\n\n"
    )


@given(st.binary())
def test_what_is_no_frame_is_a_value_error_and_nothing_worse(raw: bytes) -> None:
    with suppress(ValueError):
        decode(raw)


@given(event_frames())
def test_a_frame_falls_into_its_events(frame: Frame) -> None:
    assert len(split(frame)) == frame.events
    assert b"".join(split(frame)) == frame.data


# --- what a frame follows


def test_events_follow_the_last_one_before_them() -> None:
    assert Frame(7, 12, 3, EVENTS, b"").follows == 9


def test_an_end_follows_the_last_event_though_it_counts_none() -> None:
    assert Frame(7, 13, 0, END, b"").follows == 12


def test_a_head_follows_nothing() -> None:
    assert Frame(7, 0, 0, HEAD, b"").follows == 0


# --- behind a cursor


@given(event_frames(), st.integers(-2, 6))
def test_a_cursor_inside_a_frame_leaves_the_events_behind_it(frame: Frame, offset: int) -> None:
    cursor = Cursor(frame.generation, max(0, frame.follows + offset))
    seen = max(0, cursor.sequence - frame.follows)
    rest = split(frame)[seen:]

    left = after(frame, cursor)

    if not rest:
        assert left is None
    else:
        assert left is not None
        assert (left.data, left.events, left.cursor) == (b"".join(rest), len(rest), frame.cursor)


@given(st.lists(events, min_size=1, max_size=8), st.data())
def test_any_cut_into_frames_and_any_cursor_give_the_events_behind_it(inside: list[bytes], data: st.DataObject) -> None:
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, len(inside) - 1)) if len(inside) > 1 else st.just(set())))]
    frames = [
        Frame(5, end, end - start, EVENTS, b"".join(inside[start:end])) for start, end in pairwise([*cuts, len(inside)])
    ]
    cursor = Cursor(5, data.draw(st.integers(0, len(inside))))

    left = [part for frame in frames if (part := after(frame, cursor))]

    assert b"".join(part.data for part in left) == b"".join(inside[cursor.sequence :])


def test_a_frame_of_an_earlier_generation_was_seen() -> None:
    assert after(Frame(4, 99, 1, EVENTS, b"data: 1\n\n"), Cursor(5, 0)) is None


def test_a_frame_of_a_later_generation_is_whole() -> None:
    frame = Frame(6, 2, 2, EVENTS, b"data: 1\n\ndata: 2\n\n")
    assert after(frame, Cursor(5, 1)) == frame


@pytest.mark.parametrize("kind", [HEAD, BODY, END])
def test_frames_of_other_kinds_are_not_divided(kind: str) -> None:
    frame = Frame(5, 4, 1, kind, b"a\n\nb\n\n")
    assert after(frame, START) == frame
    assert after(frame, Cursor(5, 4)) is None


# --- cursors


@given(parts, parts)
def test_a_cursor_survives_its_text(generation: int, sequence: int) -> None:
    cursor = Cursor(generation, sequence)
    assert parse_cursor(str(cursor)) == cursor


def test_white_space_around_a_cursor_does_no_harm() -> None:
    assert parse_cursor(" 7-12 ") == (7, 12)


def test_cursors_are_ordered_as_the_log_is() -> None:
    assert START < Cursor(1, 0) < Cursor(1, 1) < Cursor(2, 0)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "-",
            "7",
            "7-",
            "-7",
            "7-1-2",
            "a-b",
            "7-1x",
            "+7-1",
            "7--1",
            "7_0-1",
            "0x7-1",
            "7-1\x00",
            "7 -1",
            "*",
            "$",
        ),
        *("٧-١", "７-１"),  # digits, but not ours
        # Beyond what Redis takes for a stream id, or with nothing behind it.
        *(f"{PART_MAX}-{PART_MAX}", f"{PART_MAX + 1}-0", f"0-{PART_MAX + 1}", f"7-{PART_MAX + 1}", "9" * 5000),
    ],
)
def test_a_foreign_event_id_is_the_clients_error(text: str) -> None:
    with pytest.raises(InvalidRequest, match="Last-Event-ID") as caught:
        parse_cursor(text)
    assert caught.value.param == "Last-Event-ID"
    assert len(caught.value.message) < 250
