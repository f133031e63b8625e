"""Results of dedup jobs that were asked for lately, open: their groups are read once, not for each page of a review."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.dedup.result_files import DedupResult

MAX_OPEN = 8
"""A result of a million groups takes some 100 MB."""


class OpenResults:
    """Results by job. Thread-safe. A result does not change once it is there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[str, float | None], DedupResult] = OrderedDict()

    def get(self, directory: Path, finished_at: float | None) -> DedupResult:
        """The result in a job's directory; see DedupResult.open. finished_at: of the job. Blocks."""
        from cluster.dedup.result_files import DedupResult

        key = (directory.name, finished_at)
        with self._lock:
            found = self._open.get(key)
            if found is not None:
                self._open.move_to_end(key)
                return found
        found = DedupResult.open(directory)
        with self._lock:
            self._open[key] = found
            while len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
        return found
