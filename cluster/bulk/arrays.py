"""Embeddings in .npy arrays, on this machine or in a bucket, with labels in files of a line a row.

Rows and lines are read from where they are: an array is never in memory as a whole, and never unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np

from cluster.bulk.places import ListedFile, SourceFiles
from cluster.imports.arrays import widened
from cluster.imports.records import RawBatch
from shard.errors import InvalidEmbedding, InvalidFile

MAX_LINE = 1 << 17


@dataclass(frozen=True, slots=True)
class LabelFile:
    """Lines of labels. kind: which labels. starts: where the line of each unit's first row begins, and the end.

    unit_rows: rows of a unit.
    """

    kind: str
    url: str
    file: ListedFile
    starts: tuple[int, ...]
    unit_rows: int


@dataclass(frozen=True, slots=True)
class ArrayShape:
    """Where the rows of an array begin in its file, how many there are, of which dimension and dtype."""

    offset: int
    rows: int
    dim: int
    dtype: str


def array_shape(files: SourceFiles, file: ListedFile, dim: int) -> ArrayShape:
    """What the header says. InvalidEmbedding if it is no array (n, dim) of float32 or float16 in C order."""
    try:
        with files.open(file) as opened:
            version = np.lib.format.read_magic(cast(Any, opened))
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, is_fortran, dtype = read(cast(Any, opened))
            offset = opened.tell()
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, EOFError) as error:
        raise InvalidEmbedding(f"{file.path}: expected a .npy file of embeddings: {error}") from error
    if dtype not in (np.dtype(np.float32), np.dtype(np.float16)) or len(shape) != 2 or is_fortran:
        raise InvalidEmbedding(f"{file.path}: expected (n, {dim}) float32 or float16, got {shape} {dtype}")
    if shape[1] != dim:
        raise InvalidEmbedding(f"{file.path}: expected embeddings of {dim} dimensions, got {shape[1]}")
    if offset + shape[0] * dim * dtype.itemsize != file.size:
        raise InvalidEmbedding(f"{file.path}: {shape} {dtype} do not fit a file of {file.size} bytes")
    return ArrayShape(offset, shape[0], dim, dtype.str)


def label_file(files: SourceFiles, kind: str, rows: int, unit_rows: int) -> LabelFile:
    """A file of labels, with the beginning of each unit's lines. InvalidFile unless it has a line for each row."""
    file = files.stat(files.path)
    starts, lines, at = [0], 0, 0
    with files.open(file) as opened:
        for line in _raw_lines(opened, file.path):
            lines, at = lines + 1, at + len(line)
            if lines % unit_rows == 0:
                starts.append(at)
    if lines != rows:
        raise InvalidFile(f"{file.path}: expected {rows} lines, one a row, got {lines}")
    if starts[-1] != at:
        starts.append(at)
    return LabelFile(kind, files.url, file, tuple(starts), unit_rows)


def read_rows(files: SourceFiles, file: ListedFile, shape: ArrayShape, start: int, stop: int) -> Any:
    """Rows start to stop as (n, dim) float32."""
    dtype = np.dtype(shape.dtype)
    width = shape.dim * dtype.itemsize
    with files.open(file) as opened:
        opened.seek(shape.offset + start * width)
        data = opened.read((stop - start) * width)
    if len(data) != (stop - start) * width:
        raise InvalidFile(f"{file.path}: has changed since the job listed it")
    return widened(np.frombuffer(data, dtype).reshape(-1, shape.dim))


def read_array(
    files: SourceFiles, file: ListedFile, shape: ArrayShape, labels: Sequence[LabelFile], start: int, stop: int
) -> RawBatch:
    """The records of a unit of rows; places are row numbers."""
    rows = read_rows(files, file, shape, start, stop)
    columns: dict[str, list[Any]] = {name: [None] * len(rows) for name in ("template_id", "identity", "metadata")}
    for label in labels:
        _take_lines(label, start, len(rows), columns)
    return RawBatch(
        embeddings=rows,
        template_ids=columns["template_id"],
        identities=columns["identity"],
        metadata=columns["metadata"],
        sources=("",) * len(rows),
        places=[str(row) for row in range(start, stop)],
    )


def _take_lines(label: LabelFile, start: int, rows: int, columns: dict[str, list[Any]]) -> None:
    unit = start // label.unit_rows
    with SourceFiles(label.url).open(label.file) as opened:
        opened.seek(label.starts[unit])
        data = opened.read(label.starts[unit + 1] - label.starts[unit])
    lines = data.removesuffix(b"\n").split(b"\n")
    if len(lines) != rows:
        raise InvalidFile(f"{label.file.path}: has changed since the job listed it")
    for row, line in enumerate(lines):
        where = f"{label.file.path}: line {start + row + 1}"
        try:
            text = line.decode().removesuffix("\r")
            if label.kind == "labels":
                for name, value in _object(text).items():
                    columns[name][row] = value
            else:
                columns["template_id" if label.kind == "template_ids" else "identity"][row] = text or None
        except (ValueError, RecursionError) as error:
            raise InvalidFile(f"{where}: {error}") from error


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict) or value.keys() - {"template_id", "identity", "metadata"}:
        raise ValueError("expected an object of template_id, identity and metadata")
    return value


def _raw_lines(opened: BinaryIO, path: str) -> Iterator[bytes]:
    rest, number = b"", 0
    while chunk := opened.read(1 << 20):
        *lines, rest = (rest + chunk).split(b"\n")
        number += len(lines)
        if len(rest) > MAX_LINE or any(len(line) > MAX_LINE for line in lines):
            raise InvalidFile(f"{path}: about line {number}: expected at most {MAX_LINE} bytes")
        for line in lines:
            yield line + b"\n"
    if rest:
        yield rest
