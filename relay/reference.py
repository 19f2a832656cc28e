"""References to secrets, ``env:VARIABLE`` and ``file:PATH``: configuration names a secret and never holds it.

Whoever needs the secret resolves the reference at that moment. No message made here contains a value: an illegal
header value is quoted in full by HTTP clients, and that is how keys with a trailing newline got into logs.
"""

from __future__ import annotations

import os
from pathlib import Path


class SettingsError(ValueError):
    """A setting the relay cannot run with. The message is one line, names the setting and never holds a secret."""


def check(reference: str) -> str:
    """The reference itself, if it is one."""
    kind, _, rest = reference.partition(":")
    if kind not in ("env", "file") or not rest:
        raise SettingsError(
            'must be "env:VARIABLE" or "file:PATH"; a key written here would travel with every copy of the file'
        )
    return reference


def is_reference(text: str) -> bool:
    return text.startswith(("env:", "file:"))


def variable_of(reference: str) -> str | None:
    """The environment variable a reference reads, if that is what it does."""
    return reference.removeprefix("env:") if reference.startswith("env:") else None


def resolve(reference: str) -> str:
    """The secret, stripped of the white space files and shells add. Raises ``SettingsError``."""
    kind, _, name = check(reference).partition(":")
    return clean(os.environ.get(name, "") if kind == "env" else read(Path(name)), where=name)


def read(path: Path) -> str:
    """The text of a secret file. Raises ``SettingsError``."""
    try:
        return path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(f"cannot read {path}: {reason}") from None


def clean(value: str, where: str) -> str:
    """A value fit for an HTTP header: stripped, not empty, printable ASCII. ``where`` is named instead of the value."""
    value = value.strip()
    if not value:
        raise SettingsError(f"{where} is empty or not set")
    if not (value.isascii() and value.isprintable()):
        raise SettingsError(f"{where} has control or non-ASCII characters in it (its value is not shown)")
    return value
