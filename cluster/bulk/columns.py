"""Parquet and Arrow IPC files with columns of image bytes or of embeddings, identities, ids and metadata.

What a column is called is told by the source, or found: `image` (bytes, or a struct with a field `bytes`) or
`embedding` (lists of floats), `identity`, `template_id`, `metadata` (JSON, a struct or a map).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.bulk.parameters import Source
from cluster.bulk.places import ListedFile, SourceFiles
from cluster.imports.parquet import check_sizes, embedding_floats, metadata_value, wrong_length
from cluster.imports.records import RawBatch
from coordinator.snapshots.places import pyarrow
from shard.errors import FacegridError, InvalidFile

_BATCH, _IMAGES = 1_024, 32
"""Rows that are decoded at once: of embeddings, and of images."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column is what; None: there is none. has_images: image bytes, not embeddings. groups: rows of each part."""

    has_images: bool
    value: str
    identity: str | None
    template_id: str | None
    metadata: str | None
    groups: tuple[int, ...]

    @property
    def names(self) -> list[str]:
        """All columns that are read."""
        return [name for name in (self.value, self.identity, self.template_id, self.metadata) if name is not None]


@dataclass(frozen=True, slots=True)
class ImageRow:
    """A row with an image. data: None where it is null."""

    row: int
    data: bytes | None
    identity: object
    template_id: object
    metadata: object


def columns_of(files: SourceFiles, file: ListedFile, source: Source, dim: int) -> Columns:
    """What a file's schema says. InvalidFile if it is none, or has neither images nor embeddings."""
    with _reporting(file), _Opened(files, file) as opened:
        schema = opened.schema
        value, has_images = _value_column(schema, source, file)
        kind = schema.field(value).type
        _check_kind(kind, file, value, dim, has_images)
        if opened.is_parquet:
            check_sizes(file.path, opened.file.metadata, value if not has_images else "")
        wanted = {
            "identity": source.identity_column,
            "template_id": source.template_id_column,
            "metadata": source.metadata_column,
        }
        found = {name: _named(schema, given, name, file) for name, given in wanted.items()}
        return Columns(has_images, value, groups=opened.groups(), **found)


def embeddings_of(batch: Any, columns: Columns, start: int, dim: int) -> RawBatch:
    """The records of a batch whose first row is `start` of its part; places are the rows' numbers in the part."""
    rows, lengths = embedding_floats(batch.column(columns.value), dim)
    good = np.flatnonzero(lengths == dim)
    bad = [wrong_length(str(start + i), int(lengths[i]), dim) for i in np.flatnonzero(lengths != dim).tolist()]
    taken = batch.take(pyarrow().array(good))
    template_ids, identities, metadata = (
        [None] * len(good) if name is None else taken.column(name).to_pylist()
        for name in (columns.template_id, columns.identity, columns.metadata)
    )
    return RawBatch(
        embeddings=rows,
        template_ids=template_ids,
        identities=identities,
        metadata=[metadata_value(value) for value in metadata],
        sources=("",) * len(good),
        places=[str(start + i) for i in good.tolist()],
        refused=tuple(bad),
    )


def images_of(batch: Any, columns: Columns, start: int) -> Iterator[ImageRow]:
    """The images of a batch whose first row is `start` of its part."""
    for row, values in enumerate(batch.to_pylist(), start=start):
        image = values[columns.value]
        yield ImageRow(
            row=row,
            data=image.get("bytes") if isinstance(image, dict) else image,
            identity=_value(values, columns.identity),
            template_id=_value(values, columns.template_id),
            metadata=metadata_value(_value(values, columns.metadata)),
        )


def _value(values: dict[str, Any], name: str | None) -> object:
    return None if name is None else values[name]


class ColumnReader:
    """Rows of a file's parts, asked for in their order; keeps its place for whoever asks next."""

    def __init__(self) -> None:
        self._key: object = None
        self._opened: _Opened | None = None
        self._batches: Iterator[Any] = iter(())
        self._rest: Any = None
        self._at = 0

    def rows(
        self, files: SourceFiles, file: ListedFile, columns: Columns, group: int, start: int, stop: int, step: int
    ) -> Iterator[Any]:
        """Rows start to stop of a part, as record batches of `step` rows, the last one shorter; InvalidFile."""
        with _reporting(file):
            self._go_to(files, file, columns, group, start)
            for at in range(start, stop, step):
                yield self._take(min(step, stop - at))

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._opened is not None:
            self._opened.close()
        self._key, self._opened, self._rest = None, None, None

    def _go_to(self, files: SourceFiles, file: ListedFile, columns: Columns, group: int, start: int) -> None:
        key = (files.url, file, columns, group)
        if self._key != key or start < self._at:
            self.close()
            self._opened = _Opened(files, file)
            self._key, self._at = key, 0
            self._batches = self._opened.batches(group, columns)
        while self._at < start:
            self._take(min(_BATCH, start - self._at))

    def _take(self, rows: int) -> Any:
        """The next rows as one batch."""
        found, missing = [], rows
        while missing:
            if self._rest is None or not len(self._rest):
                self._rest = next(self._batches, None)
                if self._rest is None:
                    raise ValueError("has fewer rows than the job listed")
            found.append(self._rest.slice(0, missing))
            self._rest = self._rest.slice(len(found[-1]))
            missing -= len(found[-1])
        self._at += rows
        return found[0] if len(found) == 1 else pyarrow().Table.from_batches(found).combine_chunks().to_batches()[0]


class _Opened:
    """A Parquet file, or an Arrow IPC one: parts that are row groups, or record batches."""

    def __init__(self, files: SourceFiles, file: ListedFile) -> None:
        self.is_parquet = not file.path.endswith((".arrow", ".feather"))
        self._closing = ExitStack()
        raw = self._closing.enter_context(files.open(file))
        arrow = pyarrow()
        if self.is_parquet:
            self.file = self._closing.enter_context(arrow.parquet.ParquetFile(raw, pre_buffer=False))
            self.schema = self.file.schema_arrow
        else:
            self.file = self._closing.enter_context(arrow.ipc.open_file(raw))
            self.schema = self.file.schema

    def groups(self) -> tuple[int, ...]:
        """How many rows each part has."""
        if self.is_parquet:
            about = self.file.metadata
            return tuple(about.row_group(i).num_rows for i in range(about.num_row_groups))
        return tuple(self.file.get_batch(i).num_rows for i in range(self.file.num_record_batches))

    def batches(self, group: int, columns: Columns) -> Iterator[Any]:
        """All rows of a part."""
        if not self.is_parquet:
            return iter([self.file.get_batch(group).select(columns.names)])
        rows = _IMAGES if columns.has_images else _BATCH
        found: Iterator[Any] = self.file.iter_batches(
            rows, row_groups=[group], columns=columns.names, use_threads=False
        )
        return found

    def close(self) -> None:
        """Close the file."""
        self._closing.close()

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@contextmanager
def _reporting(file: ListedFile) -> Iterator[None]:
    """What pyarrow says of a file that is none becomes InvalidFile."""
    try:
        yield
    except (pyarrow().ArrowException, OSError, ValueError, KeyError) as error:
        if isinstance(error, FacegridError):
            raise
        raise InvalidFile(f"{file.path}: {error}") from error


def _value_column(schema: Any, source: Source, file: ListedFile) -> tuple[str, bool]:
    if source.image_column is not None and source.embedding_column is not None:
        raise InvalidFile(f"{file.path}: expected image_column or embedding_column, got both")
    for name, has_images in ((source.image_column, True), (source.embedding_column, False)):
        if name is not None:
            _named(schema, name, name, file)
            return name, has_images
    for name, has_images in (("embedding", False), ("image", True)):
        if name in schema.names:
            return name, has_images
    shown = ", ".join(schema.names)[:200]
    raise InvalidFile(f"{file.path}: expected a column embedding or image, or to be told which; found {shown}")


def _named(schema: Any, given: str | None, default: str, file: ListedFile) -> str | None:
    if given is not None and given not in schema.names:
        raise InvalidFile(f"{file.path}: expected a column {given!r}, found {', '.join(schema.names)[:200]}")
    return given or (default if default in schema.names else None)


def _check_kind(kind: Any, file: ListedFile, name: str, dim: int, has_images: bool) -> None:
    types = pyarrow().types
    if has_images:
        if types.is_struct(kind):
            kind = next((f.type for f in kind if f.name == "bytes"), kind)
        if not types.is_binary(kind) and not types.is_large_binary(kind):
            raise InvalidFile(f"{file.path}: column {name}: expected bytes of images, got {kind}")
        return
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if not is_list or not types.is_floating(kind.value_type):
        raise InvalidFile(f"{file.path}: column {name}: expected lists of floats, got {kind}")
    if types.is_fixed_size_list(kind) and kind.list_size != dim:
        raise InvalidFile(f"{file.path}: expected embeddings of {dim} dimensions, got {kind.list_size}")
