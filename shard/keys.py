"""Template keys: the order of candidates whose scores are equal, the same however a gallery is cut into shards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from shard.types import KeyArray


def template_keys(template_ids: Iterable[str]) -> KeyArray:
    """(n,) uint64: BLAKE2b-64 of each id's UTF-8, big-endian.

    A number made from the id alone, so that ties need no id to be read from disk while scanning.
    """
    digests = b"".join(hashlib.blake2b(i.encode(), digest_size=8).digest() for i in template_ids)
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)


def in_listing_order(template_ids: Sequence[str]) -> list[str]:
    """The ids, each once, in the order of listings: by key as a signed number, then by their UTF-8.

    That of the shard's own table of keys, so that a page is read without sorting; it does not change for an id while
    others come and go.
    """
    unique = list(dict.fromkeys(template_ids))
    keys = dict(zip(unique, template_keys(unique).view(np.int64).tolist(), strict=True))
    return sorted(unique, key=lambda template_id: (keys[template_id], template_id.encode()))
