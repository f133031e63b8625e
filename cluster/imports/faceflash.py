"""A FaceFlash index directory: `float_vectors.npy`, and `metadata.json` with a label and a path for each row.

Its codes, quantizer and clusters are not read: Facegrid makes its own. `metadata.json` is one document and is read as a
whole, 100 bytes or so for each face; the floats are mapped. Format as FaceFlash 0.1.1 writes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt

from cluster.imports.arrays import check_array_dim, read_embeddings, widened
from cluster.imports.records import RawBatch, batch_rows, source_metadata
from shard.errors import InvalidFile

FLOATS, METADATA, CODES = "float_vectors.npy", "metadata.json", "vectors.npy"
EMBEDDER = "facegrid_embedder"
"""Key of metadata.json that FaceFlash does not have."""


class FaceFlashIndex:
    """An opened index. labels, paths: of each row. embedder: only where `cluster.faceflash` wrote it."""

    def __init__(self, directory: Path, dim: int) -> None:
        """dim: of the gallery. InvalidFile, InvalidEmbedding."""
        self._path = directory
        self.labels, self.paths, self.embedder = _read_metadata(directory / METADATA)
        self._rows: npt.NDArray[Any] | None = None
        if self.labels:  # an empty index is saved with an array that only pickle could read
            self._rows = read_embeddings(directory / FLOATS)
            check_array_dim(directory / FLOATS, self._rows, dim)
            if len(self._rows) != len(self.labels):
                raise InvalidFile(
                    f"{directory}: {METADATA} has {len(self.labels)} labels, {FLOATS} has {len(self._rows)} rows"
                )

    @property
    def total(self) -> int:
        """See Records."""
        return len(self.labels)

    def batches(self) -> Iterator[RawBatch]:
        """See Records."""
        if self._rows is None:
            return
        step = batch_rows(self._rows.shape[1])
        for start in range(0, len(self.labels), step):
            rows = widened(self._rows[start : start + step])
            paths = self.paths[start : start + step]
            yield RawBatch(
                embeddings=rows,
                template_ids=(None,) * len(rows),
                identities=self.labels[start : start + step],
                metadata=[source_metadata(path) for path in paths],
                sources=paths,
                places=[f"row {start + i}" for i in range(len(rows))],
            )


def _read_metadata(path: Path) -> tuple[list[object], list[str], str | None]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidFile(f"{path}: expected the JSON document of a FaceFlash index: {error}") from error
    if not isinstance(document, dict):
        raise InvalidFile(f"{path}: expected a JSON object, got {type(document).__name__}")
    labels, paths, count = document.get("labels"), document.get("paths"), document.get("count")
    if not isinstance(labels, list) or not isinstance(paths, list) or not len(labels) == len(paths) == count:
        raise InvalidFile(f"{path}: expected lists `labels` and `paths` of `count` entries each")
    wrong = next((entry for entry in paths if not isinstance(entry, str)), None)
    if wrong is not None:
        raise InvalidFile(f"{path}: expected texts in `paths`, got {wrong!r:.80}")
    embedder = document.get(EMBEDDER)
    return labels, paths, embedder if isinstance(embedder, str) else None
