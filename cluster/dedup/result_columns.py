"""Columns of a dedup job's Parquet files, and how they are written: the same bytes for the same rows.

docs/dedup.md has them as tables. No file has a time in it, and none depends on how its rows came in batches.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coordinator.snapshots.places import pyarrow
from shard.files import new_file

GROUPS, PAIRS, MEMBERS, SUMMARY, REPORT = (
    "groups.parquet",
    "pairs.parquet",
    "members.parquet",
    "summary.json",
    "report.html",
)
KEEP, DUPLICATE = "keep", "duplicate"
SAME_PERSON, SAME_PHOTO = "same_person", "same_photo"
ROW_GROUP = 1 << 18
"""Rows of a row group of Parquet: what a reader has in memory at least."""

_FEW_VALUES = ["gallery", "role", "reason", "kind", "left_gallery", "right_gallery"]


def groups_schema() -> Any:
    """The columns of groups.parquet: a row is a template of a group."""
    arrow = pyarrow()
    return arrow.schema(
        [
            arrow.field("group", arrow.int32(), nullable=False),
            arrow.field("gallery", arrow.string(), nullable=False),
            arrow.field("template_id", arrow.string(), nullable=False),
            arrow.field("identity", arrow.string()),
            arrow.field("role", arrow.string(), nullable=False),
            arrow.field("quality", arrow.float32()),
            arrow.field("medoid_score", arrow.float32(), nullable=False),
            arrow.field("is_medoid", arrow.bool_(), nullable=False),
            arrow.field("needs_review", arrow.bool_(), nullable=False),
            arrow.field("reason", arrow.string()),
        ]
    )


def members_schema() -> Any:
    """The columns of members.parquet: row i is which enrollment the template of row i of groups.parquet was."""
    arrow = pyarrow()
    return arrow.schema(
        [
            arrow.field("group", arrow.int32(), nullable=False),
            arrow.field("gallery", arrow.string(), nullable=False),
            arrow.field("template_id", arrow.string(), nullable=False),
            arrow.field("shard", arrow.int32(), nullable=False),
            arrow.field("lsn", arrow.int64(), nullable=False),
            arrow.field("metadata_digest", arrow.binary(16)),
        ]
    )


def pairs_schema() -> Any:
    """The columns of pairs.parquet: a row is two templates whose cosine is at least the threshold."""
    arrow = pyarrow()
    return arrow.schema(
        [
            arrow.field("left_id", arrow.string(), nullable=False),
            arrow.field("right_id", arrow.string(), nullable=False),
            arrow.field("score", arrow.float32(), nullable=False),
            arrow.field("left_shard", arrow.int32(), nullable=False),
            arrow.field("right_shard", arrow.int32(), nullable=False),
            arrow.field("left_gallery", arrow.string(), nullable=False),
            arrow.field("right_gallery", arrow.string(), nullable=False),
            arrow.field("kind", arrow.string(), nullable=False),
            arrow.field("group", arrow.int32()),
        ]
    )


@contextlib.contextmanager
def parquet_writer(path: Path, schema: Any) -> Iterator[Any]:
    """A `pyarrow.parquet.ParquetWriter`; the file is there, durable, when the block ends, or not at all."""
    few = [name for name in schema.names if name in _FEW_VALUES]
    with (
        new_file(path) as file,
        pyarrow().parquet.ParquetWriter(
            file, schema, compression="zstd", compression_level=1, use_dictionary=few, store_schema=False
        ) as writer,
    ):
        yield writer
