"""Photos of sources before they are read: where each is, whose it is said to be, or why it is not looked at.

Kept as Arrow tables, for there may be tens of millions. Knows nothing of pixels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

from cluster.bulk.places import ListedFile
from coordinator.snapshots.places import pyarrow

WHOLE = -1
"""Offset of a photo that is a file of its own."""
_CHUNK = 65_536


@dataclass(frozen=True, slots=True)
class Item:
    """A photo of a source. file: number of its file among the job's. offset, size: its bytes there, see WHOLE.

    name: how results call it. metadata: JSON, or None. reason: why it is refused unseen, or None, with a message.
    """

    name: str
    file: int
    offset: int
    size: int
    identity: str | None = None
    template_id: str | None = None
    metadata: str | None = None
    reason: str | None = None
    message: str | None = None

    def metadata_object(self) -> Mapping[str, Any] | None:
        """The metadata as it was given."""
        return None if self.metadata is None else json.loads(self.metadata)


_ITEM = ("name", "file", "offset", "size", "identity", "template_id", "metadata", "reason", "message")
_FILE = ("path", "size", "modified", "is_link")


@dataclass(slots=True)
class Rows:
    """Columns that grow, as chunks of Arrow."""

    names: tuple[str, ...]
    types: tuple[Any, ...]
    chunks: list[Any] = field(default_factory=list)
    waiting: list[tuple[Any, ...]] = field(default_factory=list)
    length: int = 0

    def add(self, row: tuple[Any, ...]) -> int:
        """Append a row; its number."""
        self.waiting.append(row)
        self.length += 1
        if len(self.waiting) >= _CHUNK:
            self._cut()
        return self.length - 1

    def table(self) -> Any:
        """All rows, as one table."""
        self._cut()
        return pyarrow().Table.from_batches(self.chunks, self._schema())

    def _cut(self) -> None:
        columns = list(zip(*self.waiting, strict=True)) or [()] * len(self.names)
        arrays = [pyarrow().array(column, kind) for column, kind in zip(columns, self.types, strict=True)]
        self.chunks.append(pyarrow().record_batch(arrays, schema=self._schema()))
        self.waiting.clear()

    def _schema(self) -> Any:
        return pyarrow().schema(list(zip(self.names, self.types, strict=True)))


class ItemTables:
    """Files and items of a job as they are listed."""

    def __init__(self) -> None:
        arrow = pyarrow()
        text, number = arrow.string(), arrow.int64()
        self._files = Rows(_FILE, (arrow.binary(), number, number, arrow.bool_()))
        self._items = Rows(_ITEM, (text, arrow.int32(), number, number, text, text, text, text, text))

    def add_file(self, file: ListedFile) -> int:
        """Note a file; its number."""
        return self._files.add((os.fsencode(file.path), file.size, file.modified, file.is_link))

    def add(self, item: Item) -> None:
        """Note an item, after those before it."""
        self._items.add(astuple(item))

    @property
    def items(self) -> int:
        """How many items there are."""
        return self._items.length

    def tables(self) -> tuple[Any, Any]:
        """Files, and items."""
        return self._files.table(), self._items.table()


def items_of(table: Any, start: int, stop: int) -> tuple[Item, ...]:
    """Items of the table by number."""
    part = table.slice(start, stop - start).to_pydict()
    return tuple(Item(*row) for row in zip(*(part[name] for name in _ITEM), strict=True))


def files_of(table: Any, numbers: Sequence[int]) -> dict[int, ListedFile]:
    """Files of the table by number."""
    wanted = sorted(set(numbers))
    part = table.take(wanted).to_pydict()
    rows = zip(part["path"], part["size"], part["modified"], part["is_link"], strict=True)
    return {n: ListedFile(os.fsdecode(path), *rest) for n, (path, *rest) in zip(wanted, rows, strict=True)}


def encoded(table: Any) -> bytes:
    """The table as bytes, the same for the same rows."""
    arrow = pyarrow()
    sink = arrow.BufferOutputStream()
    options = arrow.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
    with arrow.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=_CHUNK)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def decoded(data: bytes) -> Any:
    """The table of `encoded`."""
    with pyarrow().ipc.open_stream(data) as reader:
        return reader.read_all()
