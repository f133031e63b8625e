"""Thumbnails of enrolled photos, for tenants that keep them: part of a template's metadata, under a key of ours.

So they are as durable, replicated, encrypted and erased as the template itself. Answers leave keys of ours out;
thumbnails are asked for one by one."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from shard.errors import InvalidParameter

RESERVED = "facegrid:"
"""Keys of metadata that begin so are ours."""
MAX_DEPTH = 32
"""Nesting of metadata that comes from outside."""
KEY = f"{RESERVED}thumbnail"


def with_thumbnail(metadata: Mapping[str, Any] | None, jpeg: bytes | None) -> dict[str, Any] | None:
    """Metadata that has the thumbnail too, or as it is without one."""
    if jpeg is None:
        return None if metadata is None else dict(metadata)
    return {**(metadata or {}), KEY: base64.b64encode(jpeg).decode()}


def without_reserved(metadata: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Metadata as the user gave it, without keys of ours; None where nothing is left."""
    rest = {name: value for name, value in (metadata or {}).items() if not name.startswith(RESERVED)}
    return None if metadata is None or (metadata and not rest) else rest


def with_reserved_of(old: Mapping[str, Any] | None, metadata: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """New metadata in place of old, of which keys of ours stay unless the new has them too; None if that is nothing."""
    kept = {name: value for name, value in (old or {}).items() if name.startswith(RESERVED)}
    if not kept:
        return None if metadata is None else dict(metadata)
    given = dict(metadata or {})
    return {**given, **{name: value for name, value in kept.items() if name not in given}}


def thumbnail_of(metadata: Mapping[str, Any] | None) -> bytes | None:
    """The JPEG, None if there is none."""
    text = None if metadata is None else metadata.get(KEY)
    return base64.b64decode(text) if isinstance(text, str) else None


def check_own(metadata: Mapping[str, Any] | None, *, where: str = "metadata") -> None:
    """InvalidParameter if a user's metadata has keys of ours."""
    for name in metadata or ():
        if isinstance(name, str) and name.startswith(RESERVED):
            raise InvalidParameter(f"{where}: keys that begin with {RESERVED!r} are reserved, got {name!r:.80}")


def check_users_own(metadata: dict[str, Any]) -> dict[str, Any]:
    """Metadata from outside, as it is; InvalidParameter if it has keys of ours or is nested deeper than MAX_DEPTH."""
    check_own(metadata)
    level: list[Any] = [metadata]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for value in level
            for inner in (value.values() if isinstance(value, dict) else value)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return metadata
    raise InvalidParameter(f"metadata: expected at most {MAX_DEPTH} lists and objects within each other")
