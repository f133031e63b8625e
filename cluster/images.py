"""From photos to templates and probes: what a gallery's image verbs do with the face pipeline.

Which face of a photo counts, how a photo's template is named, and why a photo was refused are decided here. Nothing
below this module sees an image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.faces import (
    Face,
    FacePipeline,
    ImageLimits,
    ImageSource,
    Photo,
    naming,
    read_image,
    select_face,
    thumbnail,
    walk_photos,
)
from cluster.results import Box, Candidate, EnrollResult, FolderReport, ImageSearch, Refusal, Template, Verification
from cluster.thumbnails import with_thumbnail
from shard.errors import InvalidImage, InvalidParameter
from shard.types import FloatArray
from shard.validate import check_label

if TYPE_CHECKING:
    from cluster.gallery import Gallery

ENROLL_BATCH = 256
"""Faces of one durable write: one fsync for many photos, and little to do again after an interruption."""
RIVAL_AREA = 0.5
"""A second good face this large, relative to the largest, makes it unclear whose photo it is."""

Progress = Callable[[int, int], None]
"""Gets photos done and photos in all."""


@dataclass(frozen=True, slots=True)
class _Pending:
    photo: Photo
    template_id: str
    face: Face


def box_of(face: Face) -> Box:
    """The face's box as the API gives it."""
    return Box(*(round(float(value), 1) for value in face.box))


def template_id_of(data: bytes, face: int = 0) -> str:
    """Id of a photo's face: BLAKE2b-128 of the file's bytes and the face's number, largest first.

    A repeated enrollment of the same file gives the same id, and so no second template.
    """
    return f"{hashlib.blake2b(data, digest_size=16).hexdigest()}.{face}"


def owner_face(faces: tuple[Face, ...]) -> Face:
    """The face whose photo this is: the largest good one, if no other good one comes near its size.

    Raises InvalidImage: no_face, several_faces, or the quality gate's reason.
    """
    chosen = select_face(faces, "largest")
    rivals = [f for f in faces if f.refused is None and f is not chosen and _area(f) >= RIVAL_AREA * _area(chosen)]
    if rivals:
        raise InvalidImage(
            f"expected one main face, found {len(rivals) + 1} of similar size; it is unclear whose photo this is",
            reason="several_faces",
        )
    return chosen


def probe_face(faces: tuple[Face, ...]) -> Face:
    """The face to search with: the largest good one, else the largest. Raises InvalidImage(no_face)."""
    if not faces:
        raise InvalidImage("expected a face, the detector found none", reason="no_face")
    return next((face for face in faces if face.refused is None), faces[0])


def _probe(pipeline: FacePipeline, image: ImageSource) -> Face:
    faces = pipeline.faces(image, embed_refused=True)
    with naming(image):
        return probe_face(faces)


def _area(face: Face) -> float:
    return face.box[2] * face.box[3]


def source_text(name: str) -> str:
    """A file's name as metadata: what is not UTF-8 in it is escaped, so that any file can be told of."""
    return name.encode(errors="backslashreplace").decode()


def enroll_image(
    gallery: Gallery,
    pipeline: FacePipeline,
    image: ImageSource,
    *,
    identity: str | None,
    metadata: Mapping[str, Any] | None,
    keep_thumbnail: bool = False,
) -> EnrollResult:
    """Enroll the main face of one image, named by its content, with a thumbnail of it where that is asked for."""
    data = read_image(image, limits=pipeline.options.limits)
    with naming(image):
        face = owner_face(pipeline.faces(data))
    template_id = template_id_of(data)
    there = gallery.templates([template_id])
    if there and there[0].identity != identity:
        raise _duplicate(there[0].identity)
    jpeg = thumbnail(data, face.box, limits=pipeline.options.limits) if keep_thumbnail and not there else None
    return gallery.enroll(
        _embedding(face)[None, :],
        identities=[identity],
        template_ids=[template_id],
        metadata=[with_thumbnail(metadata, jpeg)],
        if_exists="skip",
    )


def _duplicate(other: str | None) -> InvalidImage:
    return InvalidImage(f"the same file is enrolled as {other!r}", reason="duplicate_photo")


def enroll_folder(
    gallery: Gallery, pipeline: FacePipeline, folder: str | Path, *, progress: Progress | None = None
) -> FolderReport:
    """Enroll `folder/<identity>/<photo>`, one face a photo; durable batch by batch, so it may be repeated.

    A photo is refused, with its reason, rather than guessed at: no face, several faces of similar size, a face that the
    quality gate refuses, the same bytes as another identity's photo, a folder whose name cannot be an identity.
    """
    photos = list(walk_photos(folder))
    run = _FolderRun(gallery, pipeline.options.limits)
    results = pipeline.faces_of_many(photo.path for photo in photos)
    for done, (photo, faces) in enumerate(zip(photos, results, strict=True), start=1):
        try:
            _check_identity(photo)
            if faces.error is not None:
                raise faces.error
            run.add(photo, owner_face(faces.faces))
        except InvalidImage as error:
            run.refuse(photo, error.reason, str(error))
        if progress is not None:
            progress(done, len(photos))
    run.flush()
    refused = tuple(sorted(run.refused, key=lambda refusal: refusal.path))
    return FolderReport(len(photos), run.enrolled, run.skipped, refused)


def _check_identity(photo: Photo) -> None:
    """InvalidImage(bad_name) if the folder's name cannot be an identity."""
    if photo.identity is None:
        return
    try:
        check_label(photo.identity, what="identity, the folder's name")
    except InvalidParameter as error:
        raise InvalidImage(str(error), reason="bad_name") from error


class _FolderRun:
    """Faces on their way into a gallery: named by content, checked against what is there, written in batches."""

    def __init__(self, gallery: Gallery, limits: ImageLimits) -> None:
        self._gallery, self._limits = gallery, limits
        self._pending: dict[str, _Pending] = {}
        self.enrolled = self.skipped = 0
        self.refused: list[Refusal] = []

    def add(self, photo: Photo, face: Face) -> None:
        template_id = template_id_of(read_image(photo.path, limits=self._limits))
        twin = self._pending.get(template_id)
        if twin is None:
            self._pending[template_id] = _Pending(photo, template_id, face)
        elif twin.photo.identity == photo.identity:
            self.skipped += 1
        else:
            self._refuse_duplicate(photo, twin.photo.identity)
        if len(self._pending) >= ENROLL_BATCH:
            self.flush()

    def refuse(self, photo: Photo, reason: str, message: str) -> None:
        self.refused.append(Refusal(photo.path, reason, message))

    def _refuse_duplicate(self, photo: Photo, other: str | None) -> None:
        error = _duplicate(other)
        self.refuse(photo, error.reason, str(error))

    def flush(self) -> None:
        """Write what is pending; a photo that is there under another identity is refused."""
        there = {t.template_id: t.identity for t in self._gallery.templates(list(self._pending))}
        fresh = [p for p in self._pending.values() if p.template_id not in there]
        for known in (p for p in self._pending.values() if p.template_id in there):
            if there[known.template_id] == known.photo.identity:
                self.skipped += 1
            else:
                self._refuse_duplicate(known.photo, there[known.template_id])
        self._pending.clear()
        if fresh:
            result = self._gallery.enroll(
                np.stack([_embedding(p.face) for p in fresh]),
                identities=[p.photo.identity for p in fresh],
                template_ids=[p.template_id for p in fresh],
                metadata=[_metadata(p) for p in fresh],
                if_exists="skip",
            )
            self.enrolled += result.enrolled
            self.skipped += result.skipped


def _metadata(pending: _Pending) -> dict[str, object]:
    box = box_of(pending.face)
    name = pending.photo.path.name
    source = name if pending.photo.identity is None else f"{pending.photo.identity}/{name}"
    return {"source": source_text(source), "box": [box.x, box.y, box.width, box.height]}


def _embedding(face: Face) -> FloatArray:
    assert face.embedding is not None, "a face that passed the gate has an embedding"
    return face.embedding


def search_image(
    gallery: Gallery,
    pipeline: FacePipeline,
    image: ImageSource,
    *,
    k: int,
    recall: float,
    exact: bool,
    threshold: float | None,
    identities: Sequence[str] | None,
    where: Mapping[str, Any] | None,
    target_fpir: float | None = None,
) -> ImageSearch:
    """Candidates for the main face of an image, with their metadata."""
    probes = _embedding(face := _probe(pipeline, image))[None, :]
    batch = gallery.search(
        probes,
        k,
        recall=recall,
        exact=exact,
        threshold=threshold,
        identities=identities,
        where=where,
        target_fpir=target_fpir,
    )
    records = {t.template_id: t for t in gallery.templates(batch.template_ids[0])}
    candidates = tuple(_candidates(batch.template_ids[0], batch.scores[0], records))
    return ImageSearch(box_of(face), candidates, batch.coverage, batch.threshold)


def _candidates(ids: Iterable[str], scores: Iterable[float], records: dict[str, Template]) -> Iterator[Candidate]:
    for template_id, score in zip(ids, scores, strict=False):  # scores are padded
        if template_id in records:  # else deleted since the search
            record = records[template_id]
            yield Candidate(float(score), template_id, record.identity, record.metadata)


def verify(pipeline: FacePipeline, a: ImageSource, b: ImageSource, *, threshold: float | None) -> Verification:
    """Whether the main faces of two images are the same person's, at a cosine threshold (the embedder's if None)."""
    threshold = pipeline.threshold if threshold is None else threshold
    if threshold is None:
        raise InvalidParameter(f"no threshold is known for {pipeline.embedder.name}; give one")
    face_a, face_b = (_probe(pipeline, image) for image in (a, b))
    score = float(np.dot(_embedding(face_a), _embedding(face_b)))
    return Verification(score, threshold, score >= threshold, box_of(face_a), box_of(face_b))
