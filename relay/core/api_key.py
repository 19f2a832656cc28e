"""The form of an API key: ``rk_<key id>_<secret>_<checksum>``.

The checksum tells a mistyped key from an unknown one without asking Redis, and lets secret scanners recognise ours.
Only the digest is ever stored. Any other text may serve as a key too, when the operator gives it.
"""

from __future__ import annotations

import hashlib
import re
import zlib

# 4 bytes name a key, 32 make it unguessable: so a plain, fast SHA-256 is enough at rest.
ID_BYTES, SECRET_BYTES = 4, 32

# Longer than any key a person would choose, short enough that hashing it costs nothing.
MAX_LENGTH = 512

_FORM = re.compile(r"(rk_([0-9a-f]{8})_[0-9a-f]{64})_([0-9a-f]{8})", re.ASCII)


def make(randomness: bytes) -> str:
    """The key made of ``ID_BYTES + SECRET_BYTES`` random bytes."""
    assert len(randomness) == ID_BYTES + SECRET_BYTES
    body = f"rk_{randomness[:ID_BYTES].hex()}_{randomness[ID_BYTES:].hex()}"
    return f"{body}_{_checksum(body)}"


def id_of(key: str) -> str:
    """The id in a key of our form; for any other text, one made of its digest."""
    form = _FORM.fullmatch(key)
    return form[2] if form else digest(key)[: 2 * ID_BYTES]


def is_mistyped(key: str) -> bool:
    """True when the key has our form but not its own checksum."""
    form = _FORM.fullmatch(key)
    return form is not None and form[3] != _checksum(form[1])


def digest(key: str) -> str:
    """What is stored instead of the key."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"
