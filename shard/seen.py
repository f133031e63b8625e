"""Which template ids a shard may have: a filter in memory, so that looking up new ids reads nothing from the disk.

Owns one Bloom filter over template keys, made by the first write and grown as keys come. It knows no ids, rows or
files. A key that was added is always found; one that was not is found now and then, and the database then decides.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from shard.types import KeyArray

_PROBES = 4
"""Bits set in the word of a key."""
_FULLEST = 6
"""Keys a word of 64 bits may hold on average: 11 bits a key, and about 1 in 100 strangers found."""
_LEAST_WORDS = 1 << 10


class SeenKeys:
    """A blocked Bloom filter (Putze, Sanders & Singler 2007) with words of 64 bits; 1.3 to 2.7 bytes a key.

    `among` may run beside one writer. It passes everything until `prepare` was called.
    """

    def __init__(self) -> None:
        self._words: npt.NDArray[np.uint64] | None = None
        self._keys = 0
        self._lock = threading.Lock()

    def prepare(self, stored: Iterable[KeyArray]) -> None:
        """Fill the filter with what the shard has, if that was not done: nothing is held where nothing is written."""
        with self._lock:
            if self._words is None or self._keys > _FULLEST * len(self._words):
                parts = list(stored)
                self._keys = sum(map(len, parts))
                words = np.zeros(_words_for(self._keys), np.uint64)
                for keys in parts:
                    _set(words, keys)
                self._words = words

    def add(self, keys: KeyArray) -> None:
        """Remember keys (n,) uint64; past the load that the filter is made for, the next `prepare` makes a larger."""
        with self._lock:
            if self._words is not None:
                _set(self._words, keys)
                self._keys += len(keys)

    def among(self, template_ids: Sequence[str], keys: KeyArray) -> tuple[Sequence[str], KeyArray]:
        """The ids, and their keys (n,) uint64, that may be there: all that are, and few others."""
        words = self._words
        if words is None:
            return template_ids, keys
        places, bits = _place(words, keys)
        maybe = np.flatnonzero((words[places] & bits) == bits)
        return [template_ids[i] for i in maybe.tolist()], keys[maybe]


def _words_for(keys: int) -> int:
    """The least power of two with room for twice the keys."""
    words = _LEAST_WORDS
    while words * _FULLEST < 2 * keys:
        words *= 2
    return words


def _set(words: npt.NDArray[np.uint64], keys: KeyArray) -> None:
    places, bits = _place(words, keys)
    np.bitwise_or.at(words, places, bits)


def _place(words: npt.NDArray[np.uint64], keys: KeyArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
    """(word, bits in it) of each key: the word from the low bits, the bits from the highest, which are independent."""
    bits = np.zeros(len(keys), np.uint64)
    for probe in range(_PROBES):
        bits |= np.uint64(1) << ((keys >> np.uint64(58 - 6 * probe)) & np.uint64(63))
    return (keys & np.uint64(len(words) - 1)).astype(np.int64), bits
