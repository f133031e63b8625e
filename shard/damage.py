"""What may be wrong with a shard's files, as data: found by `shard.check`, mended by `shard.mending`.

Also what both need of a shard, open or not, so that one that cannot be opened can still be checked.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from shard.model import SearchModel
from shard.segments import SegmentFiles
from shard.store import SegmentRow, Store
from shard.types import RowArray

Part = Literal[
    "database",
    "segments",
    "rows",
    "log",
    "record",
    "key",
    "template_keys",
    "identity_rows",
    "sums",
    "floats",
    "tail",
    "keys",
    "codes",
    "model",
    "file",
]
"""database: SQLite itself. segments, rows, log: tables that contradict themselves or each other. record: a row of
`templates`; key: its column `key`. template_keys, identity_rows: the tables that find rows; sums: what they add up to.
floats: of a sealed segment; tail: of the open one. keys, codes: files made from the others. model: cannot be loaded.
file: of nobody."""


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a segment's file."""

    segment: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is not what it should be: where, what was expected and what came.

    The rows concerned are first_row <= row < last_row, both None where there are none. is_mendable: it can be made
    again from what is sound, floats from another replica's. span: the bytes, where a file of a segment is damaged.
    """

    path: Path
    part: Part
    what: str
    first_row: int | None = None
    last_row: int | None = None
    is_mendable: bool = False
    span: Span | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


class Inspected(Protocol):
    """A shard as checking and mending see it: `shard.shard.Shard`, or `shard.closed.ClosedShard`."""

    @property
    def directory(self) -> Path:
        """Where its files are."""

    @property
    def dim(self) -> int:
        """Floats of a row."""

    @property
    def store(self) -> Store:
        """Its database."""

    @property
    def model(self) -> SearchModel | None:
        """The model that searches use, if it could be loaded."""

    def files(self, row: SegmentRow) -> SegmentFiles:
        """The files of one segment."""

    def frozen(self) -> AbstractContextManager[None]:
        """Nothing is written inside."""

    def amending(self) -> AbstractContextManager[sqlite3.Connection]:
        """A transaction that changes what follows from the rest: no row comes or goes by it."""


def runs(rows: RowArray | Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, last) of each run of consecutive rows, first <= row < last. rows: in any order, may repeat."""
    found = np.unique(np.asarray(rows, dtype=np.int64))
    for run in np.split(found, np.flatnonzero(np.diff(found) > 1) + 1):
        if len(run):
            yield int(run[0]), int(run[-1]) + 1
