"""What a job's sources hold, listed once, and cut into units: the pieces that a worker does and that have a checkpoint.

The listing is a checkpoint itself, so that a job that is resumed works on what it began with: files that come later are
not seen, and those that changed are said to have.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, cast

from pydantic import TypeAdapter

from cluster.bulk.arrays import ArrayShape, LabelFile, array_shape, label_file
from cluster.bulk.columns import Columns, columns_of
from cluster.bulk.folders import list_folder, list_manifest
from cluster.bulk.items import Item, ItemTables, decoded, encoded, files_of, items_of
from cluster.bulk.parameters import Kind, Source, Work
from cluster.bulk.places import ListedFile, SourceFiles, shown_url
from cluster.bulk.tars import index
from cluster.faces import ImageLimits
from cluster.images import source_text
from shard.errors import InvalidParameter

_ENDINGS: dict[str, Kind] = {
    ".tar": "tar",
    ".tar.gz": "tar",
    ".tgz": "tar",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".npy": "npy",
}


@dataclass(frozen=True, slots=True)
class TableFile:
    """A file of rows: Parquet or Arrow with its columns, or an array with its shape and labels."""

    name: str
    file: ListedFile
    columns: Columns | None = None
    shape: ArrayShape | None = None
    labels: tuple[LabelFile, ...] = ()

    @property
    def has_images(self) -> bool:
        """Whether its rows are photos."""
        return self.columns is not None and self.columns.has_images


@dataclass(frozen=True, slots=True)
class Part:
    """Of a source: a range of items (start to stop), or the rows of one part of a file (`table`, `group`).

    first_row: of that part in the file.
    """

    source: int
    start: int
    stop: int
    table: int | None = None
    group: int = 0
    first_row: int = 0


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of work: photos of folders and archives, or rows of a file. number: from 0, in the order of the input."""

    number: int
    url: str
    items: tuple[Item, ...] = ()
    files: tuple[tuple[int, ListedFile], ...] = ()
    table: TableFile | None = None
    group: int = 0
    start: int = 0
    stop: int = 0
    first_row: int = 0

    def __len__(self) -> int:
        """Items in it."""
        return len(self.items) if self.table is None else self.stop - self.start

    @property
    def has_photos(self) -> bool:
        """Whether its items are photos, not embeddings."""
        return self.table is None or self.table.has_images


@dataclass(frozen=True, slots=True)
class _Outline:
    """Of a listing, what is no table of Arrow."""

    sources: tuple[str, ...]
    parts: tuple[Part, ...]
    tables: tuple[TableFile, ...]
    unit_photos: int
    unit_rows: int


_OUTLINE = TypeAdapter(_Outline)


class Listing:
    """What there is to do. Immutable."""

    def __init__(self, outline: _Outline, files: Any, items: Any) -> None:
        """Use `listed` or `from_bytes`."""
        self._outline, self._files, self._items = outline, files, items
        sizes = [-(-(part.stop - part.start) // self._step(part)) for part in outline.parts]
        self._ends = list(accumulate(sizes))

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources, as results name them."""
        return tuple(map(shown_url, self._outline.sources))

    @property
    def items(self) -> int:
        """Photos and rows in all."""
        return sum(part.stop - part.start for part in self._outline.parts)

    @property
    def units(self) -> int:
        """Pieces of work."""
        return self._ends[-1] if self._ends else 0

    @property
    def has_photos(self) -> bool:
        """Whether a network is needed."""
        return any(self._is_photos(part) for part in self._outline.parts)

    @property
    def has_rows(self) -> bool:
        """Whether there are embeddings."""
        return not all(self._is_photos(part) for part in self._outline.parts)

    def source_of(self, number: int) -> str:
        """The source that a unit is of, as results name it."""
        return self.sources[self._part(number)[0].source]

    def unit(self, number: int) -> Unit:
        """A unit by number."""
        part, within = self._part(number)
        step = self._step(part)
        start = part.start + within * step
        stop = min(start + step, part.stop)
        url = self._outline.sources[part.source]
        if part.table is None:
            items = items_of(self._items, start, stop)
            files = files_of(self._files, [item.file for item in items])
            return Unit(number, url, items=items, files=tuple(files.items()))
        table = self._outline.tables[part.table]
        return Unit(number, url, (), (), table, part.group, start, stop, part.first_row)

    def inputs(self) -> dict[str, Any]:
        """What the job works on, for its summary: files, bytes and a digest over names, sizes and times."""
        digest, count, size = hashlib.sha256(), 0, 0
        for file in self._all_files():
            digest.update(b"%s\0%d\0%d\n" % (os.fsencode(file.path), file.size, file.modified))
            count, size = count + 1, size + file.size
        return {"sources": list(self.sources), "files": count, "bytes": size, "sha256": digest.hexdigest()}

    def to_bytes(self) -> dict[str, bytes]:
        """Checkpoints by name; the outline is the last, and the listing is there when that is."""
        outline = _OUTLINE.dump_json(self._outline)
        return {"listing-files": encoded(self._files), "listing-items": encoded(self._items), "listing": outline}

    @classmethod
    def from_bytes(cls, data: dict[str, bytes]) -> Listing:
        """The listing of `to_bytes`."""
        outline = _OUTLINE.validate_json(data["listing"])
        return cls(outline, decoded(data["listing-files"]), decoded(data["listing-items"]))

    def _all_files(self) -> Iterator[ListedFile]:
        for start in range(0, len(self._files), 65_536):
            part = self._files.slice(start, 65_536)
            yield from files_of(part, range(len(part))).values()
        for table in self._outline.tables:
            yield table.file
            yield from (label.file for label in table.labels)

    def _part(self, number: int) -> tuple[Part, int]:
        """The part that a unit is of, and which of it."""
        low, high = 0, len(self._ends) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if number < self._ends[middle] else (middle + 1, high)
        before = self._ends[low - 1] if low else 0
        return self._outline.parts[low], number - before

    def _step(self, part: Part) -> int:
        return self._outline.unit_photos if self._is_photos(part) else self._outline.unit_rows

    def _is_photos(self, part: Part) -> bool:
        return part.table is None or self._outline.tables[part.table].has_images


def listed(work: Work, dim: int, limits: ImageLimits) -> Listing:
    """List all sources. dim: of the gallery.

    Raises InvalidParameter, InvalidFile, InvalidEmbedding, StoreUnavailable, MissingExtra; what is wrong with a single
    photo is an item that is refused.
    """
    lister = _Lister(work, dim, limits)
    for number, source in enumerate(work.sources):
        lister.add(number, source)
    return lister.done()


class _Lister:
    def __init__(self, work: Work, dim: int, limits: ImageLimits) -> None:
        self._work, self._dim, self._limits = work, dim, limits
        self._items = ItemTables()
        self._parts: list[Part] = []
        self._tables: list[TableFile] = []

    def done(self) -> Listing:
        urls = tuple(source.url for source in self._work.sources)
        work = self._work
        outline = _Outline(urls, tuple(self._parts), tuple(self._tables), work.unit_photos, work.unit_rows)
        return Listing(outline, *self._items.tables())

    def add(self, number: int, source: Source) -> None:
        files = SourceFiles(source.url)
        is_folder = files.is_directory()
        if is_folder and source.kind in ("auto", "folder"):
            self._add_folder(number, source, files)
            return
        _check_options(source, is_folder=False)
        found = files.below() if is_folder else files.matches()
        root = len(os.path.commonpath([os.path.dirname(file.path) for file in found]).rstrip("/")) + 1
        for file in found:
            kind = _kind(source, file)
            if kind is not None:
                self._add_file(number, source, files, file, kind, source_text(file.path[root:]))

    def _add_folder(self, number: int, source: Source, files: SourceFiles) -> None:
        _check_options(source, is_folder=True)
        start = self._items.items
        if source.manifest is None:
            list_folder(files, self._items, max_bytes=self._limits.max_bytes)
        else:
            manifest = SourceFiles(source.manifest)
            list_manifest(files, manifest, self._items, max_bytes=self._limits.max_bytes)
        self._parts.append(Part(number, start, self._items.items))

    def _add_file(
        self, number: int, source: Source, files: SourceFiles, file: ListedFile, kind: Kind, name: str
    ) -> None:
        if kind == "tar":
            start, of_file = self._items.items, self._items.add_file(file)
            limits = {"max_bytes": self._limits.max_bytes, "max_ratio": self._work.max_ratio}
            for item in index(files, file, of_file, name, **cast(Any, limits)):
                self._items.add(item)
            self._parts.append(Part(number, start, self._items.items))
            return
        if file.is_link:
            raise InvalidParameter(f"{file.path}: expected a file, got a link; name what it leads to")
        if kind == "npy":
            shape = array_shape(files, file, self._dim)
            self._add_table(number, TableFile(name, file, None, shape, self._labels(source, shape)), [shape.rows])
            return
        columns = columns_of(files, file, source, self._dim)
        self._add_table(number, TableFile(name, file, columns), columns.groups)

    def _labels(self, source: Source, shape: ArrayShape) -> tuple[LabelFile, ...]:
        given = {"template_ids": source.template_ids, "identities": source.identities, "labels": source.labels}
        unit_rows = self._work.unit_rows
        return tuple(
            label_file(SourceFiles(path), kind, shape.rows, unit_rows)
            for kind, path in given.items()
            if path is not None
        )

    def _add_table(self, number: int, table: TableFile, groups: tuple[int, ...] | list[int]) -> None:
        self._tables.append(table)
        first = 0
        for group, rows in enumerate(groups):
            self._parts.append(Part(number, 0, rows, len(self._tables) - 1, group, first))
            first += rows


def _kind(source: Source, file: ListedFile) -> Kind | None:
    """What a file is; None for one among others that is not what the source is said to be."""
    ending = next((kind for ending, kind in _ENDINGS.items() if file.path.endswith(ending)), None)
    if source.kind == "auto":
        if ending is None:
            known = ", ".join(_ENDINGS)
            raise InvalidParameter(f"source {source.url!r}: {file.path} has none of the endings {known}; say its kind")
        return ending
    return source.kind if ending in (source.kind, None) or source.kind == "tar" else None


_OF_NPY = {"labels", "identities", "template_ids"}


def _check_options(source: Source, *, is_folder: bool) -> None:
    """InvalidParameter for options that do not go with what a source is."""
    given = {name for name, value in source.model_dump(exclude={"url", "kind"}).items() if value is not None}
    is_array = source.kind == "npy" or (source.kind == "auto" and source.url.split("?")[0].endswith(".npy"))
    fitting = {"manifest"} if is_folder else _OF_NPY if is_array else given - _OF_NPY - {"manifest"}
    if given - fitting:
        raise InvalidParameter(f"source {source.url!r}: {min(given - fitting)} does not go with what is there")
