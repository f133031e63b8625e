"""Labels of a block of rows as a Parquet file, and back.

Pages are neither compressed nor dictionary-encoded: labels are a few per cent of the floats, and text that stands in
the file as it is can be searched for when an erasure has to be proved.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from coordinator.snapshots.places import pyarrow
from shard.errors import CorruptData
from shard.export import ExportedRows

_COLUMNS = ("row", "template_id", "identity", "metadata", "lsn")


@dataclass(frozen=True, slots=True)
class BlockLabels:
    """Labels of a block, entry i of each field of the i-th float row. metadata: UTF-8 JSON, or None."""

    template_ids: tuple[str, ...]
    identities: tuple[str | None, ...]
    metadata: tuple[bytes | None, ...]

    def __len__(self) -> int:
        return len(self.template_ids)


def encode_labels(rows: ExportedRows) -> bytes:
    """The Parquet file of the rows' labels, their numbers and LSNs; the same bytes for the same rows."""
    arrow = pyarrow()
    columns = [
        arrow.array(rows.rows, arrow.int64()),
        arrow.array(rows.template_ids, arrow.string()),
        arrow.array(rows.identities, arrow.string()),
        arrow.array(rows.metadata, arrow.binary()),
        arrow.array(rows.lsns, arrow.int64()),
    ]
    nullable = {"identity", "metadata"}
    fields = [
        arrow.field(name, column.type, nullable=name in nullable)
        for name, column in zip(_COLUMNS, columns, strict=True)
    ]
    sink = io.BytesIO()
    arrow.parquet.write_table(
        arrow.Table.from_arrays(columns, schema=arrow.schema(fields)),
        sink,
        compression="NONE",
        use_dictionary=False,
        # Least and greatest labels would stand in the file a second time, cut off, and be of no use.
        write_statistics=False,
        store_schema=False,
    )
    return sink.getvalue()


def decode_labels(data: bytes, where: str) -> BlockLabels:
    """The labels of `encode_labels`, in order of rows; CorruptData, naming `where`, for anything else."""
    arrow = pyarrow()
    try:
        table = arrow.parquet.read_table(io.BytesIO(data), columns=list(_COLUMNS))
        found = {name: table.column(name).to_pylist() for name in _COLUMNS}
    except (ValueError, OSError, KeyError) as error:  # pyarrow's own errors are of these
        raise CorruptData(f"{where} is not a file of labels: {error}") from error
    rows = np.array(found["row"], dtype=np.int64)
    if len(rows) > 1 and not (np.diff(rows) > 0).all():
        raise CorruptData(f"{where}: expected rows in ascending order")
    metadata = tuple(found["metadata"])
    return BlockLabels(tuple(found["template_id"]), tuple(found["identity"]), metadata)
