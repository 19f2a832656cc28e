"""Idempotency keys: one tenant's, one request's, and never kept as they came."""

from __future__ import annotations

import pytest

from relay.core.errors import InvalidRequest
from relay.core.idempotency import checked, once


def test_the_same_request_is_the_same_by_its_fingerprint() -> None:
    assert once("acme", "k", (b"messages", b"{}")) == once("acme", "k", (b"messages", b"{}"))


def test_every_part_of_a_request_counts_and_none_passes_for_two() -> None:
    all_of_them = [once("acme", "k", parts) for parts in ((b"ab", b"c"), (b"a", b"bc"), (b"abc",), (b"abc", b""))]
    assert len({each.fingerprint for each in all_of_them}) == 4
    assert len({each.name for each in all_of_them}) == 1


def test_tenants_do_not_meet() -> None:
    names = [once(tenant, key, ()).name for tenant, key in (("acme", "k"), ("acm", "ek"), ("other", "k"))]
    assert len(set(names)) == 3
    assert not any("k" in name for name in names)  # hexadecimal digits only


@pytest.mark.parametrize("key", ["", "a" * 256, "é", "a\nb", "\x7f"])
def test_a_key_that_cannot_be_one_is_refused_by_name(key: str) -> None:
    with pytest.raises(InvalidRequest, match="Idempotency-Key") as refused:
        checked(key)
    assert refused.value.param == "Idempotency-Key"


def test_a_key_of_255_characters_is_one() -> None:
    assert checked("~" * 255) == "~" * 255
