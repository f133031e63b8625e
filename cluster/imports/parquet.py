"""Parquet files with the columns `embedding`, and, where they are there, `template_id`, `identity` and `metadata`.

embedding: a list, large list or fixed-size list of float16, float32 or float64. template_id, identity: text.
metadata: JSON as text or bytes, or a struct or map, which becomes an object. A directory stands for the `.parquet`
files in it, by name. Read batch by batch; pyarrow holds the pages of one batch, and a footer that promises more values
for its rows than embeddings may have is refused before they are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cluster.imports.records import RawBatch, RefusedRecord, batch_rows
from coordinator.snapshots.places import pyarrow
from shard.errors import InvalidFile
from shard.types import MAX_DIM, FloatArray

ABOUT = b"facegrid"
"""Key of the file's metadata that says, as JSON, what gallery it is of."""
_COLUMNS = ("template_id", "identity", "metadata")


class ParquetRecords:
    """One opened file, or several of a directory."""

    def __init__(self, path: Path, dim: int) -> None:
        """dim: of the gallery; rows of another one are refused one by one. InvalidFile, MissingExtra."""
        self._paths = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not self._paths:
            raise InvalidFile(f"{path}: expected .parquet files in this directory, found none")
        self._dim = dim
        about = [_checked(p, dim) for p in self._paths]
        self.total = sum(rows for rows, _ in about)
        names = {embedder for _, embedder in about}
        self.embedder = names.pop() if len(names) == 1 else None

    def batches(self) -> Iterator[RawBatch]:
        """See Records."""
        for path in self._paths:
            yield from self._of_file(path)

    def _of_file(self, path: Path) -> Iterator[RawBatch]:
        start = 0
        arrow = pyarrow()
        try:
            with arrow.parquet.ParquetFile(path, pre_buffer=False) as file:
                columns = ["embedding", *(name for name in _COLUMNS if name in file.schema_arrow.names)]
                for batch in file.iter_batches(batch_rows(self._dim), columns=columns, use_threads=False):
                    yield self._batch(path, batch, start)
                    start += len(batch)
        except (arrow.ArrowException, OSError, ValueError, KeyError) as error:
            if isinstance(error, InvalidFile):
                raise
            raise InvalidFile(f"{path}: row {start} and after: {error}") from error

    def _batch(self, path: Path, batch: Any, start: int) -> RawBatch:
        rows, lengths = embedding_floats(batch.column("embedding"), self._dim)
        good = np.flatnonzero(lengths == self._dim)
        refused = tuple(
            wrong_length(f"{path.name} row {start + i}", int(lengths[i]), self._dim)
            for i in np.flatnonzero(lengths != self._dim).tolist()
        )
        taken = batch if len(good) == len(batch) else batch.take(pyarrow().array(good))
        values = {name: taken.column(name).to_pylist() for name in taken.schema.names if name != "embedding"}
        none = [None] * len(good)
        return RawBatch(
            embeddings=rows,
            template_ids=values.get("template_id", none),
            identities=values.get("identity", none),
            metadata=[metadata_value(value) for value in values.get("metadata", none)],
            sources=("",) * len(good),
            places=[f"{path.name} row {start + i}" for i in good.tolist()],
            refused=refused,
        )


def _checked(path: Path, dim: int) -> tuple[int, str | None]:
    """Rows of a file and the embedder it names; InvalidFile if it cannot be of embeddings."""
    arrow = pyarrow()
    try:
        with arrow.parquet.ParquetFile(path) as file:
            schema, about = file.schema_arrow, file.metadata
            if "embedding" not in schema.names:
                raise InvalidFile(f"{path}: expected a column `embedding`, found {', '.join(schema.names)[:200]}")
            kind = schema.field("embedding").type
            types = arrow.types
            is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
            if not is_list or not types.is_floating(kind.value_type):
                raise InvalidFile(f"{path}: column embedding: expected lists of floats, got {kind}")
            if types.is_fixed_size_list(kind) and kind.list_size != dim:
                raise InvalidFile(
                    f"{path}: expected embeddings of {dim} dimensions as the gallery's, got {kind.list_size}"
                )
            check_sizes(path, about)
            return about.num_rows, _embedder((schema.metadata or {}).get(ABOUT))
    except (arrow.ArrowException, OSError, ValueError) as error:
        if isinstance(error, InvalidFile):
            raise
        raise InvalidFile(f"{path}: expected a Parquet file: {error}") from error


def check_sizes(path: Path | str, about: Any, column_name: str = "embedding") -> None:
    """InvalidFile if a footer promises more values for its rows than embeddings may have.

    about: the file's metadata.
    """
    for number in range(about.num_row_groups):
        group = about.row_group(number)
        for column in (group.column(i) for i in range(group.num_columns)):
            is_embedding = column.path_in_schema.split(".")[0] == column_name
            if is_embedding and column.num_values > group.num_rows * MAX_DIM:
                raise InvalidFile(
                    f"{path}: row group {number} has {column.num_values} values for {group.num_rows} embeddings, which"
                    f" have {MAX_DIM} dimensions at most"
                )


def embedding_floats(column: Any, dim: int) -> tuple[FloatArray, Any]:
    """(m, dim) float32 of the lists that have that length and no null, and the length of each list, -1 for a null."""
    arrow = pyarrow()
    from pyarrow import compute

    lengths = compute.fill_null(compute.list_value_length(column), -1).to_numpy(zero_copy_only=False).copy()
    whole = column.filter(arrow.array(lengths == dim))
    flat = compute.list_flatten(whole)
    if flat.null_count:  # a null in an embedding: NaN, which is refused as not finite
        flat = compute.fill_null(flat, float("nan"))
    with np.errstate(over="ignore"):
        rows = flat.to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, dim)
    return np.ascontiguousarray(rows), lengths


def wrong_length(where: str, length: int, dim: int) -> RefusedRecord:
    """Why an embedding of so many values, -1 for a null, is refused."""
    if length < 0:
        return RefusedRecord(where, "no_embedding", "the embedding is null")
    return RefusedRecord(where, "dimension", f"expected {dim} dimensions as the gallery's, got {length}")


def _embedder(about: bytes | None) -> str | None:
    try:
        found = json.loads(about or b"{}")
    except (ValueError, RecursionError):
        return None  # of somebody else's making
    name = found.get("embedder") if isinstance(found, dict) else None
    return name if isinstance(name, str) else None


def metadata_value(value: object) -> object:
    """Metadata as it was; text and bytes that are no JSON stay what they are, and are refused."""
    if isinstance(value, list):  # a map
        return dict(value) if all(isinstance(pair, tuple) for pair in value) else value
    if not isinstance(value, (str, bytes)):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
