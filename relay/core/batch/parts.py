"""Cuts a batch into its items while it arrives: the lines of a file, or the elements of the member ``requests``.

The ingress feeds it the bytes of an upload as they come, so that 100 MB of it never have to be in memory. It finds
where items begin and end, and keeps their bytes as they are; what they mean is for ``items``. However the bytes are cut
on the way, the same items come out.
"""

from __future__ import annotations

import re
from typing import Any

from relay.core import document
from relay.core.cache_control import shown
from relay.core.errors import InvalidRequest, TooLarge

# All that is not an item: white space and commas, for 100,000 items laid out generously.
REST_BYTES_MAX = 4 << 20

_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_PLAIN = re.compile(rb'[^"\[\]{}]*+')
# In an element strings say nothing to us: those that are all there are passed over with the rest.
_WITHIN = re.compile(rb'(?:[^"\[\]{}]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+', re.DOTALL)
_QUOTE, _OBJECT, _ARRAY, _ESCAPE = b'"'[0], b"{"[0], b"["[0], b"\\"[0]

# Stands in for each element in what is left; every real object is an element.
_PLACE = b"{}"


class Lines:
    """The lines of a JSONL file; blank ones are left out.  Each comes with its number, from 1."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._begun: list[bytes] = []
        self._held = 0
        self._number = 0

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The lines that are complete now.  Raises ``TooLarge`` for one that is too long, complete or not."""
        *complete, begun = data.split(b"\n")
        found: list[tuple[int, bytes]] = []
        for piece in complete:
            found += self._numbered([*self._begun, piece])
            self._begun, self._held = [], 0
        self._begun.append(begun)
        self._held += len(begun)
        self._check(self._held, self._number + 1)
        return found

    def end(self) -> list[tuple[int, bytes]]:
        """The last line, if nothing closed it."""
        begun, self._begun = self._begun, []
        return self._numbered(begun)

    def _numbered(self, pieces: list[bytes]) -> list[tuple[int, bytes]]:
        self._number += 1
        line = b"".join(pieces).strip(b" \t\r")
        self._check(len(line), self._number)
        return [(self._number, line)] if line else []

    def _check(self, size: int, number: int) -> None:
        if size > self._limit_bytes:
            raise TooLarge(f"Line {number} is longer than {self._limit_bytes} bytes.")


class Elements:
    """The elements of the array ``requests`` in a JSON object, without looking further into them than needed.

    What is left when they are taken out is parsed at the end: so every comma and bracket is checked, whatever was
    between them.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._data = bytearray()
        self._at = 0  # up to here it has been looked at
        self._rest = bytearray()
        self._count = 0
        self._depth = 0
        self._string: int | None = None  # where the string begins that we are in
        self._name = b""  # the last string outside of items: a member's name, when an array follows
        self._in_requests = False
        self._element: int | None = None  # where the element begins that we are in

    def feed(self, data: bytes) -> list[bytes]:
        """The elements that are complete now."""
        self._data += data
        found: list[bytes] = []
        while self._at < len(self._data):
            pattern = _STRING if self._string is not None else _PLAIN if self._element is None else _WITHIN
            match = pattern.match(self._data, self._at)
            assert match  # both match nothing as well
            self._at = match.end()
            if self._at == len(self._data) or (self._string is not None and self._data[self._at] == _ESCAPE):
                break  # the rest of it is still to come
            self._at += 1
            if self._data[self._at - 1] == _QUOTE:
                self._quote()
            elif element := self._bracket(self._data[self._at - 1]):
                found.append(element)
        self._let_go()
        return found

    def end(self) -> dict[str, Any]:
        """The other members.  Raises ``InvalidRequest`` when what came is no such object."""
        left = bytes(self._rest + self._data)
        envelope = document.parse(left)
        if not isinstance(envelope, dict):
            raise InvalidRequest("The request body must be a JSON object with `requests`.")
        requests = envelope.pop("requests", None)
        if not isinstance(requests, list):
            raise InvalidRequest("requests: Field required, an array of requests.", param="requests")
        for number, element in enumerate(requests):
            if element != {}:
                raise InvalidRequest(
                    f"requests.{number}: Input should be a valid dictionary, not {shown(element)}.", param="requests"
                )
        if len(requests) != self._count:
            raise InvalidRequest("requests: The member may not be repeated.", param="requests")
        if not requests:
            raise InvalidRequest(
                "requests: List should have at least 1 item after validation, not 0.", param="requests"
            )
        return envelope

    def _quote(self) -> None:
        if self._string is None:
            self._string = self._at - 1
            return
        if self._depth == 1:
            self._name = bytes(self._data[self._string : self._at])
        self._string = None

    def _bracket(self, bracket: int) -> bytes | None:
        if bracket in (_OBJECT, _ARRAY):
            self._depth += 1
            if self._depth == 2:
                self._in_requests = bracket == _ARRAY and self._is_requests()
            elif self._depth == 3 and self._in_requests and bracket == _OBJECT:
                self._element = self._at - 1
            return None
        self._depth -= 1
        if self._depth != 2 or self._element is None:
            return None
        self._check_element(self._at - self._element)
        element = bytes(self._data[self._element : self._at])
        self._rest += self._data[: self._element] + _PLACE
        del self._data[: self._at]
        self._at, self._element = 0, None
        self._count += 1
        return element

    def _is_requests(self) -> bool:
        # A name may be spelled with escapes.
        return self._name == b'"requests"' or (b"\\" in self._name and document.parse(self._name) == "requests")

    def _let_go(self) -> None:
        """Of what is neither in an item nor in a string; and refuse what grows without end."""
        if self._element is not None:
            self._check_element(len(self._data) - self._element)
            return
        if self._string is None:
            self._rest += self._data[: self._at]
            del self._data[: self._at]
            self._at = 0
        if len(self._rest) + len(self._data) > REST_BYTES_MAX:
            raise TooLarge(f"What is not in an item takes more than {REST_BYTES_MAX} bytes.")

    def _check_element(self, size: int) -> None:
        if size > self._limit_bytes:
            raise TooLarge(f"requests.{self._count} is larger than {self._limit_bytes} bytes.")
