"""What enrollment notes about a template's photo, in its metadata, under keys of ours: what dedup tells photos by.

So it is as durable, replicated, encrypted and erased as the template itself. Answers leave it out, as they leave out
the thumbnail."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

from cluster.thumbnails import RESERVED

PHOTO = f"{RESERVED}photo"
"""BLAKE2b-128 of the file's bytes, 32 hexadecimal digits: faces of one photo share it."""
PHASH = f"{RESERVED}phash"
"""Perceptual hash of the whole photo, 16 hexadecimal digits: photos that look the same differ in few bits."""
QUALITY = f"{RESERVED}quality"
"""The face's quality, in [0, 1]."""


def photo_id_of(data: bytes) -> str:
    """Id of a photo: of its bytes alone."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def with_photo_facts(
    metadata: Mapping[str, Any] | None, *, photo: str, phash: int | None, quality: float | None
) -> dict[str, Any]:
    """Metadata with the facts that are known. phash: 64 bits; quality: in [0, 1]."""
    facts: dict[str, Any] = {PHOTO: photo}
    if phash is not None:
        facts[PHASH] = f"{phash:016x}"
    if quality is not None and math.isfinite(quality):
        facts[QUALITY] = round(float(quality), 4)
    return {**(metadata or {}), **facts}
