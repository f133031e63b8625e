"""`FaceFlash` itself: names, photos and positions, in front of a gallery in a private home."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.faceflash.index_files import load_index, save_index
from cluster.faceflash.workplace import Workplace
from cluster.faces import FacePipeline, naming
from cluster.images import ENROLL_BATCH, owner_face, probe_face
from cluster.progress import show_progress
from shard.errors import InvalidImage, InvalidParameter, ModelMismatch
from shard.model import check_code_bits
from shard.types import FloatArray

if TYPE_CHECKING:
    from cluster.gallery import Gallery

_MATCH = 0.4
_SUFFIXES = ("*.jpg", "*.png", "*.jpeg")
_LOG = logging.getLogger(__name__)


class FaceFlash:
    """Faces registered under names, searched by photo. Close it, or let it go: its files are removed then."""

    def __init__(self, index_path: str | None = None, n_bits: int = 512, n_candidates: int = 100) -> None:
        """index_path: loaded if it is there. n_bits: 128, 256, 512 or 1024 bits of code for each face.

        n_candidates: from as many as there are faces on, searches are exhaustive; below, they aim at Facegrid's recall
        of 0.999, which FaceFlash's shortlists have no counterpart of. InvalidParameter, InvalidFile.
        """
        check_code_bits(n_bits)
        self.n_bits = n_bits
        self.n_candidates = _checked_candidates(n_candidates)
        self._workplace = Workplace(n_bits)
        weakref.finalize(self, self._workplace.close)
        self._faces: dict[int, tuple[str, str]] = {}  # number of the registration to name and path, in order
        self._positions: dict[int, int] | None = None
        self._next = 0
        self._origin: str | None = None  # the network of what was loaded, "" if unknown
        if index_path and Path(index_path).exists():
            self.load(index_path)

    @property
    def gallery(self) -> Gallery:
        """The Facegrid gallery behind it."""
        return self._workplace.gallery()

    # Faces

    def register(self, name: str, image_path: str) -> dict[str, Any]:
        """Add the main face of a photo: `{"name", "registered": True, "index_size"}`.

        InvalidImage with its reason where FaceFlash would guess: no face, several alike, one unfit to enroll.
        """
        self._enroll([(name, str(image_path))], self._owner(image_path)[None, :])
        return {"name": name, "registered": True, "index_size": len(self)}

    def register_folder(self, folder_path: str, progress: bool = True) -> dict[str, Any]:
        """Register `folder/<name>/<photo>`, or `folder/<name>_<number>.jpg`: `{"registered", "errors", "total"}`.

        Photos are *.jpg, *.png and *.jpeg at any depth. One that cannot be registered is an error, and logged.
        """
        folder = Path(folder_path)
        photos = [photo for suffix in _SUFFIXES for photo in sorted(folder.rglob(suffix))]
        registered = 0
        with show_progress(progress, "Indexing faces") as tell:
            for start in range(0, len(photos), ENROLL_BATCH):
                part = photos[start : start + ENROLL_BATCH]
                registered += self._register_all(folder, part)
                if tell is not None:
                    tell(start + len(part), len(photos))
        return {"registered": registered, "errors": len(photos) - registered, "total": len(self)}

    def _register_all(self, folder: Path, photos: Sequence[Path]) -> int:
        found: list[tuple[str, str]] = []
        rows: list[FloatArray] = []
        for photo in photos:
            name = photo.parent.name if photo.parent != folder else photo.stem.rsplit("_", 1)[0]
            try:
                rows.append(self._owner(str(photo)))
                found.append((_checked_name(name), str(photo)))
            except (InvalidImage, InvalidParameter) as error:
                del rows[len(found) :]
                _LOG.warning("Failed to register %s: %s", photo, error)
        if found:
            self._enroll(found, np.stack(rows))
        return len(found)

    def _enroll(self, faces: Sequence[tuple[str, str]], rows: FloatArray) -> None:
        numbers = range(self._next, self._next + len(faces))
        self.gallery.enroll(
            rows, identities=[_checked_name(name) for name, _ in faces], template_ids=[str(n) for n in numbers]
        )
        self._next = numbers.stop
        self._faces.update(zip(numbers, faces, strict=True))
        self._positions = None

    def remove(self, name: str) -> int:
        """Remove every face of a name; returns how many. Positions of later faces move up, as FaceFlash's do."""
        gone = [number for number, (owner, _) in self._faces.items() if owner == name]
        if gone:
            self.gallery.delete(identity=name)
            for number in gone:
                del self._faces[number]
            self._positions = None
        return len(gone)

    # Search

    def search(
        self, image_path: str, k: int = 1, threshold: float = 0.4, n_candidates: int | None = None
    ) -> dict[str, Any]:
        """The k nearest faces at or above a cosine.

        `{"matches": [{"name", "confidence", "index"}], "time_ms", "embed_time_ms", "search_time_ms", "index_size"}`,
        matches best first; confidence is the cosine to 4 digits, index the position in order of registration.
        """
        effort = self.n_candidates if n_candidates is None else _checked_candidates(n_candidates)
        start = time.perf_counter()
        probe = _probe(self._pipeline(), image_path)
        embedded = time.perf_counter()
        found = self.gallery.search(probe[None, :], k, exact=effort >= len(self))
        done = time.perf_counter()
        matches = [
            {"name": name, "confidence": round(float(score), 4), "index": self._position(int(template_id))}
            for name, score, template_id in zip(
                found.identities[0], found.scores[0].tolist(), found.template_ids[0], strict=False
            )  # scores are padded
            if score >= threshold
        ]
        return {
            "matches": matches,
            "time_ms": _ms(done - start),
            "embed_time_ms": _ms(embedded - start),
            "search_time_ms": _ms(done - embedded),
            "index_size": len(self),
        }

    def verify(self, image1: str, image2: str) -> dict[str, Any]:
        """Whether two photos show one person, at a cosine above 0.4: `{"match", "confidence", "time_ms"}`."""
        start = time.perf_counter()
        pipeline = self._workplace.cluster().faces
        score = float(np.dot(_probe(pipeline, image1), _probe(pipeline, image2)))
        return {"match": score > _MATCH, "confidence": round(score, 4), "time_ms": _ms(time.perf_counter() - start)}

    def _position(self, number: int) -> int:
        if self._positions is None:
            self._positions = {known: position for position, known in enumerate(self._faces)}
        return self._positions[number]

    # Files

    def save(self, path: str) -> None:
        """Write the index to a directory, in FaceFlash's format; one that is there is replaced, as a whole.

        AlreadyExists if other files are in it too. MissingExtra without pyarrow.
        """
        save_index(self._workplace.cluster(), self.gallery, Path(path), self._faces, self.n_bits, self._network())

    def load(self, path: str) -> None:
        """Replace what is registered by an index that either package saved; it is unchanged if that cannot be read.

        InvalidFile, InvalidEmbedding. An index of FaceFlash's own has embeddings of its network: `register` and
        `search` raise ModelMismatch then, because scores between networks mean nothing; `gallery` can be searched with
        embeddings.
        """
        loaded = load_index(Path(path), self._workplace.fresh)
        self._workplace.use(loaded.gallery)
        self._faces = dict(enumerate(loaded.faces))
        self._next, self._positions = len(self._faces), None
        self._origin = (loaded.embedder or "") if loaded.faces else None

    def stats(self) -> dict[str, Any]:
        """FaceFlash's figures: faces, whether there is a trained model, MB of codes in memory and of floats on disk."""
        stats = self.gallery.stats()
        floats, codes = stats.templates * stats.dim * 4, stats.code_bytes
        return {
            "count": stats.templates,
            "pca_fitted": stats.model_id is not None,
            "rust_backend": True,
            "binary_memory_mb": _mb(codes),
            "float_storage_mb": _mb(floats),
            "float_mode": "mmap (on-disk, paged on demand)",
            "resident_memory_mb": _mb(codes),
            "compression_ratio": round(floats / max(codes, 1), 1),
        }

    def names(self) -> list[str]:
        """The names that have faces, sorted."""
        return sorted({name for name, _ in self._faces.values()})

    def close(self) -> None:
        """Remove the private directory. Idempotent; nothing else works afterwards."""
        self._workplace.close()

    def __len__(self) -> int:
        return len(self._faces)

    def __contains__(self, name: object) -> bool:
        return any(owner == name for owner, _ in self._faces.values())

    def __repr__(self) -> str:
        return f"FaceFlash(registered={len(self)}, people={len(self.names())})"

    # Embedding

    def _owner(self, image: str) -> FloatArray:
        pipeline = self._pipeline()
        with naming(image):
            embedding = owner_face(pipeline.faces(image)).embedding
        assert embedding is not None, "a face that passed the gate has an embedding"
        return embedding

    def _network(self) -> str | None:
        """The network of the faces here: None where FaceFlash's own made them."""
        return self._workplace.embedder if self._origin is None else self._origin or None

    def _pipeline(self) -> FacePipeline:
        if self._network() != self._workplace.embedder:
            made = self._network() or "a network that it does not name"
            raise ModelMismatch(
                f"the loaded index was made by {made}, photos would be embedded by {self._workplace.embedder}: scores"
                " between networks mean nothing; register the photos again, or search `gallery` with embeddings"
            )
        return self._workplace.cluster().faces


def _probe(pipeline: FacePipeline, image: str) -> FloatArray:
    with naming(image):
        embedding = probe_face(pipeline.faces(image, embed_refused=True)).embedding
    assert embedding is not None, "every face is embedded"
    return embedding


def _checked_candidates(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidParameter(f"n_candidates: expected an integer of at least 1, got {value!r}")
    return value


def _checked_name(name: str) -> str:
    from shard.validate import check_label

    return check_label(name, what="name")


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)


def _mb(size: int) -> float:
    return round(size / 1024 / 1024, 2)
