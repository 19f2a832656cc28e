"""JSON as anybody may write it: odd escapes, blanks, numbers, key orders and repeated keys, with every span known.

A ``Spelled`` value keeps where its parts stand, so that a test knows spans which it did not get from the code it tests.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# Examples of nested values take long to draw, and the machine may be busy: neither is a failure.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass(frozen=True)
class Spelled:
    """One value: its raw text, and each part with its name or index and its place in ``raw``."""

    raw: bytes
    parts: tuple[tuple[str, int, Spelled], ...] = ()

    def part(self, step: str) -> tuple[int, Spelled]:
        """Of a repeated name the last, as every reader takes it."""
        return [(start, value) for name, start, value in self.parts if name == step][-1]

    def end_of(self, path: str) -> int:
        """Where the value at ``path`` ends in ``raw``."""
        step, _, rest = path.partition(".")
        start, value = self.part(step)
        return start + (value.end_of(rest) if rest else len(value.raw))


def _bytes(text: str) -> bytes:
    return text.encode()


blanks = st.sampled_from([b"", b"", b" ", b"\n\t", b"\r\n  "])
_plain = st.characters(min_codepoint=0x20, exclude_categories=["Cs"], exclude_characters='"\\').map(_bytes)
_escapes = st.sampled_from([rb"\"", rb"\\", rb"\/", rb"\b", rb"\f", rb"\n", rb"\r", rb"\t"])
_hex_escapes = st.integers(0, 0xFFFF).map(lambda code: b"\\u%04x" % code)  # half surrogate pairs too
# What looks like structure, or like the member that the relay replaces.
_baits = st.sampled_from(
    [rb"\"model\":\"x\"", rb"\\", rb"\\\"", b"{", b"]", rb"model\"", rb"\u006d", "é\u2028".encode()]
)
strings = st.lists(_plain | _escapes | _hex_escapes | _baits, max_size=6).map(lambda p: Spelled(b'"%b"' % b"".join(p)))
_odd_numbers = [b"0", b"-0", b"1.10", b"1e3", b"1E+2", b"1e400", b"-1e400", b"0.1e-400", b"9" * 20, b"-" + b"8" * 5000]
numbers = (st.integers().map(lambda n: b"%d" % n) | st.sampled_from(_odd_numbers)).map(Spelled)
literals = st.sampled_from([b"null", b"true", b"false"]).map(Spelled)


@st.composite
def name(draw: st.DrawFn, plain: str) -> bytes:
    """A key: as a rule plain, else with any of its (ASCII) letters escaped, in either case of hexadecimal."""
    if draw(st.integers(0, 3)):
        return _bytes(f'"{plain}"')
    forms = draw(st.tuples(*[st.sampled_from(["{}", "\\u{:04x}", "\\u{:04X}"])] * len(plain)))
    return _bytes('"' + "".join(f.format(c if f == "{}" else ord(c)) for f, c in zip(forms, plain, strict=True)) + '"')


@st.composite
def objects(draw: st.DrawFn, members: list[tuple[str, Spelled]]) -> Spelled:
    """These members, in this order.  The blanks are one choice for all of it, or drawing examples takes too long."""
    gap = draw(blanks)
    raw, parts = b"{" + gap, []
    for index, (key, value) in enumerate(members):
        raw += b"," + gap if index else b""
        raw += draw(name(key)) + gap + b":" + gap
        parts.append((key, len(raw), value))
        raw += value.raw + gap
    return Spelled(raw + b"}", tuple(parts))


@st.composite
def arrays(draw: st.DrawFn, elements: list[Spelled]) -> Spelled:
    gap = draw(blanks)
    raw, parts = b"[" + gap, []
    for index, value in enumerate(elements):
        raw += b"," + gap if index else b""
        parts.append((str(index), len(raw), value))
        raw += value.raw + gap
    return Spelled(raw + b"]", tuple(parts))


scalars = strings | numbers | literals


def values(keys: list[str]) -> st.SearchStrategy[Spelled]:
    """Any document whose keys are of ``keys``, which may repeat."""

    def containers(inner: st.SearchStrategy[Spelled]) -> st.SearchStrategy[Spelled]:
        members = st.tuples(st.sampled_from(keys), inner)
        return st.lists(inner, max_size=3).flatmap(arrays) | st.lists(members, max_size=4).flatmap(objects)

    return st.recursive(scalars, containers, max_leaves=12)
