"""`RowLabels`: labels of the templates that have a pair, by their position among them, without metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from coordinator.snapshots.places import pyarrow
from shard.errors import CorruptData
from shard.types import RowArray

_ROWS_AT_ONCE = 1 << 16
"""Rows whose metadata is in memory at once."""


def metadata_digest(metadata: bytes | None) -> bytes | None:
    """16 bytes of BLAKE2b of a template's metadata as it is stored; None for none."""
    return None if metadata is None else hashlib.blake2b(metadata, digest_size=16).digest()


class RowLabels:
    """Labels of ascending global rows; `positions` says where a row stands in them."""

    def __init__(self, rows: RowArray, table: Any) -> None:
        """table: columns input, gallery, template_id, identity, shard, lsn, metadata_digest, one entry for each row."""
        self.rows, self.table = rows, table

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def read(
        cls, rows: RowArray, labels: Callable[[RowArray], Any], galleries: Sequence[str], *, with_digests: RowArray
    ) -> RowLabels:
        """Read them, some at a time. with_digests: the rows whose metadata is of interest."""
        arrow = pyarrow()
        wanted = np.sort(with_digests)
        tables = []
        for begin in range(0, len(rows), _ROWS_AT_ONCE):
            asked = rows[begin : begin + _ROWS_AT_ONCE]
            found = labels(asked)
            if not np.array_equal(found.column("row").to_numpy(), asked):
                raise CorruptData(f"labels of {len(asked)} rows were asked for, found {found.num_rows} other ones")
            tables.append(_slim(found, galleries, np.isin(asked, wanted, assume_unique=True)))
        schema = arrow.schema(
            [
                ("input", arrow.int8()),
                ("gallery", arrow.string()),
                ("template_id", arrow.large_string()),
                ("identity", arrow.large_string()),
                ("shard", arrow.int32()),
                ("lsn", arrow.int64()),
                ("metadata_digest", arrow.binary(16)),
            ]
        )
        table = arrow.concat_tables([t.cast(schema) for t in tables]) if tables else schema.empty_table()
        return cls(rows, table.combine_chunks())

    def positions(self, rows: RowArray) -> RowArray:
        """Where each of these rows stands; CorruptData for one that has no labels here."""
        at = np.searchsorted(self.rows, rows)
        inside = at < len(self.rows)
        if not inside.all() or not np.array_equal(self.rows[at], rows):
            raise CorruptData("a group or a pair names a row that is in no pair")
        return at.astype(np.int64)

    def order_of(self, at: RowArray, group: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        """The permutation that puts these positions into the order of group, input and template id, ids by bytes."""
        arrow = pyarrow()
        taken = (
            self.table.select(["input", "template_id"]).take(arrow.array(at)).append_column("group", arrow.array(group))
        )
        keys = [("group", "ascending"), ("input", "ascending"), ("template_id", "ascending")]
        order: npt.NDArray[np.int64] = arrow.compute.sort_indices(taken, sort_keys=keys).to_numpy().astype(np.int64)
        return order


def _slim(found: Any, galleries: Sequence[str], is_wanted: npt.NDArray[np.bool_]) -> Any:
    arrow = pyarrow()
    metadata = found.column("metadata").filter(arrow.array(is_wanted)).to_pylist()
    digests: list[bytes | None] = [None] * len(is_wanted)
    for at, value in zip(np.flatnonzero(is_wanted).tolist(), metadata, strict=True):
        digests[at] = metadata_digest(value)
    return arrow.table(
        {
            "input": found.column("input"),
            "gallery": arrow.array(galleries, arrow.string()).take(found.column("input")),
            "template_id": found.column("template_id"),
            "identity": found.column("identity"),
            "shard": found.column("shard"),
            "lsn": found.column("lsn"),
            "metadata_digest": arrow.array(digests, arrow.binary(16)),
        }
    )
