"""An upload of one file with a few fields (``multipart/form-data``), taken apart while it comes.

Starlette's own reader would put the file on the disk, which a container may not have.
"""

from __future__ import annotations

from email.message import Message

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from relay.core.errors import InvalidRequest, UnsupportedMediaType

# What is no file: its fields, and the headers of each part.
FIELDS_MAX, FIELD_BYTES_MAX = 16, 4 << 10


class Multipart:
    """``fields`` by name, and ``filename`` once its part has begun; ``feed`` gives the bytes of the file."""

    def __init__(self, content_type: str) -> None:
        """Raises ``UnsupportedMediaType`` for anything else than a form with a boundary."""
        kind, options = _options(content_type)
        if kind != "multipart/form-data" or not options.get("boundary"):
            raise UnsupportedMediaType(
                f"Content-Type must be multipart/form-data; here it is {content_type[:80]!r}.", param="content-type"
            )
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.complete = False
        self._file: list[bytes] = []
        self._header = [b"", b""]
        self._headers: dict[str, str] = {}
        self._name = ""
        self._is_file = False
        self._value = b""
        self._parser = MultipartParser(
            options["boundary"],
            {
                "on_part_begin": self._headers.clear,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers,
                "on_part_data": self._on_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )

    def feed(self, data: bytes) -> list[bytes]:
        """What is in these bytes of the file.  Raises ``InvalidRequest``."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise InvalidRequest("The request body is not valid multipart/form-data.") from error
        found, self._file = self._file, []
        return found

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._grow(0, data[start:end])

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._grow(1, data[start:end])

    def _grow(self, which: int, more: bytes) -> None:
        self._header[which] += more
        if len(self._header[which]) > FIELD_BYTES_MAX:
            raise InvalidRequest("A header of the form is too long.")

    def _on_header_end(self) -> None:
        name, value = (text.decode("utf-8", "replace") for text in self._header)
        self._headers[name.lower()] = value
        self._header = [b"", b""]
        if len(self._headers) > FIELDS_MAX:
            raise InvalidRequest(f"A part of the form has more than {FIELDS_MAX} headers.")

    def _on_headers(self) -> None:
        _, options = _options(self._headers.get("content-disposition", ""))
        self._name, self._value = options.get("name", ""), b""
        self._is_file = self._name == "file"
        if self._is_file:
            if self.filename is not None:
                raise InvalidRequest("file: There may be one only.", param="file")
            self.filename = options.get("filename", "")
        elif len(self.fields) == FIELDS_MAX:
            raise InvalidRequest(f"The form has more than {FIELDS_MAX} fields.")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._file.append(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > FIELD_BYTES_MAX:
            raise InvalidRequest(f"{self._name[:80]}: The field is longer than {FIELD_BYTES_MAX} bytes.")

    def _on_part_end(self) -> None:
        if not self._is_file:
            self.fields[self._name] = self._value.decode("utf-8", "replace")

    def _on_end(self) -> None:
        self.complete = True


def _options(header: str) -> tuple[str, dict[str, str]]:
    """A header's value and its parameters (RFC 2045, RFC 2231)."""
    message = Message()
    message["content-type"] = header.replace("\r", " ").replace("\n", " ")
    found = message.get_params(failobj=[])
    value = found[0][0].lower() if found else ""
    return value, {name.lower(): _text(option) for name, option in found[1:]}


def _text(option: object) -> str:
    if isinstance(option, tuple):  # RFC 2231: charset, language, text
        return str(option[2])
    return str(option)
