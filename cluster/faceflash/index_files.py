"""Index directories of `cluster.faceflash`: those of FaceFlash, written so that FaceFlash reads them too.

Rows stand in order of registration. The codes are FaceFlash's for an index that is not trained: signs of random
projections, whose seed is part of its format; it trains its own quantizer when it has enough faces.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cluster.exports.consistent import consistent_batches
from cluster.imports.arrays import read_embeddings
from cluster.imports.checks import checked
from cluster.imports.faceflash import CODES, EMBEDDER, FLOATS, METADATA, FaceFlashIndex
from shard.errors import AlreadyExists, InvalidFile
from shard.files import RowFile, new_directory, write_file
from shard.types import EnrollBatch, FloatArray

if TYPE_CHECKING:
    from cluster.api import Cluster
    from cluster.gallery import Gallery

_SEED = 42
_OWN = {FLOATS, CODES, METADATA, "quantizer", "clusters.npz"}
Faces = Mapping[int, tuple[str, str]]
"""Number of the registration, its template id, to name and path; in order of registration."""


@dataclass(frozen=True, slots=True)
class LoadedIndex:
    """A gallery whose template ids are 0, 1, … in order of registration; faces: their names and paths."""

    gallery: Gallery
    faces: tuple[tuple[str, str], ...]
    embedder: str | None


def load_index(path: Path, fresh: Callable[[int | None], Gallery]) -> LoadedIndex:
    """Read an index into a gallery that `fresh` makes, of a dimension or of the embedder's (None).

    InvalidFile for a face that cannot be a template too: to leave it out would move those after it.
    """
    dim = _dim_of(path)
    index = FaceFlashIndex(path, 0 if dim is None else dim)
    gallery = fresh(dim)
    done = 0
    for raw in index.batches():
        batch, refused = checked(raw)
        if refused:
            raise InvalidFile(f"{path}: {refused[0].where}: {refused[0].message}")
        ids = [str(done + i) for i in range(len(batch))]
        gallery.enroll(batch.embeddings, identities=batch.identities, template_ids=ids)
        done += len(batch)
    faces = tuple(zip([str(label) for label in index.labels], index.paths, strict=True))
    return LoadedIndex(gallery, faces, index.embedder)


def _dim_of(path: Path) -> int | None:
    """The dimension of the index's floats, None where it is empty."""
    try:
        document = json.loads((path / METADATA).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidFile(f"{path}: expected an index directory with {METADATA}: {error}") from error
    if isinstance(document, dict) and document.get("count") == 0:
        return None
    return int(read_embeddings(path / FLOATS).shape[1])


def save_index(cluster: Cluster, gallery: Gallery, path: Path, faces: Faces, n_bits: int, embedder: str | None) -> None:
    """Write the directory, in the place of an index that is there. AlreadyExists if it has other files too."""
    others = sorted({p.name for p in path.iterdir()} - _OWN) if path.is_dir() else []
    if others or path.is_file():
        raise AlreadyExists(f"{path} has files that are no index's, {others[:3]}; save to a directory of its own")
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {str(number): row for row, number in enumerate(faces)}
    document = {
        "labels": [name for name, _ in faces.values()],
        "paths": [source for _, source in faces.values()],
        "count": len(faces),
        "pca_fitted": False,
        **({} if embedder is None else {EMBEDDER: embedder}),
    }
    with (
        consistent_batches(cluster, gallery.name, path.absolute()) as (_, batches),
        new_directory(path.absolute(), replaces=True) as directory,
    ):
        _write_arrays(directory, batches, rows, gallery.dim, n_bits)
        write_file(directory / METADATA, json.dumps(document).encode())


def _write_arrays(directory: Path, batches: Iterator[EnrollBatch], rows: dict[str, int], dim: int, n_bits: int) -> None:
    projection = _projection(n_bits, dim)
    with ExitStack() as stack:
        floats = stack.enter_context(closing(_Array(directory / FLOATS, len(rows), dim, np.dtype("<f4"))))
        codes = stack.enter_context(closing(_Array(directory / CODES, len(rows), n_bits // 8, np.dtype("u1"))))
        for batch in batches:
            packed = np.packbits(batch.embeddings @ projection.T > 0, axis=1)
            for i, template_id in enumerate(batch.template_ids):
                floats.put(rows[template_id], batch.embeddings[i])
                codes.put(rows[template_id], packed[i])


def _projection(n_bits: int, dim: int) -> FloatArray:
    """(n_bits, dim) float32 directions of unit norm, those that FaceFlash makes for an untrained index."""
    directions: FloatArray = np.random.default_rng(_SEED).standard_normal((n_bits, dim)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return directions


class _Array:
    """A .npy file whose rows are written in any order."""

    def __init__(self, path: Path, rows: int, columns: int, kind: np.dtype[np.generic]) -> None:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": (rows, columns)}
        )
        self._first, self._kind = len(header.getvalue()), kind
        self._row_bytes = columns * kind.itemsize
        self._file = RowFile(path, self._first + rows * self._row_bytes)
        self._file.write_at(0, np.frombuffer(header.getvalue(), np.uint8))

    def put(self, row: int, values: npt.NDArray[np.generic]) -> None:
        """Write one row."""
        self._file.write_at(self._first + row * self._row_bytes, values.astype(self._kind, copy=False))

    def close(self) -> None:
        """Make it durable and close it."""
        self._file.sync()
        self._file.close()
