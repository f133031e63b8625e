"""`Corpus`: the rows of one snapshot or of two as one sequence, read where they are.

Global row numbers run from 0: the first input's rows, its shards ascending and their blocks as the manifest has them,
then the second's. The rows are cut into parts, which are what the join pairs. Floats are mapped and labels read block
by block, so memory is what a caller asks for, never the gallery.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from cluster.dedup.objects import MappedObjects
from coordinator.snapshots.manifest import BlockEntry, Manifest, manifest_digest
from coordinator.snapshots.places import pyarrow
from coordinator.snapshots.store import SnapshotStore
from shard.errors import CorruptData, InvalidParameter, ModelMismatch
from shard.types import FloatArray, RowArray

PART_ROWS = 131_072
"""Rows of a part: 64 MiB of floats for each 128 dimensions, and a sketch of some 17 MiB."""
LEAST_PART_ROWS = 8_192
LEAST_PARTS = 8
"""Parts that a gallery is cut into if they do not get too small by it: 36 blocks, so that all processors have work."""
LABELS = ("template_id", "identity", "metadata", "lsn")


@dataclass(frozen=True, slots=True)
class Input:
    """A snapshot of a store. store: path or URL, from which it can be opened on another machine too."""

    store: str
    snapshot_id: str


@dataclass(frozen=True, slots=True)
class CorpusSpec:
    """What a corpus is opened from, the same everywhere. part_rows: None for what suits the number of rows."""

    inputs: tuple[Input, ...]
    part_rows: int | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """Rows start <= row < stop of the corpus, all of one input."""

    number: int
    input: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class _Block:
    """A block of a snapshot, and where it is in the corpus. shard: of its input's gallery."""

    input: int
    shard: int
    start: int
    entry: BlockEntry


class Corpus:
    """The rows of a dedup job. Thread-safe."""

    def __init__(self, spec: CorpusSpec) -> None:
        """Open the snapshots; see `open`."""
        if len(spec.inputs) not in (1, 2):
            raise InvalidParameter(f"corpus: expected one snapshot or two, got {len(spec.inputs)}")
        stores = [SnapshotStore.open(source.store) for source in spec.inputs]
        self.manifests: tuple[Manifest, ...] = tuple(
            store.snapshot(source.snapshot_id) for store, source in zip(stores, spec.inputs, strict=True)
        )
        self._objects = [MappedObjects(store) for store in stores]
        self.dim = _one_dim(self.manifests)
        self._blocks = _blocks_of(self.manifests)
        self._starts = np.array([block.start for block in self._blocks], dtype=np.int64)
        self.bounds = tuple(np.cumsum([0, *(manifest.templates for manifest in self.manifests)]).tolist())
        # Whoever opens it elsewhere has the same parts.
        self.spec = replace(spec, part_rows=spec.part_rows or _suited_part_rows(len(self)))
        self.parts = _parts_of(self.bounds, self.spec.part_rows)

    @classmethod
    def open(cls, inputs: Sequence[tuple[str, str]], *, part_rows: int | None = None) -> Corpus:
        """The corpus of (store, snapshot id) pairs, one or two.

        Raises UnknownSnapshot, CorruptData for a damaged manifest, ModelMismatch for two dimensions or embedders,
        StoreUnavailable, MissingExtra.
        """
        return cls(CorpusSpec(tuple(Input(*source) for source in inputs), part_rows))

    def __len__(self) -> int:
        return int(self.bounds[-1])

    @property
    def is_cross(self) -> bool:
        """Whether there are two inputs, of which pairs have a row each."""
        return len(self.manifests) == 2

    @property
    def digests(self) -> list[dict[str, Any]]:
        """What each input is, for the summary: sha256 is the manifest's, which names every object by its own."""
        return [
            {
                "gallery": manifest.gallery,
                "snapshot_id": manifest.snapshot_id,
                "sha256": manifest_digest(manifest),
                "created_at": manifest.created_at,
                "templates": manifest.templates,
                "shards": len(manifest.shards),
                "dim": manifest.dim,
                "embedder": manifest.embedder,
            }
            for manifest in self.manifests
        ]

    def part_floats(self, part: Part) -> list[FloatArray]:
        """The part's rows in order, as mapped arrays (n, dim) float32, read-only; CorruptData."""
        found = []
        for block in self._blocks[self._block_of(part.start) : self._block_of(part.stop - 1) + 1]:
            first, last = max(part.start - block.start, 0), min(part.stop - block.start, block.entry.rows)
            found.append(self._floats_of(block)[first:last])
        return found

    def floats(self, rows: RowArray) -> FloatArray:
        """(n, dim) float32 of rows (n,) int64, in their order; InvalidParameter for rows that are none, CorruptData."""
        self._check_rows(rows)
        found = np.empty((len(rows), self.dim), dtype=np.float32)
        order = np.argsort(rows, kind="stable")
        for block, places in self._by_block(rows[order]):
            found[order[places]] = self._floats_of(block)[rows[order[places]] - block.start]
        return found

    def labels(self, rows: RowArray, columns: Sequence[str] = LABELS) -> Any:
        """The labels of rows (n,) int64, ascending, as one pyarrow Table; see `label_batches`."""
        batches = list(self.label_batches(rows, columns))
        return pyarrow().concat_tables(batches) if batches else _label_table([], columns)

    def label_batches(self, rows: RowArray, columns: Sequence[str] = LABELS) -> Iterator[Any]:
        """Labels of rows (n,) int64, ascending, a Table for each block that has some of them.

        Columns: row int64, input int8, shard int32, and those asked for of template_id string, identity string,
        metadata binary, lsn int64. Raises InvalidParameter for rows that are none or not ascending, CorruptData.
        """
        self._check_rows(rows)
        if len(rows) > 1 and not (np.diff(rows) > 0).all():
            raise InvalidParameter("labels: expected rows in ascending order, each once")
        for block, places in self._by_block(rows):
            yield self._labels_of(block, rows[places], columns)

    def verify(self, part: Part) -> int:
        """Compare the SHA-256 of every object that begins in the part; bytes read. CorruptData names what is damaged.

        Objects of stores that are no directories are verified whenever they are fetched.
        """
        first = int(np.searchsorted(self._starts, part.start))
        last = int(np.searchsorted(self._starts, part.stop))
        read = 0
        for block in self._blocks[first:last]:
            for ref in (block.entry.floats, block.entry.labels):
                self._objects[block.input].verify(ref)
                read += ref.size
        return read

    def _floats_of(self, block: _Block) -> FloatArray:
        mapped = self._objects[block.input].get(block.entry.floats)
        return np.frombuffer(mapped, dtype="<f4").reshape(block.entry.rows, self.dim)

    def _labels_of(self, block: _Block, rows: RowArray, columns: Sequence[str]) -> Any:
        arrow = pyarrow()
        ref = block.entry.labels
        where = f"{self.spec.inputs[block.input].snapshot_id}: object {ref.sha256}"
        try:
            source = arrow.BufferReader(arrow.py_buffer(self._objects[block.input].get(ref)))
            table = arrow.parquet.read_table(source, columns=list(columns))
        except (ValueError, OSError, KeyError) as error:  # pyarrow's own errors are of these
            raise CorruptData(f"{where} is not a file of labels: {error}") from error
        if table.num_rows != block.entry.rows or set(table.column_names) != set(columns):
            raise CorruptData(f"{where}: expected {block.entry.rows} rows of {columns}, found {table.num_rows}")
        taken = table.take(arrow.array(rows - block.start)).select(list(columns))
        return _label_table([rows, (block.input, block.shard), *taken.columns], columns)

    def _by_block(self, rows: RowArray) -> Iterator[tuple[_Block, slice]]:
        """Blocks and the places in the ascending rows that are theirs."""
        if not len(rows):
            return
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        edges = np.flatnonzero(np.diff(numbers)) + 1
        for begin, end in zip([0, *edges.tolist()], [*edges.tolist(), len(rows)], strict=True):
            yield self._blocks[int(numbers[begin])], slice(begin, end)

    def _block_of(self, row: int) -> int:
        return int(np.searchsorted(self._starts, row, side="right")) - 1

    def _check_rows(self, rows: RowArray) -> None:
        if len(rows) and not (int(rows.min()) >= 0 and int(rows.max()) < len(self)):
            raise InvalidParameter(f"rows: expected 0 to {len(self) - 1}, got {rows.min()} to {rows.max()}")


def _one_dim(manifests: Sequence[Manifest]) -> int:
    first, last = manifests[0], manifests[-1]
    if first.dim != last.dim:
        raise ModelMismatch(f"{first.gallery} has dimension {first.dim}, {last.gallery} {last.dim}")
    if first.embedder is not None and last.embedder is not None and first.embedder != last.embedder:
        raise ModelMismatch(f"{first.gallery} has embeddings of {first.embedder}, {last.gallery} of {last.embedder}")
    return first.dim


def _blocks_of(manifests: Sequence[Manifest]) -> list[_Block]:
    blocks, start = [], 0
    for number, manifest in enumerate(manifests):
        for shard in sorted(manifest.shards, key=lambda entry: entry.shard):
            for entry in shard.blocks:
                blocks.append(_Block(number, shard.shard, start, entry))
                start += entry.rows
    return blocks


def _suited_part_rows(rows: int) -> int:
    return min(PART_ROWS, max(LEAST_PART_ROWS, -(-rows // LEAST_PARTS)))


def _parts_of(bounds: Sequence[int], part_rows: int | None) -> tuple[Part, ...]:
    """Parts of about equal size of each input, none across two of them. part_rows: most that one may have."""
    suited = part_rows or _suited_part_rows(bounds[-1])
    parts: list[Part] = []
    for number, (begin, end) in enumerate(pairwise(bounds)):
        count = -(-(end - begin) // suited)
        edges = [begin + (end - begin) * i // count for i in range(count + 1)] if count else []
        parts += [Part(len(parts) + i, number, *edge) for i, edge in enumerate(pairwise(edges))]
    return tuple(parts)


def _label_table(values: list[Any], columns: Sequence[str]) -> Any:
    """A table of labels: rows, (input, shard) and the columns; empty for no values."""
    arrow = pyarrow()
    kinds = {
        "template_id": arrow.string(),
        "identity": arrow.string(),
        "metadata": arrow.binary(),
        "lsn": arrow.int64(),
    }
    fields = [("row", arrow.int64()), ("input", arrow.int8()), ("shard", arrow.int32())]
    schema = arrow.schema([*fields, *((name, kinds[name]) for name in columns)])
    if not values:
        return schema.empty_table()
    rows, (number, shard), *rest = values
    same = [np.full(len(rows), number, np.int8), np.full(len(rows), shard, np.int32)]
    return arrow.Table.from_arrays([arrow.array(rows), *(arrow.array(column) for column in same), *rest], schema=schema)
