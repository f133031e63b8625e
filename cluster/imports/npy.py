"""A .npy array, and labels beside it: JSON lines, or a text file of one identity a line.

`faces.npy` goes with `faces.jsonl` or `faces.txt`; a directory that `facegrid export --format npy` wrote has
`embeddings.npy`, `labels.jsonl` and `gallery.json`. A line of JSON is an object of `template_id`, `identity` and
`metadata`, any of which may be missing or null. Labels are counted before anything is read, and read line by line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from cluster.imports.arrays import check_array_dim, read_embeddings, widened
from cluster.imports.records import RawBatch, batch_rows
from shard.errors import InvalidFile, InvalidParameter

ARRAY, LABELS, ABOUT = "embeddings.npy", "labels.jsonl", "gallery.json"
MAX_LINE_BYTES = 1 << 17
"""Of labels: several times the most that ids and metadata may have."""
_FIELDS = {"template_id", "identity", "metadata"}
_CHUNK = 1 << 20

_Label = tuple[object, object, object]
"""Template id, identity, metadata."""


class NpyRecords:
    """An opened array with its labels."""

    def __init__(self, path: Path, dim: int, labels: Path | None = None) -> None:
        """labels: a file of them; None looks for one beside the array. InvalidEmbedding, InvalidFile."""
        array = path / ARRAY if path.is_dir() else path
        self._rows = read_embeddings(array, may_be_empty=True)
        check_array_dim(array, self._rows, dim)
        self._labels = _beside(path) if labels is None else labels
        self.embedder = _embedder(path / ABOUT) if path.is_dir() else None
        if self._labels is not None:
            lines = _count_lines(self._labels)
            if lines != len(self._rows):
                raise InvalidFile(f"{self._labels}: expected {len(self._rows)} lines, one a row, got {lines}")

    @property
    def total(self) -> int:
        """See Records."""
        return len(self._rows)

    def batches(self) -> Iterator[RawBatch]:
        """See Records."""
        step = batch_rows(self._rows.shape[1])
        with ExitStack() as stack:
            lines = None if self._labels is None else _labels(self._labels, stack)
            for start in range(0, len(self._rows), step):
                rows = widened(self._rows[start : start + step])
                some = [(None, None, None)] * len(rows) if lines is None else list(islice(lines, len(rows)))
                if len(some) != len(rows):
                    raise InvalidFile(f"{self._labels}: became shorter while it was read")
                yield RawBatch(
                    embeddings=rows,
                    template_ids=[label[0] for label in some],
                    identities=[label[1] for label in some],
                    metadata=[label[2] for label in some],
                    sources=("",) * len(rows),
                    places=[f"row {start + i}" for i in range(len(rows))],
                )


def _beside(path: Path) -> Path | None:
    if path.is_dir():
        return path / LABELS if (path / LABELS).exists() else None
    return next((p for p in (path.with_suffix(".jsonl"), path.with_suffix(".txt")) if p.exists()), None)


def _embedder(about: Path) -> str | None:
    if not about.exists():
        return None
    try:
        document = json.loads(about.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidFile(f"{about}: expected a JSON document: {error}") from error
    found = document.get("embedder") if isinstance(document, dict) else None
    return found if isinstance(found, str) else None


def _count_lines(path: Path) -> int:
    lines, last = 0, b"\n"
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                lines, last = lines + chunk.count(b"\n"), chunk[-1:]
    except OSError as error:
        raise InvalidParameter(f"{path}: expected a file of labels: {error}") from error
    return lines + (last != b"\n")


def _labels(path: Path, stack: ExitStack) -> Iterator[_Label]:
    """The labels of each line. The file is closed by `stack`."""
    file = stack.enter_context(path.open("rb"))
    return _lines(path, file, is_json=path.suffix == ".jsonl")


def _lines(path: Path, file: BinaryIO, *, is_json: bool) -> Iterator[_Label]:
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise InvalidFile(f"{path}: line {number}: expected at most {MAX_LINE_BYTES} bytes")
        where = f"{path}: line {number}"
        yield _from_json(line, where) if is_json else (None, _identity(line, where), None)


def _identity(line: bytes, where: str) -> str | None:
    try:
        return line.decode().removesuffix("\n").removesuffix("\r") or None
    except UnicodeDecodeError as error:
        raise InvalidFile(f"{where}: expected UTF-8: {error}") from error


def _from_json(line: bytes, where: str) -> _Label:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidFile(f"{where}: expected a JSON object: {error}") from error
    if not isinstance(found, dict) or not found.keys() <= _FIELDS:
        raise InvalidFile(f"{where}: expected an object of {', '.join(sorted(_FIELDS))}, got {line[:80]!r}")
    return found.get("template_id"), found.get("identity"), found.get("metadata")
