"""Template keys: the order of candidates whose scores are equal, the same however a gallery is cut into shards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from shard.types import KeyArray


def template_keys(template_ids: Iterable[str]) -> KeyArray:
    """(n,) uint64: BLAKE2b-64 of each id's UTF-8, big-endian.

    A number made from the id alone, so that ties need no id to be read from disk while scanning.
    """
    digests = b"".join(hashlib.blake2b(i.encode(), digest_size=8).digest() for i in template_ids)
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)
