"""From photos to templates and probes: what a gallery's image verbs do with the face pipeline.

Which face of a photo counts, how a photo's template is named, and why a photo was refused are decided here. Nothing
below this module sees an image.
"""

from __future__ import annotations

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
    ModelSpec,
    Photo,
    naming,
    phash,
    read_image,
    select_face,
    thumbnail,
    walk_photos,
)
from cluster.photo_facts import photo_id_of, with_photo_facts
from cluster.results import Box, Candidate, EnrollResult, FolderReport, ImageSearch, Refusal, Template, Verification
from cluster.thumbnails import with_thumbnail, without_reserved
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
    metadata: dict[str, Any]


def box_of(face: Face) -> Box:
    """The face's box as the API gives it."""
    return Box(*(round(float(value), 1) for value in face.box))


def template_id_of(data: bytes, face: int = 0) -> str:
    """Id of a photo's face: BLAKE2b-128 of the file's bytes and the face's number, largest first.

    A repeated enrollment of the same file gives the same id, and so no second template.
    """
    return f"{photo_id_of(data)}.{face}"


def with_facts(metadata: Mapping[str, Any] | None, data: bytes, face: Face, *, limits: ImageLimits) -> dict[str, Any]:
    """Metadata that has what dedup tells photos by as well: see `cluster.photo_facts`. Raises InvalidImage."""
    look = phash(data, limits=limits)
    return with_photo_facts(metadata, photo=photo_id_of(data), phash=look, quality=face.quality.score)


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
    limits = pipeline.options.limits
    data = read_image(image, limits=limits)
    with naming(image):
        face = owner_face(pipeline.faces(data))
    photo = FoundPhoto(data, face, identity, metadata)
    [outcome] = enroll_found(gallery, [photo], keep_thumbnails=keep_thumbnail, limits=limits)
    if isinstance(outcome, InvalidImage):
        raise outcome
    return outcome


@dataclass(frozen=True, slots=True)
class FoundPhoto:
    """A photo whose main face is known, with its embedding, and whose it is said to be."""

    data: bytes
    face: Face
    identity: str | None = None
    metadata: Mapping[str, Any] | None = None


def enroll_found(
    gallery: Gallery,
    photos: Sequence[FoundPhoto],
    *,
    keep_thumbnails: bool = False,
    limits: ImageLimits,
    check_room: Callable[[int], None] = lambda templates: None,
) -> list[EnrollResult | InvalidImage]:
    """Enroll photos by their faces in one durable write; what became of each, in their order.

    A photo that is there already, or twice among these, is skipped; under another identity it is refused
    (duplicate_photo). check_room: told how many templates are to be written, before they are; may raise.
    """
    ids = [template_id_of(photo.data) for photo in photos]
    there = {t.template_id: t.identity for t in gallery.templates(sorted(set(ids)))}
    fresh: dict[str, FoundPhoto] = {}
    outcomes: list[EnrollResult | InvalidImage] = []
    for template_id, photo in zip(ids, photos, strict=True):
        is_fresh = template_id not in there
        if is_fresh:
            fresh[template_id], there[template_id] = photo, photo.identity
        if there[template_id] != photo.identity:
            outcomes.append(_duplicate(there[template_id]))
        else:
            outcomes.append(EnrollResult((template_id,), int(is_fresh), int(not is_fresh)))
    if not fresh:
        return outcomes
    check_room(len(fresh))
    jpegs = [thumbnail(p.data, p.face.box, limits=limits) if keep_thumbnails else None for p in fresh.values()]
    result = gallery.enroll(
        np.stack([_embedding(p.face) for p in fresh.values()]),
        identities=[p.identity for p in fresh.values()],
        template_ids=list(fresh),
        metadata=[
            with_thumbnail(with_facts(p.metadata, p.data, p.face, limits=limits), jpeg)
            for p, jpeg in zip(fresh.values(), jpegs, strict=True)
        ],
        if_exists="skip",
    )
    return outcomes if not result.skipped else _settled(gallery, ids, photos, outcomes, is_new=result.enrolled > 0)


def _settled(
    gallery: Gallery,
    ids: Sequence[str],
    photos: Sequence[FoundPhoto],
    outcomes: Sequence[EnrollResult | InvalidImage],
    *,
    is_new: bool,
) -> list[EnrollResult | InvalidImage]:
    """Outcomes where somebody enrolled some of the files at the same moment. is_new: whether any is ours."""
    there = {t.template_id: t.identity for t in gallery.templates(sorted(set(ids)))}
    found: list[EnrollResult | InvalidImage] = []
    for template_id, photo, outcome in zip(ids, photos, outcomes, strict=True):
        if isinstance(outcome, InvalidImage):
            found.append(outcome)
        elif there.get(template_id, photo.identity) != photo.identity:
            found.append(_duplicate(there[template_id]))
        else:
            found.append(outcome if is_new else EnrollResult((template_id,), 0, 1))
    return found


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
        data = read_image(photo.path, limits=self._limits)
        template_id = template_id_of(data)
        twin = self._pending.get(template_id)
        if twin is None:
            metadata = with_facts(_source(photo, face), data, face, limits=self._limits)
            self._pending[template_id] = _Pending(photo, template_id, face, metadata)
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
                metadata=[p.metadata for p in fresh],
                if_exists="skip",
            )
            self.enrolled += result.enrolled
            self.skipped += result.skipped


def _source(photo: Photo, face: Face) -> dict[str, Any]:
    box = box_of(face)
    name = photo.path.name
    source = name if photo.identity is None else f"{photo.identity}/{name}"
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
            yield Candidate(float(score), template_id, record.identity, without_reserved(record.metadata))


def verify(pipeline: FacePipeline, a: ImageSource, b: ImageSource, *, threshold: float | None) -> Verification:
    """Whether the main faces of two images are the same person's, at a cosine threshold (the embedder's if None)."""
    threshold = threshold_of(pipeline.embedder) if threshold is None else threshold
    return compare(*(_probe(pipeline, image) for image in (a, b)), threshold=threshold)


def threshold_of(embedder: ModelSpec) -> float:
    """The embedder's own threshold of 1:1 verification, a cosine. InvalidParameter where none is known."""
    if embedder.threshold is None:
        raise InvalidParameter(f"no threshold is known for {embedder.name}; give one")
    return embedder.threshold


def compare(face_a: Face, face_b: Face, *, threshold: float) -> Verification:
    """Whether two faces, with their embeddings, are the same person's, at a cosine threshold."""
    score = float(np.dot(_embedding(face_a), _embedding(face_b)))
    return Verification(score, threshold, score >= threshold, box_of(face_a), box_of(face_b))
