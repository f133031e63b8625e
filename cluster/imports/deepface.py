"""A deepface datastore: the pickle that `DeepFace.find` leaves in a folder of photos, read without unpickling.

Present versions write `ds_….pkl`, a list of dicts: `identity` (the photo's path), `hash`, `embedding` (a list, or None
where no face was found), `target_x`, `target_y`, `target_w`, `target_h`. Early ones wrote `representations_….pkl`, a
list of lists: path, embedding, and in some four numbers of the box. A photo's folder is its identity, as in
`enroll_folder`; a photo that lies beside the pickle itself has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.imports.pickled import PickleReader
from cluster.imports.records import RawBatch, RefusedRecord, batch_rows, source_metadata
from shard.errors import InvalidFile
from shard.types import FloatArray

_BOX = ("target_x", "target_y", "target_w", "target_h")


@dataclass(frozen=True, slots=True)
class _Face:
    """One record. path: the photo's, box: of the face in its pixels, None where the file does not say."""

    path: str
    embedding: object
    box: tuple[float, ...] | None
    file_hash: str | None


class DeepfaceStore:
    """An opened datastore."""

    total = 0
    embedder: str | None = None

    def __init__(self, path: Path, dim: int) -> None:
        """dim: of the gallery; records of another one are refused one by one."""
        self._path, self._dim = path, dim

    def batches(self) -> Iterator[RawBatch]:
        """See Records; UnsafeFile too."""
        batch = _Batch(self._path, self._dim)
        most = batch_rows(self._dim)
        for number, record in enumerate(PickleReader(self._path).records()):
            batch.add(number, self._face(number, record))
            if batch.size == most:
                yield batch.take()
                batch = _Batch(self._path, self._dim)
        if batch.size:
            yield batch.take()

    def _face(self, number: int, record: object) -> _Face:
        if isinstance(record, dict) and {"identity", "embedding"} <= record.keys():
            path, embedding, file_hash = record["identity"], record["embedding"], record.get("hash")
            box: Sequence[object] = [record.get(name) for name in _BOX]
        elif isinstance(record, list) and len(record) in (2, 6):
            path, embedding, file_hash, box = record[0], record[1], None, record[2:]
        else:
            raise InvalidFile(f"{self._path}: record {number}: expected deepface's fields, got {record!r:.120}")
        if not isinstance(path, str):
            raise InvalidFile(f"{self._path}: record {number}: expected the path of a photo, got {path!r:.80}")
        numbers = tuple(float(v) for v in box if isinstance(v, (int, float)) and not isinstance(v, bool))
        whole = numbers if len(numbers) == 4 and np.isfinite(numbers).all() else None
        return _Face(path, embedding, whole, file_hash if isinstance(file_hash, str) else None)


class _Batch:
    """Records put together, with and without an embedding."""

    def __init__(self, path: Path, dim: int) -> None:
        self._path, self._dim = path, dim
        self._rows: list[FloatArray] = []
        self._faces: list[tuple[int, _Face]] = []
        self._refused: list[RefusedRecord] = []

    @property
    def size(self) -> int:
        """Records, refused ones too."""
        return len(self._rows) + len(self._refused)

    def add(self, number: int, face: _Face) -> None:
        where = _place(number, face)
        if face.embedding is None:
            self._refused.append(RefusedRecord(where, "no_embedding", "deepface found no face in this photo"))
            return
        values = face.embedding
        if not isinstance(values, list) or not all(type(value) in (float, int) for value in values):
            got = f"{type(values).__name__} {values!r:.60}"
            self._refused.append(RefusedRecord(where, "no_embedding", f"expected a list of numbers, got {got}"))
        elif len(values) != self._dim:
            message = f"expected {self._dim} dimensions as the gallery's, got {len(values)}"
            self._refused.append(RefusedRecord(where, "dimension", message))
        else:
            with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
                self._rows.append(np.array(values, dtype=np.float64).astype(np.float32))
            self._faces.append((number, face))

    def take(self) -> RawBatch:
        """The records as a batch."""
        faces = [face for _, face in self._faces]
        return RawBatch(
            embeddings=np.stack(self._rows) if self._rows else np.empty((0, self._dim), np.float32),
            template_ids=(None,) * len(faces),
            identities=[_identity(face.path, self._path) for face in faces],
            metadata=[source_metadata(f.path, box=f.box and list(f.box), hash=f.file_hash) for f in faces],
            sources=[f"{face.path}\0{face.box}" for face in faces],
            places=[_place(number, face) for number, face in self._faces],
            refused=tuple(self._refused),
        )


def _place(number: int, face: _Face) -> str:
    return f"record {number} ({face.path})"


def _identity(photo: str, store: Path) -> str | None:
    """The name of the photo's folder, None where that is the folder of the datastore.

    Paths are as deepface was given them, absolute or relative to where it ran, with either slash.
    """
    folders = [part for part in photo.replace("\\", "/").split("/")[:-1] if part not in ("", ".", "..")]
    if not folders or folders[-1] == store.absolute().parent.name:
        return None
    return folders[-1]
