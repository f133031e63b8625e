"""Which rows of a shard meet a filter on metadata: a bit for each row, kept for the filters that were used last.

A row's metadata never changes (an update writes another row), so what was once evaluated stays: the next search with
the same filter evaluates the rows that came since. Owns those bits; `shard.where` knows what a filter says.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from shard.store import Store, StoredTemplate
from shard.types import RowArray
from shard.where import Predicate, predicate

BitArray = npt.NDArray[np.uint8]
KEPT_FILTERS = 16
"""Filters whose bits are kept, 125 kB for a million rows each."""
CHUNK_ROWS = 4_096
"""Rows whose metadata is read at once; other reads of the shard take turns with that. A multiple of 8."""


class MetadataFilters:
    """The filters of one shard. Thread-safe; one is evaluated at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, tuple[int, BitArray]] = OrderedDict()

    def bits(self, where: bytes, rows: int) -> BitArray:
        """(bytes,) uint8: bit i, lowest first, for row i < rows, set where it meets the filter. Bits of dead rows say
        nothing. CorruptData if a record is not what was written; what was evaluated until an error is kept.
        """
        holds = predicate(where)
        with self._lock:
            done, bits = self._kept.get(where, (0, np.empty(0, np.uint8)))
            parts = [bits]
            try:
                while done < rows:
                    begin = done - done % 8
                    end = min(rows, begin + CHUNK_ROWS)
                    fresh = np.packbits(self._evaluate(holds, begin, end), bitorder="little")
                    parts[-1:] = [parts[-1][: len(parts[-1]) - (done % 8 > 0)], fresh]
                    done = end
            finally:
                bits = np.concatenate(parts)
                self._keep(where, done, bits)
        return bits

    def among(self, where: bytes, rows: RowArray) -> RowArray:
        """The live ones among the rows (n,) int64 that meet the filter, ascending."""
        return _meeting(predicate(where), self._store.templates_of(rows))

    def _evaluate(self, holds: Predicate, begin: int, end: int) -> npt.NDArray[np.bool_]:
        found = np.zeros(end - begin, dtype=bool)
        found[_meeting(holds, self._store.templates_between(begin, end)) - begin] = True
        return found

    def _keep(self, where: bytes, done: int, bits: BitArray) -> None:
        self._kept[where] = (done, bits)
        self._kept.move_to_end(where)
        while len(self._kept) > KEPT_FILTERS:
            self._kept.popitem(last=False)


def _meeting(holds: Predicate, stored: Iterable[StoredTemplate]) -> RowArray:
    """Rows whose metadata meets the filter, (n,) int64."""
    known: dict[bytes | None, bool] = {}  # many templates say the same
    rows = []
    for template in stored:
        is_met = known.get(template.metadata)
        if is_met is None:
            is_met = known[template.metadata] = holds(_fields(template.metadata))
        if is_met:
            rows.append(template.row)
    return np.array(rows, dtype=np.int64)


def _fields(metadata: bytes | None) -> dict[str, Any]:
    """What is no JSON object, which only callers of a shard itself can write, has no fields."""
    if metadata is None:
        return {}
    try:
        found = json.loads(metadata)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
