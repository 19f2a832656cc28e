"""The recorded transcripts under tests/core/fixtures, as values."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1] / "core" / "fixtures"

# The form every stream leaves the relay in: an optional name, one line of data, LF, a blank line.
_CANONICAL = re.compile(rb"(?:(?:event: [\w.-]+\n)?data: [^\r\n]*\n\n)+")


class Transcript(NamedTuple):
    """A provider's stream and what is to be made of it."""

    name: str
    stream: bytes
    expected: dict[str, Any]

    @property
    def is_canonical(self) -> bool:
        """Written as most providers write, so that not one byte needs to change on the way."""
        return _CANONICAL.fullmatch(self.stream) is not None


class ErrorAnswer(NamedTuple):
    """A provider's error answer."""

    name: str
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    expected: dict[str, Any]


def transcripts(dialect: str) -> list[Transcript]:
    return [
        Transcript(path.stem, path.read_bytes(), read_json(path.with_suffix(".expected.json")))
        for path in sorted((ROOT / "streams" / dialect).glob("*.sse"))
    ]


def transcript(dialect: str, name: str) -> Transcript:
    return next(each for each in transcripts(dialect) if each.name == name)


def errors(dialect: str) -> list[ErrorAnswer]:
    found = []
    for path in sorted((ROOT / "errors" / dialect).glob("*.json")):
        fixture = read_json(path)
        body = fixture["body_text"].encode() if "body_text" in fixture else json.dumps(fixture["body"]).encode()
        found.append(
            ErrorAnswer(path.stem, fixture["status"], list(fixture["headers"].items()), body, fixture["expected"])
        )
    return found


def response(dialect: str, name: str) -> bytes:
    return (ROOT / "responses" / dialect / f"{name}.json").read_bytes()


def requests(dialect: str) -> dict[str, Any]:
    """Legal request bodies by name."""
    folder = ROOT / "requests" / dialect / "valid"
    return {path.stem: read_json(path)["request"] for path in sorted(folder.glob("*.json"))}


def read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())
