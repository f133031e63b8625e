"""Cursors: read back by their own listing, refused by every other and whatever else comes."""

from __future__ import annotations

import pytest

from cluster.cursors import read_cursor, write_cursor
from shard.errors import InvalidParameter

SCOPE = ("0123456789abcdef", None)


@pytest.mark.parametrize("template_id", ["a", "é𝄞", "x" * 128, "-", "𝄞" * 32])
def test_round_trip(template_id: str) -> None:
    for scope in (SCOPE, (SCOPE[0], "ann"), (SCOPE[0], "")):
        cursor = write_cursor(template_id, scope)
        assert read_cursor(cursor, scope) == template_id
        assert set(cursor) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@pytest.mark.parametrize("scope", [(SCOPE[0], "ann"), (SCOPE[0], ""), ("fedcba9876543210", None)])
def test_another_listing_refuses_it(scope: tuple[str, str | None]) -> None:
    with pytest.raises(InvalidParameter, match="cursor"):
        read_cursor(write_cursor("t1", SCOPE), scope)


@pytest.mark.parametrize("cursor", ["", "x", "é", "a b", "A" * 1_000_000, b"abc", 5, write_cursor("t1", SCOPE)[:-2]])
def test_what_is_none_is_refused(cursor: object) -> None:
    with pytest.raises(InvalidParameter, match="cursor"):
        read_cursor(cursor, SCOPE)


def test_a_changed_character_is_noticed() -> None:
    cursor = write_cursor("t1", SCOPE)
    for i, character in enumerate(cursor[:-1]):
        with pytest.raises(InvalidParameter):
            read_cursor(cursor[:i] + ("A" if character != "A" else "B") + cursor[i + 1 :], SCOPE)
