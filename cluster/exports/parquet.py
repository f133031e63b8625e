"""A gallery as one Parquet file; a row group holds one batch, so that it is written and read piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.exports.about import about_json
from cluster.imports.parquet import ABOUT
from coordinator.snapshots.manifest import Manifest
from coordinator.snapshots.places import pyarrow
from shard.files import new_file
from shard.types import EnrollBatch


def write_parquet(path: Path, manifest: Manifest, batches: Iterator[EnrollBatch]) -> None:
    """Columns template_id, identity, embedding (float32 lists of the fixed size dim), metadata (JSON); WriteFailed."""
    arrow = pyarrow()
    schema = _schema(manifest)
    with (
        new_file(path) as file,
        arrow.parquet.ParquetWriter(
            file,
            schema,
            # Floats of embeddings do not compress, and their statistics are of no use.
            compression={"template_id": "zstd", "identity": "zstd", "metadata": "zstd"},
            use_dictionary=["identity"],
            write_statistics=False,
        ) as writer,
    ):
        for batch in batches:
            writer.write_batch(_record_batch(batch, schema, manifest.dim))


def _schema(manifest: Manifest) -> Any:
    arrow = pyarrow()
    fields = [
        arrow.field("template_id", arrow.string(), nullable=False),
        arrow.field("identity", arrow.string()),
        arrow.field("embedding", arrow.list_(arrow.field("element", arrow.float32()), manifest.dim), nullable=False),
        arrow.field("metadata", arrow.string()),
    ]
    return arrow.schema(fields, metadata={ABOUT: about_json(manifest)})


def _record_batch(batch: EnrollBatch, schema: Any, dim: int) -> Any:
    arrow = pyarrow()
    floats = arrow.array(batch.embeddings.reshape(-1), arrow.float32())
    columns = [
        arrow.array(batch.template_ids, arrow.string()),
        arrow.array(batch.identities, arrow.string()),
        arrow.FixedSizeListArray.from_arrays(floats, type=schema.field("embedding").type),
        arrow.array([None if m is None else m.decode() for m in batch.metadata], arrow.string()),
    ]
    return arrow.RecordBatch.from_arrays(columns, schema=schema)
